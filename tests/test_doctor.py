from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from ovseg_ray import doctor
from ovseg_ray.cli import main
from ovseg_ray.doctor import Finding, as_json, as_table, healthy

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_constraints_hold_versions_only() -> None:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    assert len(doctor.pins(CONSTRAINTS)) == len(lines)
    names = [line.partition("==")[0].lower() for line in lines]
    assert names == sorted(set(names))


def test_pins_of_a_missing_file(tmp_path: Path) -> None:
    assert doctor.pins(tmp_path / "constraints.txt") == {}


@pytest.mark.parametrize(
    ("found", "pin", "status"),
    [
        ("2.0", "2.0", "ok"),
        ("2.0+cu130", "2.0", "ok"),
        ("2.1", "2.0", "note"),
        ("1.0", "2.0", "failed"),
        (None, "2.0", "failed"),
    ],
)
def test_a_package_against_its_pin(found: str | None, pin: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: found)
    finding = doctor._package("Some_Package", lambda version: version >= "2", pin)
    assert finding.status == status
    assert finding.cure == ("" if status == "ok" else f"{sys.executable} -m pip install Some_Package=={pin}")


def test_every_dependency_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        version = "0.1.0"
        requires = ("torch>=2.12", "pytest>=9; extra == 'dev'", "no_such_package_at_all")

    real = importlib.metadata.distribution
    monkeypatch.setattr(
        importlib.metadata, "distribution", lambda name: Installed if name == "ovseg-ray" else real(name)
    )
    found = by_name(list(doctor.packages()))
    assert set(found) == {"python", "ovseg-ray", "torch", "no_such_package_at_all"}
    assert found["no_such_package_at_all"].status == "failed"


def test_optional_parts_name_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    findings = list(doctor.optional_parts())
    assert all(finding.status == "missing" for finding in findings)
    assert by_name(findings)["faiss-cpu"].cure == f"{sys.executable} -m pip install faiss-cpu"
    assert healthy(findings)


def test_a_part_that_breaks_is_reported_and_the_others_still_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> list[Finding]:
        raise OSError("libtorch.so: cannot open\nshared object")

    monkeypatch.setattr(doctor, "accelerators", broken)
    monkeypatch.setattr(doctor, "ray_starts", broken)
    findings = doctor.examine()
    assert not healthy(findings)
    broken_ones = [finding for finding in findings if finding.name == "OSError"]
    assert [finding.part for finding in broken_ones] == ["accelerators", "Ray"]
    assert "\n" not in broken_ones[0].detail
    assert findings[-1].part == "pretrained weights"


@pytest.mark.parametrize(
    ("mode", "token", "status"),
    [(None, False, "ok"), (None, True, "note"), ("token", True, "ok"), ("disabled", True, "ok")],
)
def test_the_token_trap_is_named(
    mode: str | None, token: bool, status: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if token:
        (tmp_path / "token").write_text("x")
    finding = doctor._auth()
    assert finding.status == status
    assert (finding.cure == "export RAY_AUTH_MODE=token") == (status == "note")


def test_a_shell_that_lacks_the_mode_is_told_so_even_where_the_token_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is put back after what `connect` sets
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("x")
    for part in ("packages", "machine", "accelerators", "optional_parts", "weights"):
        monkeypatch.setattr(doctor, part, lambda: [])
    monkeypatch.setattr(doctor, "ray_starts", lambda address, debug: [doctor._auth()])
    assert main(["doctor", "--address", "127.0.0.1:1", "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["status"], finding["cure"]) == ("note", "export RAY_AUTH_MODE=token")


@pytest.mark.ray
def test_ray_runs_a_task(ray_cluster: None) -> None:
    cluster, _ = doctor.ray_starts(None)
    assert cluster.status == "ok"
    assert "4 CPU" in cluster.detail


def test_table_and_json_say_the_same() -> None:
    findings = [Finding("a", "one", "ok", "1.0"), Finding("b", "two", "failed", "gone", "make install")]
    table = as_table(findings)
    assert "two  gone  ->  make install" in table
    assert table.endswith("1 failed: mend what is marked so")
    assert json.loads(as_json(findings))["findings"][1]["cure"] == "make install"
    assert json.loads(as_json(findings))["healthy"] is False
