"""Prediction for files: a few images in this process, many on Ray Data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovseg_ray.config import Precision
from ovseg_ray.errors import UserError
from ovseg_ray.evaluation.image_list import list_images, output_names
from ovseg_ray.evaluation.prediction_files import is_prediction
from ovseg_ray.evaluation.predictor import Predictor
from ovseg_ray.progress import ProgressBar
from ovseg_ray.run_directory import find_model
from ovseg_ray.segmenter import Labels

FEW = 16


@dataclass(frozen=True)
class PredictionSummary:
    """What became of the images.

    Attributes:
        out: directory of the results.
        done: images whose three files were written.
        failures: (path, one line that says what is wrong) of the others.
    """

    out: Path
    done: int
    failures: tuple[tuple[str, str], ...]


def predict(
    run: str | Path,
    images: Iterable[str | Path],
    labels: Labels,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    address: str | None = None,
    debug: bool = False,
) -> PredictionSummary:
    """Segment images by any labels and write overlay, id map and COCO RLE of each (see `prediction_files`).

    Up to 16 images are done here, without Ray; more go through Ray Data. An image that cannot be read is noted and
    the others are finished.

    Args:
        run: a finished run, its `model/`, or what a demo wrote.
        images: files, folders (searched to the bottom) or patterns.
        labels: "sky, grass, a red car", names, or a vocabulary.
        out: directory for the results; on a cluster, one that every node sees.
        precision: of the image network; scores stay float32.
        address: Ray cluster for many images; default: start Ray here.
        debug: show what Ray logs.

    Raises:
        UserError: no run, no images, labels that cannot be used, or results that cannot be written.
    """
    target, model = Path(out).absolute(), find_model(Path(run).absolute())
    paths = [path for path in list_images(images) if not is_prediction(path)]
    if not paths:
        raise UserError("no images given but results of earlier predictions; name image files, folders or patterns")
    work = list(zip(map(str, paths), output_names(paths), strict=True))
    if target.exists() and not target.is_dir():
        raise UserError(f"{out}: is a file; give a directory for the results")
    predictor = Predictor(
        model, labels, target, precision
    )  # loads the model: what is wrong with run or labels shows now
    steps: Iterable[tuple[str, str]] = map(predictor, work)
    if len(work) > FEW:
        from ovseg_ray.evaluation.predict_on_ray import predict_on_ray  # a few images need no Ray

        steps = predict_on_ray(predictor, work, address, debug=debug)
    failures: list[tuple[str, str]] = []
    with ProgressBar("predict", len(work), "images") as bar:
        for done, (path, problem) in enumerate(steps, start=1):
            if problem:
                failures.append((path, problem))
            bar.update(done, **({"failed": str(len(failures))} if failures else {}))
    return PredictionSummary(target, len(work) - len(failures), tuple(sorted(failures)))
