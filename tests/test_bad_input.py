"""What a user can get wrong with files, keys and names, and the exact line that docs/bad-input.md shows for it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_ray.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "bad-input.md"
ROW = re.compile(r"^\| (?P<what>[^|]+) \| `(?P<command>[^|]+)` \| (?P<line>.+) \|$")
HEIGHT, WIDTH = 32, 48


def picture(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def sound(root: Path = Path("photos")) -> Path:
    """Two pictures with masks of two classes."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        picture().save(root / "images" / split / "a.jpg")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[16:] = 1
        Image.fromarray(mask).save(root / "masks" / split / "a.png")
    (root / "classes.json").write_text(json.dumps({"classes": ["sky", "road"], "ignore_index": 255}))
    return root


def _mask(value: np.ndarray) -> None:
    Image.fromarray(value).save(sound() / "masks/train/a.png")


def _image(content: bytes) -> None:
    (sound() / "images/train/a.jpg").write_bytes(content)


def _cut() -> None:
    data = (sound() / "images/train/a.jpg").read_bytes()
    (Path("photos") / "images/train/a.jpg").write_bytes(data[: len(data) // 2])


def _empty() -> None:
    Path("photos").mkdir()


def _odd() -> None:
    """Kinds of picture that are taken as they are."""
    root = Path("photos")
    root.mkdir()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(root / "16-bit.png")
    picture("RGBA").save(root / "rgba.png")
    picture("P").save(root / "palette.png")
    picture(size=(1, 1)).save(root / "one-pixel.png")


def _yaml() -> None:
    Path("my.yaml").write_text("training:\n  epochs: [5\n  batch_size: 4\n")


def _notes() -> None:
    sound()
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")


def _run() -> None:
    """What looks like a run, until it is loaded."""
    Path("run/model").mkdir(parents=True)
    Path("run/model/model.json").touch()


def _nothing() -> None:
    return


SETUP: dict[str, Callable[[], object]] = {
    "mask of another size": lambda: _mask(np.zeros((HEIGHT, WIDTH + 1), np.uint8)),
    "class id outside the label set": lambda: _mask(np.full((HEIGHT, WIDTH), 7, np.uint8)),
    "truncated JPEG": _cut,
    "empty file": lambda: _image(b""),
    "no image": lambda: _image(b"hello"),
    "empty data set": _empty,
    "16-bit, RGBA, palette, 1 pixel": _odd,
    "broken YAML": _yaml,
    "directory that is no run": _notes,
    "missing picture": _run,
    "directory of something else": _notes,
}


def rows() -> list[tuple[str, str, str]]:
    found = [ROW.match(line) for line in PAGE.read_text().splitlines()]
    return [(row["what"].strip(), row["command"], row["line"]) for row in found if row and row["command"] != "command"]


@pytest.mark.parametrize(("what", "command", "line"), rows(), ids=[row[0] for row in rows()])
def test_each_row_of_the_page_is_what_happens(
    what: str, command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    SETUP.get(what, _nothing)()
    before = sorted(path for path in tmp_path.rglob("*"))
    words = shlex.split(command)
    assert words.pop(0) == "ovseg-ray"
    code = main(words)
    captured = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    said = [text for text in captured.splitlines() if text.startswith("error: ")]
    if line == "(taken as it is)":
        assert (code, said) == (0, [])
    else:
        assert (code, said) == (2, [line.strip("`")])
    assert sorted(path for path in tmp_path.rglob("*")) == before, "something was left behind"


def test_the_page_covers_what_can_go_wrong() -> None:
    assert {what for what, _, _ in rows()} >= set(SETUP)
    assert len(rows()) >= 20
