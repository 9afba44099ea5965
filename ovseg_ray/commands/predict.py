"""`ovseg-ray predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg_ray.commands.options import (
    Address,
    Debug,
    LabelList,
    PrecisionOption,
    RunPath,
    VocabularyFile,
    emit,
    loading,
    read_labels,
    say,
)
from ovseg_ray.errors import UserError

EXAMPLES = (
    'ovseg-ray predict demo/lseg demo/world/val/000000000005.jpg --labels "grass, red circle" --out demo/predictions',
)


def predict(
    run: RunPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, folders or patterns.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the results.")],
    labels: LabelList = None,
    vocabulary: VocabularyFile = None,
    precision: PrecisionOption = "fp32",
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Find labels in images: an overlay PNG, an id-map PNG and COCO RLE JSON for each.

    An image that cannot be read is named, the others are finished, and the exit code is 2.
    """
    loading()
    from ovseg_ray.evaluation.image_list import list_images
    from ovseg_ray.run_directory import find_model

    asked = read_labels(labels, vocabulary)
    if asked is None:
        raise UserError('nothing to look for; give --labels "sky, grass, a red car" or --vocabulary FILE')
    model, files = find_model(run.absolute()), list_images(images)  # a mistyped path shows before PyTorch is loaded
    from ovseg_ray.evaluation.predict import predict as run_prediction

    loading(str(run))
    summary = run_prediction(model, files, asked, out, precision=precision, address=address, debug=debug)
    for _, problem in summary.failures:
        say(f"error: {problem}")
    written = str(summary.out) if summary.done else None  # of images that all failed nothing was
    emit({"out": written, "done": summary.done, "failed": [path for path, _ in summary.failures]})
    if summary.failures:
        raise typer.Exit(2)
