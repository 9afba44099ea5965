"""Workers join and leave; the curve does not know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from training_tools import MakeConfig, curve, make_loop, tell_deviation

from ovseg_ray.training.metrics import read_metrics


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_node_joins_and_is_drained(make_config: MakeConfig, tmp_path: Path) -> None:
    starts, hurry = tmp_path / "starts", tmp_path / "hurry"
    starts.mkdir()
    config = make_config({"norm": True}, epochs=110, checkpoint_every=1, ema_decay=0.9, validate_every=0, log_every=1)
    pace = {"starts": str(starts), "hurry": str(hurry), "seconds": 0.04}
    slow = config.model_copy(update={"model": {**config.model, **pace}})
    words = [json.dumps(slow.model_dump(mode="json")), str(tmp_path / "run"), str(starts), str(hurry)]
    script = Path(__file__).with_name("elastic_run.py")
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["trouble"] == []
    assert said["world_sizes"][0] == 1
    assert 2 in said["world_sizes"]
    assert said["world_sizes"][-1] == 1
    found = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl")[0] if "loss" in record]
    expected = curve(make_loop(config))
    assert [record["step"] for record in found] == [record["step"] for record in expected]
    tell_deviation([record["loss"] for record in found], [record["loss"] for record in expected])
    for record, wanted in zip(found, expected, strict=True):
        assert record["loss"] == pytest.approx(wanted["loss"], rel=1e-4, abs=1e-5), record["step"]
