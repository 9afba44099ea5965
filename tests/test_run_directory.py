from __future__ import annotations

from pathlib import Path

import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.run_directory import RunDirectory, write_atomically, write_directory_atomically

CONFIG = {
    "method": "lseg",
    "training": {"epochs": 2.0, "optimizer": {"lr": 1e-5}},
    "data": {"sources": [{"path": "é"}]},
}


def test_a_new_run_holds_its_configuration(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a" / "run", CONFIG, resume=False)
    assert run.config_file.is_file()
    assert not run.finished
    assert RunDirectory.create(run.path, CONFIG, resume=True) == run


def test_resume_of_nothing_is_a_new_run(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path / "run", CONFIG, resume=True).config_file.is_file()
    (tmp_path / "empty").mkdir()
    assert RunDirectory.create(tmp_path / "empty", CONFIG, resume=False).config_file.is_file()


@pytest.mark.parametrize("resume", [True, False])
def test_a_different_run_is_named_by_its_first_difference(tmp_path: Path, resume: bool) -> None:
    RunDirectory.create(tmp_path / "run", CONFIG, resume=False)
    other = {**CONFIG, "training": {"epochs": 2.0, "optimizer": {"lr": 2e-5}}}
    way = "leave that as it was to continue, or choose another --out" if resume else "choose another --out"
    with pytest.raises(UserError, match=rf"different run \(training.optimizer.lr differs\); {way}$"):
        RunDirectory.create(tmp_path / "run", other, resume=resume)


def test_the_same_run_wants_resume(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", CONFIG, resume=False)
    with pytest.raises(UserError, match="add --resume"):
        RunDirectory.create(tmp_path / "run", CONFIG, resume=False)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.touch(), "is a file"),
        (lambda path: (path / "thesis").mkdir(parents=True), "is not empty and holds no run"),
        (lambda path: (path.mkdir(), (path / "config.yaml").write_text("a: [")), "not valid YAML"),
    ],
)
def test_what_is_no_run_is_left_alone(tmp_path: Path, make: object, text: str) -> None:
    make(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=text):
        RunDirectory.create(tmp_path / "run", CONFIG, resume=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_under_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        RunDirectory.create(tmp_path / "file" / "run", CONFIG, resume=False)


def test_only_finished_runs_open(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        RunDirectory.open(tmp_path / "run")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="is not a run directory"):
        RunDirectory.open(tmp_path / "other")
    run = RunDirectory.create(tmp_path / "run", CONFIG, resume=False)
    with pytest.raises(UserError, match="has not finished"):
        RunDirectory.open(run.path)
    run.model.mkdir()
    (run.model / "model.json").touch()
    assert RunDirectory.open(str(run.path)) == run


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "file"
    write_atomically(path, "first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="file: cannot be written"):
        write_atomically(path, "third")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_directory_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a" / "model"
    write_directory_atomically(path, lambda partial: (partial / "one").touch())
    write_directory_atomically(path, lambda partial: (partial / "two").touch())
    assert [p.name for p in path.iterdir()] == ["two"]

    def fail(partial: Path) -> None:
        (partial / "three").touch()
        raise KeyError

    with pytest.raises(KeyError):
        write_directory_atomically(path, fail)
    assert [p.name for p in path.parent.iterdir()] == ["model"]
    assert [p.name for p in path.iterdir()] == ["two"]


def test_what_a_killed_writer_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.yaml.0a1b2c3d.partial").touch()
    assert RunDirectory.create(path, {"a": 1}, resume=True).config_file.is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(UserError, match="holds no run"):
        RunDirectory.create(tmp_path / "other", {"a": 1}, resume=True)
