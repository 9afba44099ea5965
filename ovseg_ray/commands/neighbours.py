"""`ovseg-ray neighbours build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ovseg_ray.commands.options import Address, Debug, emit

if TYPE_CHECKING:
    from ovseg_ray.neighbours.exclusion import Removal

EXAMPLES = (
    "ovseg-ray neighbours build features neighbours.parquet --k 7",
    "ovseg-ray neighbours build vectors.npy neighbours.parquet --k 10 --index ivf --memory 2GB",
)


def build(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="FEATURES", help="A feature store, a bare .npy (N, D), or parquet with image_id and vector."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write: image_id, neighbour_ids, scores.")],
    k: Annotated[int, typer.Option("--k", metavar="K", help="Neighbours of each image.")] = 7,
    index: Annotated[
        Literal["flat", "ivf", "hnsw", "ivfpq"],
        typer.Option(
            metavar="KIND", help="flat is exact; ivf, hnsw and ivfpq are approximate: flat, ivf, hnsw, ivfpq."
        ),
    ] = "flat",
    recall: Annotated[
        float, typer.Option(min=0, max=1, metavar="R", help="Recall that an approximate index must reach on a sample.")
    ] = 0.99,
    effort: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Lists or candidates of each search. Default: what the recall takes."),
    ] = None,
    keep_self: Annotated[bool, typer.Option("--keep-self", help="An image is its own first neighbour.")] = False,
    drop_same_image: Annotated[
        bool, typer.Option("--drop-same-image", help="Crops of one image are no neighbours.")
    ] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Images with the same vector are no neighbours.")
    ] = False,
    shards: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes that search. Default: by GPUs or CPUs.")
    ] = None,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Most that all processes may take together, such as 2GB.")
    ] = "2GB",
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Find the nearest images of every image: cosine of their vectors, best first.

    Says before it starts how much memory it takes; an approximate index says what it found of the true neighbours.
    """
    from ovseg_ray.cluster import connect
    from ovseg_ray.feature_store.vectors import open_vectors
    from ovseg_ray.neighbours import IndexConfig, build_table
    from ovseg_ray.neighbours.memory import parse_bytes

    flags: list[tuple[bool, Removal]] = [
        (not keep_self, "self"), (drop_same_image, "same_image"), (drop_duplicates, "duplicates"),
    ]  # fmt: skip
    removals = tuple(name for wanted, name in flags if wanted)
    limit = parse_bytes(memory)
    vectors = open_vectors(features)
    config = IndexConfig(kind=index, recall_floor=recall, effort=effort)
    with connect(address, debug=debug):
        built = build_table(vectors, out, k, index=config, removals=removals, shards=shards, memory=limit)
    emit(
        {
            "neighbours": str(out),
            "images": built.rows,
            "k": k,
            "index": built.info.index,
            "recall": built.info.recall,
            "effort": built.quality.effort,
            "features": built.info.features,
        }
    )
