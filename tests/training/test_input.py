from __future__ import annotations

import pytest
import torch
from colour_training import ColourTraining
from training_tools import MakeConfig, make_loop

from ovseg_ray.errors import UserError
from ovseg_ray.methods.base import Batch
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.input import Examples, batches, to_device
from ovseg_ray.training.plan import Plan
from ovseg_ray.training.sources import open_sources


def stream(config: RunConfig, rank: int = 0, workers: int = 1, first: int = 0) -> list[list[Batch]]:
    sources = open_sources(config.data, masks=True)
    plan = Plan.of(config.training, len(sources), workers)
    model = ColourTraining.config_class.model_validate(config.model)
    examples = Examples(sources, ColourTraining, model, config.training.seed, cache=config.data.cache_images)
    return list(batches(examples, ColourTraining, plan, config.data, rank=rank, first_step=first, pin=False))


def equal(a: list[list[Batch]], b: list[list[Batch]]) -> bool:
    flat = [(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True)]
    return all(x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x) for x, y in flat)


@pytest.mark.parametrize("data", [{"loader_workers": 1}, {"loader_workers": 2}, {"cache_images": True}])
def test_batches_do_not_depend_on_how_they_are_loaded(make_config: MakeConfig, data: dict) -> None:
    config = make_config(accumulate=2)
    found = stream(config)
    assert (len(found), len(found[0]), len(found[0][0]["image"])) == (6, 2, 4)
    assert equal(stream(make_config(data=data, accumulate=2)), found)


@pytest.mark.ray
def test_ray_data_gives_the_same_batches(ray_cluster: None, make_config: MakeConfig) -> None:
    for rank, first in ((0, 0), (1, 3)):
        expected = stream(make_config(accumulate=2), rank, 2, first)
        assert expected
        assert equal(stream(make_config(data={"input": "ray_data"}, accumulate=2), rank, 2, first), expected)


@pytest.mark.ray
def test_a_mistake_met_by_ray_data_stays_one_line(ray_cluster: None, make_config: MakeConfig) -> None:
    with pytest.raises(UserError) as caught:
        stream(make_config(model={"wrong_at": "train_005"}, data={"input": "ray_data"}))
    assert "train_005" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", [1, 4, 6])
def test_it_starts_at_any_step(make_config: MakeConfig, first: int) -> None:
    config = make_config(accumulate=2)
    assert equal(stream(config, first=first), stream(config)[first:])


def test_ranks_together_see_the_global_batch(make_config: MakeConfig) -> None:
    config = make_config()
    whole = stream(config)
    parts = [stream(config, rank, 2) for rank in range(2)]
    joined = [[{k: torch.cat([a[0][k], b[0][k]]) for k in a[0]}] for a, b in zip(*parts, strict=True)]
    assert equal(joined, whole)


def test_the_same_image_is_augmented_anew_each_epoch(make_config: MakeConfig) -> None:
    first, second = stream(make_config(batch_size=24))
    brightness = [step[0]["image"].mean((1, 2, 3)).sort().values for step in (first, second)]
    assert not torch.allclose(*brightness)


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_an_error_of_the_users_stays_one_line(make_config: MakeConfig, loader_workers: int) -> None:
    config = make_config(model={"wrong_at": "train_005"}, data={"loader_workers": loader_workers})
    with pytest.raises(UserError) as caught:
        stream(config)
    assert str(caught.value).endswith("train_005: is damaged; replace the file")
    assert "\n" not in str(caught.value)


def test_decoded_images_are_kept(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import ovseg_ray.data.dataset as dataset

    reads: list[str] = []
    real = dataset.read_bytes
    monkeypatch.setattr(dataset, "read_bytes", lambda path: reads.append(path) or real(path))
    stream(make_config(data={"cache_images": True}, epochs=3))
    assert len([path for path in reads if "images" in str(path)]) == 24


def test_only_images_change_their_layout(make_config: MakeConfig) -> None:
    batch = stream(make_config())[0][0]
    moved = to_device(batch, torch.device("cpu"), channels_last=True)
    assert moved["image"].is_contiguous(memory_format=torch.channels_last)
    assert moved["target"].is_contiguous()
    assert all(torch.equal(moved[key], batch[key]) for key in batch)
    assert make_loop(make_config(channels_last=True)).method is not None
