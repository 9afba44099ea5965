from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from training_tools import MakeConfig, curve, make_loop

from ovseg_ray.errors import UserError
from ovseg_ray.training.checkpoint import (
    EMA_FILE,
    MODEL_FILE,
    STATE_FILE,
    checkpoint_name,
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    remove_partial,
    save_checkpoint,
)
from ovseg_ray.training.loop import Loop


@pytest.fixture
def trained(make_config: MakeConfig) -> Loop:
    loop = make_loop(make_config(model={"norm": True}, epochs=1, ema_decay=0.9))
    curve(loop)
    return loop


def test_what_was_saved_comes_back(trained: Loop, make_config: MakeConfig, tmp_path: Path) -> None:
    save_checkpoint(trained, tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [EMA_FILE, MODEL_FILE, STATE_FILE]
    other = make_loop(trained.config)
    load_checkpoint(other, tmp_path / "c")
    assert (other.step, other.seconds) == (trained.step, trained.seconds)
    assert other.ema.updates == trained.ema.updates == 3
    for name, value in trained.method.state_dict().items():
        assert torch.equal(other.method.state_dict()[name], value)
    before, after = trained.optimizer.state_dict(), other.optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for key, state in before["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(after["state"][key][name]), torch.as_tensor(value)), name


def test_the_weights_it_stands_for_are_the_average(trained: Loop, tmp_path: Path) -> None:
    save_checkpoint(trained, tmp_path / "c")
    method = make_loop(trained.config).method
    load_weights(method, tmp_path / "c")
    for name, value in method.state_dict().items():
        expected = trained.ema.average.get(name, trained.method.state_dict()[name])
        assert torch.equal(value, expected), name
    (tmp_path / "c" / EMA_FILE).unlink()
    load_weights(method, tmp_path / "c")
    assert torch.equal(method.head.weight, trained.method.head.weight)


@pytest.mark.parametrize("name", [EMA_FILE, MODEL_FILE, STATE_FILE])
@pytest.mark.parametrize("damage", ["cut", "gone", "rubbish"])
def test_damage_is_named(trained: Loop, tmp_path: Path, name: str, damage: str) -> None:
    save_checkpoint(trained, tmp_path / "c")
    path = tmp_path / "c" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else os.urandom(1000))
    with pytest.raises(UserError, match="damaged checkpoint") as caught:
        load_checkpoint(make_loop(trained.config), tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_any_rubbish_is_damage(trained: Loop, tmp_path: Path) -> None:
    # the unpickler fails on it in a dozen ways; both are what a legacy file may start with
    save_checkpoint(trained, tmp_path / "c")
    loop = make_loop(trained.config)
    for seed in range(200):
        rubbish = random.Random(seed).randbytes(1000)
        (tmp_path / "c" / STATE_FILE).write_bytes(rubbish if seed % 2 else b"\x80\x02" + rubbish)
        with pytest.raises(UserError, match="damaged checkpoint"):
            load_checkpoint(loop, tmp_path / "c")


def test_a_failed_write_leaves_nothing(trained: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_checkpoint(trained, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_is_the_highest_whole_one(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "missing") is None
    assert newest_checkpoint(tmp_path) is None
    for name in (checkpoint_name(5), checkpoint_name(100), f".{checkpoint_name(200)}.0a.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / ".metrics.0a.partial").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / checkpoint_name(100)
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint_name(5), checkpoint_name(100)]
