"""`make` and `.ci/install` on machines that lack something; the whole install is what CI itself does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  "-c import sys; sys.exit(sys.version_info < (3, 11))") exit {too_old};;
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  "-m pip --version") ;;
  "-m pip install"*) echo "Collecting torch"; echo "$@" >>pip-calls; exit {pip};;
  "--version") echo "Python 3.11.7";;
  *) echo "unexpected: $*" >&2; exit 99;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what installing reads, and a `python3` that only pretends."""
    (tmp_path / ".ci").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/install"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def python(checkout: Path, *, too_old: int = 0, pip: int = 0) -> Path:
    path = checkout / "fake-python"
    path.write_text(FAKE_PYTHON.format(too_old=too_old, pip=pip))
    path.chmod(0o755)
    return path


def make(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", *words], cwd=checkout, capture_output=True, text=True, timeout=60, env=environment)


def test_first_install_then_nothing_to_do(checkout: Path) -> None:
    first = make(checkout, "install", f"PYTHON={python(checkout)}")
    assert first.returncode == 0, first.stderr
    assert "6 GB" in first.stdout
    assert (checkout / ".venv/.installed").is_file()
    assert (checkout / "pip-calls").read_text().splitlines() == [
        "-m pip install --progress-bar off --no-input -c constraints.txt -e .[dev]"
    ]
    second = make(checkout, "install")
    assert second.returncode == 0
    assert "install:" not in second.stdout


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_installs_again_into_the_same_environment(checkout: Path, file: str) -> None:
    make(checkout, "install", f"PYTHON={python(checkout)}")
    (checkout / ".venv/kept").touch()
    later = (checkout / ".venv/.installed").stat().st_mtime + 10
    os.utime(checkout / file, (later, later))
    assert make(checkout, "install").returncode == 0
    assert len((checkout / "pip-calls").read_text().splitlines()) == 2
    assert (checkout / ".venv/kept").exists()


def test_a_failed_install_is_not_taken_as_whole(checkout: Path) -> None:
    failed = make(checkout, "install", f"PYTHON={python(checkout, pip=1)}")
    assert failed.returncode != 0
    assert "error: pip could not install" in failed.stderr
    assert not (checkout / ".venv/.installed").exists()
    again = make(checkout, "install", f"PYTHON={python(checkout)}")
    assert again.returncode == 0, again.stderr
    assert "making it anew" in again.stdout
    assert (checkout / ".venv/.installed").is_file()


@pytest.mark.parametrize("target", ["install", "demo", "test", "lint"])
def test_too_old_a_python_is_said_plainly(checkout: Path, target: str) -> None:
    done = make(checkout, target, f"PYTHON={python(checkout, too_old=1)}")
    assert done.returncode != 0
    assert "no Python 3.11 or newer found" in done.stderr
    assert not (checkout / ".venv").exists()


def test_ci_runs_lint_and_tests() -> None:
    script = REPOSITORY / ".ci/run"
    assert os.access(script, os.X_OK)
    assert [line for line in script.read_text().splitlines() if line.startswith("make")] == [
        "make lint",
        "make test",
        "make test-slow",
    ]
