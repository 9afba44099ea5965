"""Who may import whom. Read from the source, so a late import inside a function counts as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ovseg_ray"
# no room imports one that stands in a later row
ORDER = (
    ("errors", "validation", "config", "progress", "run_directory", "cluster"),
    ("feature_store",),
    ("data", "vocabulary"),
    ("networks",),
    ("methods",),
    ("segmenter", "doctor"),
    ("evaluation",),
    ("training",),
    ("tuning", "serving", "neighbours", "embedding"),
    ("demo_stego",),
    ("demo", "client"),
    ("commands",),
    ("cli",),
)
RANK = {room: rank for rank, row in enumerate(ORDER) for room in row}
WITHOUT_RAY = (
    "methods", "networks", "vocabulary", "segmenter", "feature_store", "data/transforms",
    "errors", "validation", "config",
)  # fmt: skip
METHOD_NAMES = ("clip", "lseg", "stego")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "ovseg_ray" and len(parts) > 1 else None


def within(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


@pytest.mark.parametrize("path", modules(), ids=within)
def test_rooms_import_only_lower_ones(path: Path) -> None:
    own = within(path).split("/")[0]
    if own == "__init__":
        return  # the package's own door: `ovseg_ray.load`
    assert own in RANK, f"{own}: a new room; give it a place in ORDER"
    for dotted, line in imports(path):
        room = room_of(dotted)
        if room in RANK:
            assert RANK[room] <= RANK[own], f"{path}:{line}: {own} imports {dotted}, which lies above it"


@pytest.mark.parametrize("path", modules(), ids=within)
def test_plain_rooms_never_import_ray(path: Path) -> None:
    if within(path).startswith(WITHOUT_RAY):
        for dotted, line in imports(path):
            assert dotted.split(".")[0] != "ray", f"{path}:{line}: imports {dotted}"
            assert room_of(dotted) != "cluster", f"{path}:{line}: reaches Ray through {dotted}"


@pytest.mark.parametrize("path", modules(), ids=within)
def test_nothing_imports_the_command_line(path: Path) -> None:
    if within(path).startswith(("cli", "commands")):
        return
    for dotted, line in imports(path):
        assert room_of(dotted) not in ("cli", "commands"), f"{path}:{line}: imports {dotted}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").rglob("*.py")), ids=within)
def test_training_knows_no_method_by_name(path: Path) -> None:
    for dotted, line in imports(path):
        assert not any(dotted.startswith(f"ovseg_ray.methods.{name}") for name in METHOD_NAMES), f"{path}:{line}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Constant) and node.value in METHOD_NAMES), (
            f"{path}:{node.lineno}: {node.value}"
        )


@pytest.mark.parametrize("path", sorted((PACKAGE / "client").rglob("*.py")), ids=within)
def test_the_client_knows_of_the_server_only_what_goes_over_the_wire(path: Path) -> None:
    for dotted, line in imports(path):
        if room_of(dotted) == "serving":
            assert dotted.startswith("ovseg_ray.serving.api"), f"{path}:{line}: imports {dotted}"


def test_the_plain_door_loads_without_ray() -> None:
    import subprocess
    import sys

    code = "import sys, ovseg_ray; ovseg_ray.load; assert 'ray' not in sys.modules, 'ray was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
