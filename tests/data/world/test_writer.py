"""The writer on Ray Data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ovseg_ray.data.world import files, write_world, writer
from ovseg_ray.errors import UserError


def _digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize(
    ("arguments", "named"), [((4, 0, 96), "scenes"), ((10, -1, 96), "seed"), ((10, 0, 47), "size")]
)
def test_parameters_are_checked(tmp_path: Path, arguments: tuple[int, int, int], named: str) -> None:
    scenes, seed, size = arguments
    with pytest.raises(UserError, match=named):
        write_world(tmp_path / "world", scenes, seed, size=size)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_bytes_do_not_depend_on_blocks_and_match_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    one = write_world(tmp_path / "one", 45, 7, size=48, progress=lambda done, total: calls.append((done, total)))
    monkeypatch.setattr(writer, "_MIN_BLOCK", 6)
    several = write_world(tmp_path / "several", 45, 7, size=48)
    plain, generator = tmp_path / "plain", {"version": files.VERSION, "scenes": 45, "seed": 7, "size": 48}
    with files.built_aside(plain) as aside:
        files.write_annotations(aside, [files.write_scene(aside, 7, i, 48) for i in range(45)], generator)

    assert _digests(one) == _digests(several) == _digests(plain)
    assert calls[-1] == (45, 45)
    assert {p.name for p in tmp_path.iterdir()} == {"one", "several", "plain"}

    stamp = (one / "classes.json").stat().st_mtime_ns
    assert write_world(one, 45, 7, size=48) == one
    assert (one / "classes.json").stat().st_mtime_ns == stamp
