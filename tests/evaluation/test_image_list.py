from __future__ import annotations

from pathlib import Path

import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.image_list import list_images, output_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def relative(paths: list[Path], folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in paths]


def test_files_folders_and_patterns_once_each(folder: Path) -> None:
    assert relative(list_images([folder]), folder) == ["a.PNG", "b.jpg", "sub/c.webp"]
    assert relative(list_images([folder / "b.jpg", folder, str(folder / "*.jpg")]), folder)[0] == "b.jpg"
    assert len(list_images([folder / "b.jpg", folder, str(folder / "*.jpg")])) == 3
    assert relative(list_images([str(folder / "**/*.webp")]), folder) == ["sub/c.webp"]
    assert relative(list_images([folder / "notes.txt", folder / "gone.png"]), folder) == ["notes.txt", "gone.png"]


@pytest.mark.parametrize(("source", "words"), [("empty", "holds no images"), ("*.gif", "no image matches")])
def test_sources_without_images(folder: Path, source: str, words: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        list_images([str(folder / source)])


def test_files_of_which_none_is_there(folder: Path) -> None:
    with pytest.raises(UserError, match=r"/gone.png: no such file; name image files"):
        list_images([folder / "gone.png"])
    with pytest.raises(UserError, match=r"/gone.png: no such file \(nor are the others there\); name"):
        list_images([folder / "gone.png", folder / "gone.jpg"])


def test_no_source() -> None:
    with pytest.raises(UserError, match="no images given"):
        list_images([])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/a.jpg", "/y/b.jpg"], ["a", "b"]),
        (["/x/a.jpg", "/y/a.jpg", "/x/b.jpg"], ["x_a_jpg", "y_a_jpg", "b"]),
        (["/x/a.jpg", "/x/a.png"], ["x_a_jpg", "x_a_png"]),
        (["/x/a.jpg", "/x/A.png"], ["x_a_jpg", "x_A_png"]),
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    assert output_names(list(map(Path, paths))) == names


def test_names_never_collide_and_do_not_depend_on_order() -> None:
    paths = [Path(p) for p in ("/p/x/a.jpg", "/q/x/a.jpg", "/x/a.jpg", "/x/a.png", "/z/x_a_png.jpg", "/y/A.JPG")]
    names = output_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    backwards = output_names(paths[::-1])
    assert backwards[::-1] == names
