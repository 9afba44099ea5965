from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import pytest
from test_cli import parses

from ovseg_ray.training.config import resolve_config

JOBS = Path(__file__).parents[1] / "jobs"
SCRIPTS = sorted(JOBS.glob("*.py"))


def test_each_command_that_does_work_has_a_script() -> None:
    assert [script.stem for script in SCRIPTS] == [
        "calibrate",
        "demo",
        "embed",
        "evaluate",
        "name",
        "neighbours",
        "predict",
        "serve",
        "train",
        "tune",
        "world",
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_is_that_of_the_command(
    script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"Usage: ovseg-ray {script.stem} ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_arguments_are_passed_on_and_the_exit_code_back(
    script: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--no-such-option"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_line_in_its_docstring_parses(script: Path) -> None:
    (line,) = [line.strip() for line in script.read_text().splitlines() if line.strip().startswith("python jobs/")]
    assert line.startswith(f"python jobs/{script.name} ")
    parses([script.stem, *shlex.split(line)[2:]])


@pytest.mark.parametrize("file", sorted((JOBS / "configs").glob("lseg_*.yaml")), ids=lambda path: path.stem)
def test_job_configurations_fit_their_method(file: Path) -> None:
    assert resolve_config("lseg", str(file), {}).method == "lseg"
