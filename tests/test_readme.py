"""Every command and code block that the documents show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_cli import VERBS, parses

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
README = REPOSITORY / "README.md"


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every `ovseg-ray` line in a code block; a trailing backslash joins lines."""
    found = []
    for page in PAGES:
        for language in ("", "bash", "sh", "console"):
            for block in blocks(page.read_text(encoding="utf-8"), language):
                lines = block.replace("\\\n", " ").splitlines()
                found += [(page.name, line.strip()) for line in lines if line.strip().startswith("ovseg-ray ")]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page: str, line: str) -> None:
    parses(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("line", re.findall(r"^\| `ovseg-ray (.+?)` \|", README.read_text(), re.MULTILINE))
def test_commands_of_the_table_parse(line: str) -> None:
    words = [{"N": "8", "S": "0", "METHOD": "lseg"}.get(word, word) for word in shlex.split(line)]
    parses(words)


def test_the_table_has_every_verb() -> None:
    table = re.findall(r"^\| `ovseg-ray (.+?)` \|", README.read_text(), re.MULTILINE)
    assert sorted(verb for verb in VERBS if any(row.startswith(verb) for row in table)) == sorted(VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_first_commands_are_the_two_that_always_work() -> None:
    first = blocks(README.read_text(encoding="utf-8"))[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]


def test_shipped_label_sets_are_listed() -> None:
    text = (REPOSITORY / "docs/how-to/vocabularies.md").read_text(encoding="utf-8")
    for file in (REPOSITORY / "ovseg_ray/vocabulary/sets").glob("*.yaml"):
        assert f"`{file.stem}`" in text
