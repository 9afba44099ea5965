"""The best of a sweep as configurations that `ovseg-ray train` takes."""

from __future__ import annotations

from pathlib import Path

from ovseg_ray.config import dump
from ovseg_ray.run_directory import write_atomically
from ovseg_ray.training.config import RunConfig
from ovseg_ray.tuning.check import configured
from ovseg_ray.tuning.ledger import Ledger, best_first


def write_best(out: Path, base: RunConfig, ledger: Ledger) -> list[Path]:
    """Write `best.yaml`; with several objectives also `best-NNNN.yaml` for each trial of the Pareto front.

    `best.yaml` is then the one that is best in the first objective. Nothing is written where no trial was completed.
    They are the configuration that the sweep started from, with the trial's values: all training images are trained on.

    Returns:
        The files, the best one first.
    """
    for path in out.glob("best*.yaml"):
        path.unlink()
    files = []
    front = best_first(ledger.study)
    for place, trial in enumerate(front):
        content = dump(configured(base, ledger.trained_values(trial.number)))
        scores = ", ".join(
            f"{objective.metric} {value:.6g}"
            for objective, value in zip(ledger.space.objectives, trial.values, strict=True)
        )
        text = f"# trial {trial.number} of a sweep: {scores} on images cut out of the training split\n{content}"
        names = ["best.yaml"] if place == 0 else []
        names += [f"best-{trial.number:04d}.yaml"] if len(ledger.space.objectives) > 1 else []
        for name in names:
            write_atomically(out / name, text)
            files.append(out / name)
    return files
