"""The main job on generated data: world → CLIP on captions → LSeg on seen classes → evaluation → report.

Each step leaves its own files and is not redone once they are whole, so a demo that was stopped goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovseg_ray import demo_stego
from ovseg_ray.data import open_dataset
from ovseg_ray.data.world import write_world
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.evaluate import evaluate
from ovseg_ray.evaluation.report import ReportInput, make_examples, telling_rows, write_report
from ovseg_ray.evaluation.result import read_result
from ovseg_ray.progress import ProgressBar
from ovseg_ray.run_directory import write_atomically
from ovseg_ray.training import resolve_config, train

SCENES = 8000
SIZE = 64  # pixels a side: small, so that thousands of steps fit into minutes
PRESETS = {"clip": "clip", "lseg": "lseg_world"}
STEPS = ("world", "clip", "lseg", "evaluate", "report")
ALL_STEPS = ("world", "clip", "lseg", "evaluate", "stego", "report")
EXAMPLES = 8
# asked of the same pictures in the report: a list that nobody trained with, at several levels at once
OTHER_LABELS = ("circle", "ring", "bar", "ground", "wall", "sky")
SUMMARY = (
    "CLIP learned from captions alone; LSeg then learned from masks, which unseen labels never carry. "
    "All numbers are over held-out scenes, every label competing with every other."
)


def run_demo(
    out: Path, seed: int = 0, *, workers: int = 2, scenes: int = SCENES, every: bool = False
) -> dict[str, Any]:
    """Everything, from nothing to a report. Ray must be connected (`ovseg_ray.cluster.connect`).

    Args:
        out: directory for `world/`, `clip/`, `lseg/`, `evaluation.json`, `results.json` and `report.html`.
        seed: of the world and of both trainings.
        workers: training workers of LSeg.
        scenes: pictures of the world, training and held-out ones together.
        every: the other methods as well: `stego/`, clusters learned without labels and named by CLIP.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: `out` holds something else, or cannot be written.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a directory for --out")
    world, clip, lseg = out / "world", out / "clip", out / "lseg"
    steps = ALL_STEPS if every else STEPS
    results: dict[str, Any] = {}
    evaluations: dict[str, dict[str, Any]] = {}
    with _step(out, steps, "world", f"a world of {scenes} scenes, with masks and captions"):
        _write_world(world, scenes, seed)
    with _step(out, steps, "clip", "CLIP: an image and a text tower, from the captions alone"):
        _train("clip", {}, world, clip, seed, workers=1)
    with _step(out, steps, "lseg", f"LSeg on the seen classes, {workers} workers"):
        encoder = {"weights": str(clip / "model" / "model.safetensors")}
        _train("lseg", {"text": f"run:{clip}", "encoder": encoder}, world, lseg, seed, workers=workers)
    with _step(out, steps, "evaluate", "held-out scenes: seen and unseen classes, and two controls"):
        evaluations["LSeg"] = _evaluate(lseg, world, out / "evaluation.json")
        results["lseg"] = headline(evaluations["LSeg"])
    runs = {"CLIP": clip, "LSeg": lseg}
    if every:
        with _step(out, steps, "stego", "STEGO: clusters of CLIP's features, no labels; then named by CLIP"):
            evaluations["STEGO"] = demo_stego.run_stego(out / "stego", world, clip, seed)
            results["stego"] = demo_stego.headline(evaluations["STEGO"])
            runs["STEGO"] = out / "stego" / "clusters"
    with _step(out, steps, "report", f"{out / 'report.html'}"):
        _write_report(out, evaluations, runs)
    results["seconds"] = _seconds(out)
    write_atomically(out / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def headline(evaluation: dict[str, Any]) -> dict[str, float]:
    """The five numbers of the demo, fractions in 0..1, from an evaluation with controls."""
    spaces = evaluation["spaces"]
    own = spaces["labels"]["metrics"]
    return {
        "seen_miou": own["seen_miou"],
        "unseen_miou": own["unseen_miou"],
        "harmonic_miou": own["harmonic_miou"],
        "shuffled_unseen_miou": spaces["shuffled"]["metrics"]["unseen_miou"],
        "parents_miou": spaces["parents"]["metrics"]["miou"],
    }


def _write_world(world: Path, scenes: int, seed: int) -> None:
    with ProgressBar("world", scenes, "scenes") as bar:
        write_world(world, scenes, seed, size=SIZE, progress=lambda done, _: bar.update(done))


def _train(method: str, model: dict[str, Any], world: Path, run: Path, seed: int, *, workers: int) -> None:
    overrides = {"model": model, "data": {"sources": [{"path": str(world)}]}, "training": {"seed": seed}}
    train(resolve_config(method, PRESETS[method], overrides), run, workers=workers, resume=True)


def _evaluate(run: Path, world: Path, file: Path) -> dict[str, Any]:
    if file.is_file() and file.stat().st_mtime > (run / "model" / "model.json").stat().st_mtime:
        return read_result(file)
    return evaluate(run, open_dataset(world, "val"), controls=True, out=file)


def _write_report(out: Path, evaluations: dict[str, dict[str, Any]], runs: dict[str, Path]) -> None:
    scenes = open_dataset(out / "world", "val")
    rows = telling_rows(scenes, EXAMPLES)
    examples = make_examples(out / "lseg", scenes, rows, {"prediction by other words": list(OTHER_LABELS)})
    seconds = _seconds(out)
    report = ReportInput("ovseg_ray: the demo", evaluations, runs, examples, seconds, SUMMARY)
    write_report(out / "report.html", report)


@contextmanager
def _step(out: Path, steps: Sequence[str], name: str, what: str) -> Iterator[None]:
    print(f"[{steps.index(name) + 1}/{len(steps)}] {what}", file=sys.stderr, flush=True)
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    known = _seconds(out)
    # a step found whole takes no time worth telling: keep what it took when it was done
    if took > known.get(name, 0.0):
        write_atomically(out / "seconds.json", json.dumps({**known, name: round(took, 1)}, indent=1) + "\n")


def _seconds(out: Path) -> dict[str, float]:
    file = out / "seconds.json"
    return json.loads(file.read_text()) if file.is_file() else {}
