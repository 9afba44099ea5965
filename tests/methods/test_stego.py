"""STEGO as a method: the common contract, and training from a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from contract import MethodContract, text_table
from pydantic import ValidationError
from torch import Tensor

from ovseg_ray.config import TrainingConfig
from ovseg_ray.data import open_dataset
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.neighbour_table import TableInfo, table_part, write_table
from ovseg_ray.feature_store.store import FeatureStore, StoredRow, StoreInfo, finish_store, start_store, write_part
from ovseg_ray.feature_store.vectors import open_vectors
from ovseg_ray.methods import get_method
from ovseg_ray.methods.base import Batch, Encoding, Method
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.transform import StegoTransform, open_store, open_table
from ovseg_ray.segmenter import Segmenter
from ovseg_ray.training import train
from ovseg_ray.training.config import resolve_config

ROWS, CLASSES, SIDE = 6, 3, 32
JOB = {
    "encoder": {"name": "small", "channels": [8, 8, 8, 16], "stride": 8},
    "squares": {"size": SIDE},
}


def make_store(path: Path, *, masks: bool = True) -> FeatureStore:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(ROWS):
        features = rng.normal(size=(8, 4, 4)).astype(np.float32)
        vector = features.mean((1, 2)) / np.linalg.norm(features.mean((1, 2)))
        mask = rng.integers(0, CLASSES, (SIDE, SIDE), dtype=np.uint8)
        mask[:8] = 255
        rows.append(StoredRow(f"sample {index}", vector, features, mask if masks else None))
    start_store(path, JOB)
    write_part(path, 0, rows, [], "float16")
    (path / "manifest.json").write_text("{}")
    features_hash = open_vectors(path).fingerprint()
    labels = ("a", "b", "c") if masks else ()
    return finish_store(path, StoreInfo(JOB, ROWS, ROWS, (), 8, (4, 4), "float16", 0.0, features_hash, labels))


def make_table(path: Path, features: str, removed: tuple[str, ...] = ("self",)) -> Path:
    ids = [f"sample {row}" for row in range(ROWS)]
    near = [[ids[(row + step) % ROWS] for step in range(len(removed), 4)] for row in range(ROWS)]
    flat = [name for names in near for name in names]
    part = table_part(pa.array(ids), pa.array(flat), np.zeros(len(flat), np.float32), np.full(ROWS, len(near[0])))
    write_table(path, [part], TableInfo(features, 4, "flat", 1.0, removed))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make_store(tmp_path_factory.mktemp("stego") / "store")


@pytest.fixture(scope="module")
def table(store: FeatureStore) -> Path:
    return make_table(store.path.parent / "near.parquet", store.info.features)


@pytest.fixture
def config(store: FeatureStore, table: Path) -> StegoConfig:
    correspondence = {"points": 3, "negatives": 2}
    return StegoConfig(
        features=str(store.path), neighbours=str(table), width=6, correspondence=correspondence, name_width=16
    )


class TestContract(MethodContract):
    @pytest.fixture(autouse=True)
    def _config(self, config: StegoConfig) -> None:
        self.config = config

    def method(self) -> Method:
        torch.manual_seed(0)
        method = Stego(self.config)
        method.use_text_encoder(text_table())
        method.name_clusters(torch.randn(3, 16))
        return method.train()

    def batch(self, method: Method) -> Batch:
        dataset = open_dataset(self.config.features or "")
        transform = type(method).transform(method.config)
        examples = [transform(dataset.decoded(i), 0, np.random.default_rng(i)) for i in range(ROWS)]
        return type(method).collate(examples)

    def upsampled(self, method: Method, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> Tensor:
        scores = method.scores(encoding, text)
        padded = [length * 8 for length in scores.shape[2:]]
        for axis, (length, full, out) in enumerate(zip(encoding.size, padded, size, strict=True), start=2):
            places = scores.shape[axis]
            at = ((torch.arange(out) + 0.5) * length / out / full * places - 0.5).clamp(0, places - 1)
            low = at.floor().long().clamp(max=max(places - 2, 0))
            high = (low + 1).clamp(max=places - 1)
            shape = [-1 if a == axis else 1 for a in range(4)]
            weight = (at - low).view(shape)
            scores = scores.index_select(axis, low) * (1 - weight) + scores.index_select(axis, high) * weight
        return scores

    def test_loss_of_nothing_is_zero(self) -> None:
        method = self.method()
        batch = self.batch(method)
        batch["target"] = torch.full_like(batch["target"], -1)
        losses = method.losses(batch)
        assert losses["linear"] == 0
        assert all(loss.isfinite() for loss in losses.values())

    def test_loss_weights_name_losses(self) -> None:
        method = self.method()
        batch = self.batch(method)
        weights = method.loss_weights(batch)
        assert set(weights) == set(method.losses(batch))
        assert weights["linear"] == ROWS * SIDE * (SIDE - 8)
        assert weights["self"] == ROWS


def test_configuration_follows_the_store(store: FeatureStore) -> None:
    config = StegoConfig(features=str(store.path))
    assert config.encoder.channels == (8, 8, 8, 16)
    assert (config.squares.size, config.classes, config.clusters) == (SIDE, 3, 3)
    assert StegoConfig(features=str(store.path), clusters=9).clusters == 9
    # once resolved, the store may be gone
    values = config.model_dump(mode="json") | {"features": "/nowhere"}
    assert StegoConfig.model_validate(values).clusters == 3


def test_a_store_of_a_bare_folder_has_no_linear_probe(tmp_path: Path) -> None:
    config = StegoConfig(features=str(make_store(tmp_path / "s", masks=False).path), width=6)
    method = Stego(config)
    dataset = open_dataset(config.features or "")
    batch = Stego.collate([Stego.transform(config)(dataset.decoded(i), 0, np.random.default_rng(i)) for i in range(4)])
    assert set(method.losses(batch)) == {"self", "neighbours", "random", "cluster"}
    assert method.loss_weights(batch) == {}
    assert method.losses(batch)["neighbours"] == 0  # no table was given
    with pytest.raises(UserError, match="without labels"):
        method.linear_scores(method.encode(torch.zeros(1, 3, 32, 32)), (32, 32))


def test_the_store_that_is_trained_on_is_where_features_come_from(store: FeatureStore, tmp_path: Path) -> None:
    def features(path: Path, **model: Any) -> str | None:
        values = {"model": model, "data": {"sources": [{"path": str(path)}]}}
        found: str | None = resolve_config("stego", None, values).model["features"]
        return found

    assert features(store.path) == str(store.path)
    other = make_store(tmp_path / "other")
    assert features(store.path, features=str(other.path)) == str(other.path), "what is said goes first"
    assert features(tmp_path) is None, "no store"


def test_clusters_without_names_say_how_to_name_them(config: StegoConfig) -> None:
    with pytest.raises(UserError, match="give its clusters names first: 'ovseg-ray name "):
        Segmenter(Stego(config))


def test_neighbours_are_drawn_from_the_first_ranks(store: FeatureStore, config: StegoConfig, tmp_path: Path) -> None:
    kept = make_table(tmp_path / "self.parquet", store.info.features, ())
    dataset = open_dataset(store.path)
    for path, ranks, expected in ((config.neighbours, 2, {1, 2}), (str(kept), 2, {1, 2}), (str(kept), 9, {1, 2, 3})):
        transform = StegoTransform(config.model_copy(update={"neighbours": path, "neighbour_ranks": ranks}))
        found = set()
        for seed in range(40):
            example = transform(dataset.decoded(0), 0, np.random.default_rng(seed))
            same = [r for r in range(ROWS) if np.array_equal(store.features(r), example["neighbour"].numpy())]
            found.update(same)
        assert found == expected


def test_points_and_targets(store: FeatureStore, config: StegoConfig) -> None:
    example = StegoTransform(config)(open_dataset(store.path).decoded(2), 0, np.random.default_rng(0))
    assert example["anchor_points"].shape == (3, 3, 2)
    assert example["anchor_points"].abs().max() <= 1
    assert not torch.equal(example["anchor_points"], example["other_points"])
    assert example["target"].unique().tolist() == [-1, 0, 1, 2]
    assert (example["target"][:8] == -1).all()


def test_dropout_comes_with_the_image(store: FeatureStore, config: StegoConfig) -> None:
    sample = open_dataset(store.path).decoded(0)
    kept = torch.cat(
        [
            torch.cat([e["kept"], e["neighbour_kept"]])[None]
            for seed in range(300)
            if (e := StegoTransform(config)(sample, 0, np.random.default_rng(seed)))
        ]
    )
    assert kept.shape == (300, 6, 8)
    torch.testing.assert_close(kept.float().mean((0, 2)), torch.full((6,), 0.9), atol=0.03, rtol=0)
    assert len({tuple(mask.flatten().tolist()) for mask in kept.unbind(1)}) == 6
    without = StegoTransform(config.model_copy(update={"dropout": False}))(sample, 0, np.random.default_rng(0))
    assert "kept" not in without


def test_a_stale_table_stops_training(config: StegoConfig, tmp_path: Path) -> None:
    stale = make_table(tmp_path / "stale.parquet", "0123456789abcdef")
    with pytest.raises(UserError, match="other features"):
        StegoTransform(config.model_copy(update={"neighbours": str(stale)}))


def test_without_a_store_the_way_out_is_named(store: FeatureStore, tmp_path: Path) -> None:
    config = resolve_config("stego", None, {"data": {"sources": [{"path": str(store.path)}]}})
    config = config.model_copy(update={"model": {**config.model, "features": None}})
    with pytest.raises(UserError, match="ovseg-ray embed"):  # and no worker is started for it
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="no feature store"):
        resolve_config("stego", None, {"model": {"features": "/nowhere"}})


def test_probes_learn_without_moving_the_head(config: StegoConfig) -> None:
    contract = TestContract()
    contract.config = config
    method = contract.method()
    losses = method.losses(contract.batch(method))
    (losses["cluster"] + losses["linear"]).backward()
    assert all(p.grad is None for p in method.head.parameters())  # type: ignore[union-attr]
    assert method.cluster_probe.clusters.grad is not None  # type: ignore[union-attr]


def test_a_few_steps_of_the_published_optimiser_lower_the_loss(config: StegoConfig) -> None:
    from ovseg_ray.training.optimizer import build_optimizer

    contract = TestContract()
    contract.config = config.model_copy(update={"dropout": False})
    method = contract.method()
    training = resolve_config("stego", None, {}).training
    optimizer = build_optimizer(method.parameter_groups(), training.optimizer)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([5e-4, 5e-3])
    batch, values = contract.batch(method), []
    for _ in range(60):
        torch.manual_seed(0)
        loss = torch.stack(list(method.losses(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.05


def test_codes_are_averaged_with_the_mirror_image(config: StegoConfig) -> None:
    torch.manual_seed(0)
    method = Stego(config).eval()
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        codes = method.encode(images).tensors["codes"]
        mirrored = method.encode(images.flip(3)).tensors["codes"].flip(3)
        torch.testing.assert_close(codes, mirrored, atol=1e-5, rtol=1e-5)
        scores = method.cluster_scores(method.encode(images), (32, 64))
        up = F.interpolate(codes, (32, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(scores, method.cluster_probe.log_probabilities(up, 2.0))
        assert method.linear_scores(method.encode(images), (32, 64)).exp().sum(1).allclose(torch.ones(1))


def test_unnamed_clusters_answer_no_labels(config: StegoConfig) -> None:
    method = Stego(config.model_copy(update={"name_width": None})).eval()
    assert not method.segments
    assert method.text_encoder is None
    with pytest.raises(UserError, match="no names"):
        method.scores(method.encode(torch.zeros(1, 3, 32, 32)), torch.zeros(2, 16))
    method.use_text_encoder(text_table())
    assert method.segments
    with pytest.raises(UserError, match="16"):
        method.use_text_encoder(text_table(8))


def test_mistakes(config: StegoConfig) -> None:
    with pytest.raises(UserError, match="two images"):
        Stego.check_training(TrainingConfig(batch_size=4, accumulate=4))
    with pytest.raises(ValidationError, match="width"):
        StegoConfig(width=1)
    assert get_method("stego") is Stego
    open_store.cache_clear()
    open_table.cache_clear()


PRESETS = sorted(path.stem for path in (Path(__file__).parents[2] / "ovseg_ray/configs").glob("stego_*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_resolve(preset: str) -> None:
    values: dict[str, Any] = resolve_config("stego", preset, {}).model
    assert values["correspondence"]["points"] == (6 if preset == "stego_world" else 11)
    assert resolve_config("stego", preset, {}).training.optimizer.name == "adam"


def test_pictures_are_resized_where_asked(config: StegoConfig) -> None:
    method = Stego(config.model_copy(update={"inference_size": 32}))
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert method.preprocess(picture).shape == (3, 32, 48)
    assert Stego(config).preprocess(picture).shape == (3, 16, 24)
