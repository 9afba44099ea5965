"""STEGO against k-means on the same raw features, with and without its parts, over several seeds, on held-out images.

    python benchmarks/stego_clusters.py --data demo/world --out DIR --config stego_world --size 128 \\
        --weights demo/clip/model/model.safetensors --clip run:demo/clip
    python benchmarks/stego_clusters.py --data camvid --out DIR --encoder mobilenet_v2 --stride 32 --size 224 \\
        --weights mobilenet_v2.safetensors --set training.epochs=45 --set training.validate_every=9

Embeds the training split, finds neighbours, and for every seed clusters raw features by k-means and trains each of
--variants; all are scored once on the held-out split, their clusters matched to classes. Shifts are told from the
training features (`full`). "rank_correlation" (Spearman) says how well agreement, which reads no label, ranks all
trainings: against the held-out accuracy and mIoU. With --clip the clusters of the first seed are named too. Trainings
are the loop of `ovseg-ray train` in this process: the same steps without Ray. What is there is not done again. One JSON
line, numbers in percent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from ovseg_ray.cluster import connect
from ovseg_ray.config import merge, parse_overrides
from ovseg_ray.data import open_dataset
from ovseg_ray.embedding import EmbedConfig, embed
from ovseg_ray.evaluation.evaluate import evaluate
from ovseg_ray.evaluation.evaluate_clusters import evaluation_squares
from ovseg_ray.evaluation.naming import name_run
from ovseg_ray.evaluation.result import read_result
from ovseg_ray.evaluation.unsupervised import count_clusters
from ovseg_ray.feature_store.vectors import open_vectors
from ovseg_ray.methods.export import describe_model, load_model, save_model
from ovseg_ray.methods.stego import Stego, StegoConfig
from ovseg_ray.methods.stego.baseline import kmeans_run
from ovseg_ray.neighbours import build_table
from ovseg_ray.run_directory import RunDirectory, write_atomically
from ovseg_ray.training import resolve_config
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.loop import Loop, Worker
from ovseg_ray.training.session import Session
from ovseg_ray.training.validation import spread, validate

NEIGHBOURS = 7
METRICS = ("accuracy", "miou")


def shifted(self_pairs: float, neighbours: float, random: float) -> list[str]:
    """Settings of all shifts."""
    shifts = {"self_pairs": self_pairs, "neighbours": neighbours, "random": random}
    return [f"model.correspondence.{kind}.shift={shift}" for kind, shift in shifts.items()]


VARIANTS = {
    "full": [],
    "no_knn": ["model.correspondence.neighbours.weight=0"],  # agreement still reads the table
    "original": shifted(0.18, 0.12, 0.46),  # the published code's defaults
}


def trained(config: RunConfig, out: Path) -> Path:
    """The run of a training, done in this process."""
    run = RunDirectory(out)
    if not run.finished:
        session = Session(config, Stego, out, validation=tuple(config.data.sources))
        method = session.model()
        method.initialise()
        started = time.monotonic()
        Loop(method, config, session.sources(), Worker()).run(lambda metrics: None, lambda validate: None)
        seconds = time.monotonic() - started
        found = {"agreement": validate(method.eval(), session)["agreement"], "seconds": round(seconds, 1)}
        save_model(method, run.model, vocabularies=[], provenance=found)
    return out


def scored(run: Path, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Accuracy, mIoU and IoU of classes of clusters and of the linear probe on the held-out split."""
    file = run / "held-out.json"
    if not file.is_file():
        method, dataset = load_model(run / "model"), open_dataset(given.data, given.val)
        assert isinstance(method, Stego)
        config = method.config
        counts = count_clusters(
            method,
            dataset,
            spread(len(dataset), given.images),
            clusters=config.clusters + config.extra_clusters,
            linear=config.projection != "none" and config.classes == len(dataset.require_masks()),
            squares=evaluation_squares(run / "model"),
        )
        scores = {"clusters": counts.clusters.matched()}
        if counts.linear is not None:
            scores["linear"] = counts.linear.unmatched()
        names = dataset.require_masks().names
        told = {
            name: {
                "accuracy": float(score.accuracy),
                "miou": score.miou,
                "iou": {label: iou for label, iou in zip(names, score.iou.tolist(), strict=True) if iou == iou},
            }
            for name, score in scores.items()
        }
        write_atomically(file, json.dumps(told))
    scores_of: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return scores_of


def configured(given: argparse.Namespace, store: Path, table: Path, settings: list[str], seed: int) -> RunConfig:
    """A training."""
    model = {"features": str(store), "neighbours": str(table)}
    own = {"model": model, "data": {"sources": [{"path": str(store)}]}, "training": {"seed": seed}}
    return resolve_config("stego", given.config, merge(own, parse_overrides([*given.set, *settings])))


def named(given: argparse.Namespace) -> dict[str, float]:
    """What the names of the first seed's clusters reach on the same squares, beside the best matching of them."""
    run, file = given.out / "named-0", given.out / "named-0" / "evaluation.json"
    if not RunDirectory(run).finished:
        name_run(given.out / "full-0", run, given.clip, open_dataset(given.data, given.train))
    if not file.is_file():
        with connect():
            evaluate(run, open_dataset(given.data, given.val), out=file)
    spaces = read_result(file)["spaces"]
    columns = {"accuracy": "pixel_accuracy", "miou": "miou_of_predicted"}
    return {
        f"{name}_{metric}": round(100 * spaces[name]["metrics"][column], 2)
        for name in ("named", "clusters")
        for metric, column in columns.items()
    }


def percent(values: list[float]) -> dict[str, Any]:
    """Mean, range and values."""
    of_hundred = [round(100 * value, 2) for value in values]
    return {
        "mean": round(statistics.fmean(of_hundred), 2),
        "range": [min(of_hundred), max(of_hundred)],
        "values": of_hundred,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train", default="train", help="split to learn from, without its labels")
    parser.add_argument("--val", default="val", help="held-out split, with masks")
    parser.add_argument("--images", type=int, default=800, help="of the held-out split, evenly spread; 0: all")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--weights")
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--config", help="preset, as of 'ovseg-ray train stego'")
    parser.add_argument("--set", action="append", default=[], help="of every training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=["full", "no_knn"])
    parser.add_argument("--shifts", type=float, nargs=3, action="append", default=[], help="one more variant")
    parser.add_argument("--clip", help="as of 'ovseg-ray name'")
    given = parser.parse_args()
    torch.set_num_threads(1)
    store, table = given.out / "features", given.out / "neighbours.parquet"
    encoder = {"name": given.encoder, "weights": given.weights, "stride": given.stride}
    features = EmbedConfig.model_validate({"encoder": encoder, "squares": {"size": given.size}})
    variants = {name: VARIANTS[name] for name in given.variants}
    variants |= {"shifts-" + "-".join(map(str, shifts)): shifted(*shifts) for shifts in given.shifts}
    found: dict[str, list[dict[str, dict[str, Any]]]] = {name: [] for name in ("k-means", *variants)}
    agreements: dict[str, list[float]] = {name: [] for name in variants}
    seconds: list[float] = []
    result: dict[str, Any] = {"data": str(given.data), "seeds": given.seeds}
    if not table.is_file():
        with connect():
            embed(open_dataset(given.data, given.train), store, features)
            build_table(open_vectors(store), table, NEIGHBOURS)
    for seed in range(given.seeds):
        like = StegoConfig.model_validate(configured(given, store, table, [], seed).model)
        result["shift"] = like.correspondence.self_pairs.shift
        found["k-means"].append(scored(kmeans_run(like, given.out / f"k-means-{seed}", seed=seed).path, given))
        for name, settings in variants.items():
            run = trained(configured(given, store, table, settings, seed), given.out / f"{name}-{seed}")
            found[name].append(scored(run, given))
            told = describe_model(run / "model").provenance
            agreements[name].append(told["agreement"])
            seconds.append(told["seconds"])
            numbers = {metric: round(100 * found[name][-1]["clusters"][metric], 2) for metric in METRICS}
            print(name, seed, round(agreements[name][-1], 4), numbers, file=sys.stderr, flush=True)
    result["seconds_of_a_training"] = statistics.median(seconds) if seconds else None
    for name, runs in found.items():
        spaces = {"": "clusters", "linear_": "linear"}
        result[name] = {
            prefix + metric: percent([run[space][metric] for run in runs])
            for prefix, space in spaces.items()
            for metric in METRICS
            if space in runs[0]
        }
        if name in agreements:
            result[name]["agreement"] = percent(agreements[name])
    ranked = [value for name in variants for value in agreements[name]]
    if len(ranked) > 2:
        result["rank_correlation"] = {"trainings": len(ranked)}
        for metric in METRICS:
            truth = [run["clusters"][metric] for name in variants for run in found[name]]
            result["rank_correlation"][metric] = round(float(spearmanr(ranked, truth).statistic), 2)
    if given.clip:
        result["named"] = named(given)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
