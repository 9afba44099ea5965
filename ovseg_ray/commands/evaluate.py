"""`ovseg-ray evaluate` and `ovseg-ray table`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovseg_ray.commands.options import (
    Address,
    DataPath,
    Debug,
    LabelList,
    PrecisionOption,
    RunPath,
    Split,
    VocabularyFile,
    loading,
    read_labels,
)
from ovseg_ray.errors import UserError

if TYPE_CHECKING:
    from ovseg_ray.data.episodes import Fold

EXAMPLES = (
    "ovseg-ray evaluate demo/lseg --data demo/world --out demo/lseg-val.json",
    "ovseg-ray evaluate demo/lseg --data demo/world --multi-scale ade20k --out demo/lseg-multi-scale.json",
)
TABLE_EXAMPLES = ("ovseg-ray table demo/evaluation.json",)


def evaluate(
    run: RunPath,
    data: DataPath,
    out: Annotated[Path, typer.Option(metavar="RESULT.json", help="Result file to write.")],
    split: Split = None,
    labels: LabelList = None,
    vocabulary: VocabularyFile = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also score shuffled label texts and parents' names.")
    ] = False,
    crf: Annotated[
        bool, typer.Option("--crf", help="Refine clusters by a CRF, as the paper's final numbers are (stego).")
    ] = False,
    multi_scale: Annotated[
        str | None,
        typer.Option(
            "--multi-scale",
            metavar="PRESET|FILE",
            help="Several scales, mirrored, in windows: ade20k or cityscapes, with _original for the published "
            "arithmetic, or a YAML file.",
        ),
    ] = None,
    episodes: Annotated[
        str | None,
        typer.Option(
            "--episodes",
            metavar="PROTOCOL:FOLD",
            help="Zero-shot episodes, one held-out class against all else: pascal-5i:0, coco-20i:0, fss-1000, world:0.",
        ),
    ] = None,
    precision: PrecisionOption = "fp32",
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Measure a trained model on a data set: mIoU, accuracies, seen / unseen / harmonic.

    Labels are those of the data set unless --labels or --vocabulary asks for others. The result file holds the
    whole protocol; 'ovseg-ray table' prints it again. Clusters of a stego run are matched to classes.
    """
    loading()
    asked = read_labels(labels, vocabulary)
    from ovseg_ray.cluster import connect
    from ovseg_ray.data import open_dataset
    from ovseg_ray.evaluation.evaluate import evaluate as score
    from ovseg_ray.evaluation.multi_scale import resolve_multi_scale
    from ovseg_ray.evaluation.table import summary
    from ovseg_ray.run_directory import find_model

    fold = _fold(episodes, asked, controls, multi_scale)
    inference = resolve_multi_scale(multi_scale) if multi_scale is not None else None
    dataset = open_dataset(data, split or validation_split(data))
    find_model(run)  # before Ray takes its time to start
    with connect(address, debug=debug):
        result = score(
            run,
            dataset,
            labels=asked,
            controls=controls,
            out=out,
            crf=crf,
            inference=inference,
            episodes=fold,
            precision=precision,
        )
    print(summary(result))


def _fold(episodes: str | None, *others: object) -> Fold | None:
    from ovseg_ray.data.episodes import Fold

    if episodes is None:
        return None
    if any(others):
        raise UserError(
            "--episodes: asks its own labels at its own size; leave --labels, --controls, --multi-scale out"
        )
    return Fold.parse(episodes)


def validation_split(data: Path) -> str:
    """The split that is meant where none is named.

    Raises:
        UserError: several splits, none of them "val".
    """
    from ovseg_ray.data import list_splits

    splits = list_splits(data)
    if "val" in splits or len(splits) == 1:
        return "val" if "val" in splits else splits[0]
    raise UserError(f"{data}: has no split 'val'; name one with --split: {', '.join(splits)}")


def table(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="What 'ovseg-ray evaluate' wrote.")],
    classes: Annotated[bool, typer.Option("--classes", help="One line a label as well.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    debug: Debug = False,
) -> None:
    """Print the table of a result file again."""
    from ovseg_ray.evaluation import table as tables
    from ovseg_ray.evaluation.result import read_result

    found = read_result(result)
    print(tables.summary(found, markdown))
    if classes:
        print(tables.per_class(found, markdown=markdown))
