"""STEGO on the demo's world: CLIP's features → neighbours → clusters without labels → names → evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg_ray.data import open_dataset
from ovseg_ray.embedding import EmbedConfig, embed
from ovseg_ray.evaluation.evaluate import evaluate
from ovseg_ray.evaluation.naming import name_run
from ovseg_ray.evaluation.result import read_result
from ovseg_ray.feature_store.vectors import open_vectors
from ovseg_ray.methods.stego import StegoConfig
from ovseg_ray.methods.stego.baseline import kmeans_run
from ovseg_ray.neighbours import build_table
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training import resolve_config, train

PRESET = "stego_world"
STRIDE = 16
SQUARE = 128  # twice the world's pictures: what tells shapes apart lies at the coarser strides
NEIGHBOURS = 7


def run_stego(out: Path, world: Path, clip: Path, seed: int) -> dict[str, Any]:
    """Train STEGO on a world without labels, name its clusters, score it. Ray must be connected.

    Each part leaves its own files and is not redone once they are whole.

    Args:
        out: directory for `features/`, `neighbours.parquet`, `clusters/` (the training), `named/`, `kmeans/` and the
            two result files.
        world: generated data set.
        clip: finished `train clip` run, whose image tower makes the features and names clusters.
        seed: of the training and of k-means.

    Returns:
        The evaluation of the named run; its space "k-means" is the same clustering of raw features.
    """
    features, table = out / "features", out / "neighbours.parquet"
    encoder = {"name": "small", "weights": str(clip / "model" / "model.safetensors"), "stride": STRIDE}
    config = EmbedConfig.model_validate({"encoder": encoder, "squares": {"size": SQUARE}})
    embed(open_dataset(world, "train"), features, config)
    if not table.is_file():
        build_table(open_vectors(features), table, NEIGHBOURS)
    model = {"features": str(features), "neighbours": str(table)}
    overrides = {"model": model, "data": {"sources": [{"path": str(features)}]}, "training": {"seed": seed}}
    configured = resolve_config("stego", PRESET, overrides)
    run = train(configured, out / "clusters", resume=True)
    named = out / "named"
    if not RunDirectory(named).finished:
        name_run(run.path, named, f"run:{clip}", open_dataset(world, "train"))
    baseline = kmeans_run(StegoConfig.model_validate(configured.model), out / "kmeans", seed=seed)
    result = _scored(named, world, out / "evaluation.json")
    raw = _scored(baseline.path, world, out / "kmeans.json")["spaces"]
    return {**result, "spaces": {**result["spaces"], "k-means": raw["clusters"]}}


def headline(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of STEGO in the demo, fractions in 0..1, from `run_stego`."""
    metrics = {name: space["metrics"] for name, space in result["spaces"].items()}
    return {
        "named_miou": metrics["labels"]["miou"],
        "clusters_miou": metrics["clusters"]["miou_of_predicted"],
        "clusters_accuracy": metrics["clusters"]["pixel_accuracy"],
        "linear_miou": metrics["linear"]["miou_of_predicted"],
        "kmeans_miou": metrics["k-means"]["miou_of_predicted"],
        "kmeans_accuracy": metrics["k-means"]["pixel_accuracy"],
    }


def _scored(run: Path, world: Path, file: Path) -> dict[str, Any]:
    model = RunDirectory(run).model / "model.json"
    if file.is_file() and file.stat().st_mtime > model.stat().st_mtime:
        return read_result(file)
    return evaluate(run, open_dataset(world, "val"), out=file)
