from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from colour_training import ColourPairs
from training_tools import MakeConfig, curve, make_loop, tell_deviation

from ovseg_ray.errors import UserError
from ovseg_ray.training.checkpoint import load_checkpoint, save_checkpoint
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.loop import Loop, Worker


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in records]


def weights(loop: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in loop.method.parameters()])


def test_it_learns_and_says_so(make_config: MakeConfig) -> None:
    records = curve(make_loop(make_config(epochs=6)))
    assert [record["step"] for record in records] == list(range(1, 19))
    assert records[2]["epoch"] == 1
    assert records[-1]["loss"] < 0.2 * records[0]["loss"]
    for record in records:
        assert record["loss"] == pytest.approx(record["loss/ce"] + record["loss/size"])
        assert record["grad_norm"] > 0
        assert record["images_per_second"] > 0
    assert records[0]["lr"] == 0.03
    assert records[-1]["seconds"] > records[0]["seconds"] > 0


def test_what_is_logged_and_when_checkpoints_are_due(make_config: MakeConfig) -> None:
    loop = make_loop(make_config(epochs=3, log_every=4, checkpoint_every=2, validate_every=1.5))
    logged, saved = [], []
    loop.run(lambda record: logged.append(record["step"]), lambda validate: saved.append((loop.step, validate)))
    assert logged == [1, 4, 8, 9]
    assert saved == [(4, True), (6, False), (8, True), (9, True)]
    never = make_loop(make_config(epochs=1, validate_every=0))
    saved.clear()
    never.run(lambda record: None, lambda validate: saved.append((never.step, validate)))
    assert saved == [(3, False)]


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_gives_the_same_training(make_config: MakeConfig, accumulate: int) -> None:
    whole, parts = make_loop(make_config()), make_loop(make_config(accumulate=accumulate))
    # ignored rows make micro-batches cover different numbers of pixels
    assert losses(curve(parts)) == pytest.approx(losses(curve(whole)), rel=1e-5)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-6)


def state(loop: Any) -> torch.Tensor:
    """Running statistics, those of the moving average included."""
    average = loop.ema.average.items() if loop.ema else ()
    return torch.cat([t.float().flatten() for name, t in (*loop.method.named_buffers(), *average)] or [torch.zeros(0)])


def _rank(rank: int, workers: int, port: int, config: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    results = []
    for text in json.loads(config):
        loop = make_loop(RunConfig.model_validate(text), worker=Worker(rank, workers))
        results.append({"losses": losses(curve(loop)), "weights": weights(loop).tolist()})
        results[-1]["state"] = state(loop).tolist()
        del loop
    gc.collect()  # a DDP module that outlives its group aborts the process at exit, one time in five
    if rank == 0:
        Path(out).write_text(json.dumps(results))
    dist.destroy_process_group()


NORMED = {"norm": True}


# of a batch of 8: three have unequal shares
@pytest.mark.parametrize("workers", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_processes_gives_the_training_of_one(
    make_config: MakeConfig, tmp_path: Path, free_port: int, workers: int
) -> None:
    configs = [
        make_config(),
        make_config(accumulate=2, clip_norm=1.0, ema_decay=0.9),
        make_config(NORMED, epochs=18),  # statistics over the whole batch: across the workers
        make_config(NORMED, batch_norm_images=2, ema_decay=0.9),  # within a worker
        make_config(NORMED, precision="bf16"),
        make_config(NORMED, accumulate=2),
    ]
    if workers != 3:  # within a worker of two, across two of four
        configs.append(make_config(NORMED, batch_norm_images=4))
    text = json.dumps([config.model_dump(mode="json") for config in configs])
    mp.spawn(_rank, (workers, free_port, text, str(tmp_path / "out.json")), nprocs=workers)
    for config, found in zip(configs, json.loads((tmp_path / "out.json").read_text()), strict=True):
        alone = make_loop(config)
        if config.training.precision == "bf16":  # rounded to three digits, and convolutions round by their batch
            assert found["losses"] == pytest.approx(losses(curve(alone)), abs=0.03)
            continue
        expected = losses(curve(alone))
        tell_deviation(found["losses"], expected)
        assert found["losses"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(torch.tensor(found["weights"]), weights(alone), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.tensor(found["state"]), state(alone), rtol=1e-4, atol=1e-5)


def test_batch_statistics_follow_their_group(make_config: MakeConfig) -> None:
    whole, groups = make_loop(make_config(NORMED)), make_loop(make_config(NORMED, batch_norm_images=4))
    assert losses(curve(groups)) != pytest.approx(losses(curve(whole)), rel=1e-3)
    with pytest.raises(UserError, match="batch_norm_images = 3: does not fit a batch of 8 images on 1 workers"):
        make_loop(make_config(NORMED, batch_norm_images=3))
    make_loop(make_config(batch_norm_images=3))  # nothing to normalise


@pytest.mark.parametrize("stop", [1, 3, 4])
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"accumulate": 2, "ema_decay": 0.99, "schedule": {"name": "poly", "warmup_steps": 2}},
        {"optimizer": {"name": "sgd", "lr": 0.1}, "precision": "bf16"},
        {"optimizer": {"name": "adam", "lr": 0.01}, "precision": "fp16", "clip_norm": 1.0},
    ],
)
def test_a_resumed_training_is_the_unbroken_one(
    make_config: MakeConfig, tmp_path: Path, stop: int, training: dict
) -> None:
    config = make_config(model={"dropout": 0.3, "norm": True}, **training)
    unbroken = make_loop(config)
    whole = curve(unbroken)

    class Stop(Exception):
        pass

    def log(record: dict[str, Any]) -> None:
        if record["step"] == stop:
            save_checkpoint(first, tmp_path / "checkpoint")
            raise Stop

    first = make_loop(config)
    with pytest.raises(Stop):
        first.run(log, lambda validate: None)
    again = make_loop(config.model_copy(update={"training": config.training}))
    load_checkpoint(again, tmp_path / "checkpoint")
    assert again.step == stop
    rest = curve(again)
    assert [r["step"] for r in rest] == [r["step"] for r in whole[stop:]]
    assert losses(rest) == losses(whole[stop:])
    for key, value in unbroken.method.state_dict().items():
        assert torch.equal(value, again.method.state_dict()[key]), key
    if unbroken.ema and again.ema:
        assert all(torch.equal(v, again.ema.average[k]) for k, v in unbroken.ema.average.items())


def test_a_training_in_stretches_is_the_unbroken_one(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(model={"norm": True}, epochs=3, validate_every=3, checkpoint_every=3)
    whole = curve(make_loop(config))
    records: list[dict[str, Any]] = []
    for until in (0.7, 2.0, None):
        loop, saved = make_loop(config), []
        if records:
            load_checkpoint(loop, tmp_path / "checkpoint")

        def checkpoint(validate: bool, loop: Loop = loop, saved: list[Any] = saved) -> None:
            save_checkpoint(loop, tmp_path / "checkpoint")
            saved.append((loop.step, validate))

        loop.run(records.append, checkpoint, until=until)
        assert saved == [(loop.plan.step_at(until), True)]
        loop.run(records.append, checkpoint, until=until)  # nothing is left to do
        assert len(saved) == 1
    assert losses(records) == losses(whole)
    assert [record["lr"] for record in records] == [record["lr"] for record in whole]


def test_a_rate_of_zero_freezes(make_config: MakeConfig) -> None:
    loop = make_loop(make_config(optimizer={"backbone_lr_scale": 0}))
    before = {name: p.clone() for name, p in loop.method.named_parameters()}
    curve(loop)
    for name, parameter in loop.method.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("backbone"), name


def test_groups_keep_their_rates(make_config: MakeConfig) -> None:
    config = make_config(
        model={"norm": True}, optimizer={"lr": 0.1, "backbone_lr_scale": 0.1, "weight_decay": 0.2},
        schedule={"name": "poly", "power": 1},
    )  # fmt: skip
    loop = make_loop(config)
    curve(loop)
    last = 1 / 6
    assert [g["lr"] for g in loop.optimizer.param_groups] == pytest.approx([0.01 * last, 0.2 * last, 0.1 * last])
    assert [g["weight_decay"] for g in loop.optimizer.param_groups] == [0.2, 0.2, 0.0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns_and_keeps_fp32_weights(make_config: MakeConfig, precision: str) -> None:
    loop = make_loop(make_config(epochs=6, precision=precision))
    records = curve(loop)
    assert records[-1]["loss"] < 0.3 * records[0]["loss"]
    assert {p.dtype for p in loop.method.parameters()} == {torch.float32}
    full = curve(make_loop(make_config(epochs=6)))
    assert records[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.02)
    assert records[0]["loss"] != full[0]["loss"]


def test_clipping_bounds_the_step(make_config: MakeConfig) -> None:
    loop = make_loop(make_config(epochs=0.3, clip_norm=1e-3, optimizer={"name": "sgd", "lr": 1.0, "momentum": 0.0}))
    before = weights(loop)
    record = curve(loop)[0]
    assert record["grad_norm"] > 1e-2  # as it was before clipping
    assert float((weights(loop) - before).norm()) < 2.1e-3


def test_memory_layout_changes_nothing(make_config: MakeConfig) -> None:
    loop = make_loop(make_config(channels_last=True))
    assert losses(curve(loop)) == pytest.approx(losses(curve(make_loop(make_config()))), rel=1e-4)


def test_compilation_is_asked_of_the_losses(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, compiled = losses(curve(make_loop(make_config()))), []
    real = torch.compile

    def eager(target: Any, *args: Any, **kwargs: Any) -> Any:
        compiled.append(target)
        return real(target, *args, **{**kwargs, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", eager)
    assert losses(curve(make_loop(make_config(compile=True)))) == pytest.approx(plain, rel=1e-5)
    assert len(compiled) == 1


def test_a_loss_that_is_no_number_ends_the_training(make_config: MakeConfig) -> None:
    loop = make_loop(make_config(model={"nan_at": "train_007"}, batch_size=4))
    saved: list[bool] = []
    with pytest.raises(UserError, match=r"step \d+: the loss is not finite on images .*train_007") as caught:
        loop.run(lambda record: None, saved.append)
    assert "training.optimizer.lr" in str(caught.value)
    assert saved == []  # nothing broken is ever saved


def test_a_method_without_masks(make_config: MakeConfig) -> None:
    records = curve(make_loop(make_config(), ColourPairs))
    assert records[-1]["loss"] < records[0]["loss"]


def test_images_that_are_ignored_wholly_do_no_harm(make_config: MakeConfig) -> None:
    held_out = {"sources": [{"path": make_config().data.sources[0].path, "held_out": ["red", "green", "blue"]}]}
    records = curve(make_loop(make_config(data=held_out, batch_size=1, epochs=1)))
    assert all(torch.isfinite(torch.tensor(losses(records))))


@pytest.mark.parametrize("able", [True, False])
def test_auto_is_bf16_only_where_the_device_is_built_for_it(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": able})
    found, named = (
        curve(make_loop(make_config(epochs=0.5, precision=precision)))
        for precision in ("auto", "bf16" if able else "fp32")
    )
    assert [record["loss"] for record in found] == [record["loss"] for record in named]
