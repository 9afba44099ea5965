"""`ovseg-ray neighbours`: build, serve, query, add."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ovseg_ray.commands.options import Address, Debug, emit, loading

if TYPE_CHECKING:
    from ovseg_ray.neighbours.exclusion import Removal

EXAMPLES = (
    "ovseg-ray neighbours build features neighbours.parquet --k 7",
    "ovseg-ray neighbours build vectors.npy neighbours.parquet --k 10 --index ivf --memory 2GB",
)
SERVE_EXAMPLES = ("ovseg-ray neighbours serve features index",)
QUERY_EXAMPLES = ("ovseg-ray neighbours query index 000000000001 --k 7 --address auto",)
ADD_EXAMPLES = ("ovseg-ray neighbours add index new-features --address auto",)

Features = Annotated[
    Path,
    typer.Argument(
        metavar="FEATURES", help="A feature store, a bare .npy (N, D), or parquet with image_id and vector."
    ),
]
Recall = Annotated[
    float, typer.Option(min=0, max=1, metavar="R", help="Recall that an approximate index must reach on a sample.")
]
Shards = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Processes that search. Default: by GPUs or CPUs.")
]
Memory = Annotated[str, typer.Option(metavar="SIZE", help="Most that all processes may take together, such as 2GB.")]
IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="Directory of the index of 'neighbours serve'.")]


def build(
    features: Features,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write: image_id, neighbour_ids, scores.")],
    k: Annotated[int, typer.Option("--k", metavar="K", help="Neighbours of each image.")] = 7,
    index: Annotated[
        Literal["flat", "ivf", "hnsw", "ivfpq"] | None,
        typer.Option(
            metavar="KIND",
            help="flat is exact; ivf, hnsw and ivfpq are approximate. Default: flat if that does not take long, else "
            "ivf or ivfpq, whichever fits --memory.",
        ),
    ] = None,
    recall: Recall = 0.99,
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
    shards: Shards = None,
    memory: Memory = "2GB",
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Find the nearest images of every image: cosine of their vectors, best first.

    Says before it starts how much memory it takes; an approximate index says what it found of the true neighbours.
    """
    loading()
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
    config = IndexConfig(kind=index or "flat", recall_floor=recall, effort=effort)
    with connect(address, debug=debug):
        built = build_table(
            vectors, out, k, index=config, choose=index is None, removals=removals, shards=shards, memory=limit
        )
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


def serve(
    features: Features,
    index_path: Annotated[Path, typer.Argument(metavar="INDEX", help="Directory of the index; made if it is new.")],
    index: Annotated[
        Literal["flat", "ivf", "hnsw", "ivfpq"],
        typer.Option(metavar="KIND", help="flat is exact; ivf, hnsw and ivfpq are approximate."),
    ] = "flat",
    recall: Recall = 0.99,
    shards: Shards = None,
    memory: Memory = "2GB",
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Keep shards of vectors ready for trainings, notebooks and other commands, until interrupted.

    A shard that dies comes back from INDEX while queries wait. Says at which --address others find it.
    """
    loading()
    import signal
    import threading

    import ray

    from ovseg_ray.cluster import connect
    from ovseg_ray.feature_store.vectors import open_vectors
    from ovseg_ray.neighbours import IndexConfig
    from ovseg_ray.neighbours.memory import parse_bytes
    from ovseg_ray.neighbours.standing import start_service

    limit, vectors = parse_bytes(memory), open_vectors(features)
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    with connect(address, debug=debug):
        config = IndexConfig(kind=index, recall_floor=recall)
        service = start_service(vectors, index_path, config, shards=shards, memory=limit)
        try:
            emit(
                {
                    "index": str(index_path.absolute()),
                    "address": ray.get_runtime_context().gcs_address,
                    "vectors": service.manifest.rows,
                    "shards": service.manifest.shards,
                    "recall": service.quality.recall,
                    "features": service.manifest.features,
                }
            )
            ended.wait()
        finally:
            service.stop()


def query(
    index_path: IndexPath,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE_ID...", help="Names of vectors of the index.")],
    k: Annotated[int, typer.Option("--k", min=1, metavar="K", help="Neighbours of each, itself left out.")] = 7,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Print the nearest images of some images, a JSON line each.

    Asks the shards of 'neighbours serve' where they run on the cluster at --address; else starts its own.
    """
    loading()
    from ovseg_ray.cluster import connect
    from ovseg_ray.neighbours import NeighbourService
    from ovseg_ray.neighbours.service import is_running
    from ovseg_ray.neighbours.storage import Storage

    Storage(index_path.absolute()).manifest()  # what is no index is told before Ray starts
    with connect(address, debug=debug), NeighbourService(index_path, shared=is_running(index_path)) as service:
        found, scores = service.nearest_of(images, min(k + 1, service.manifest.rows))
        for image, names, cosines in zip(images, found, scores.tolist(), strict=True):
            pairs = [(name, cosine) for name, cosine in zip(names, cosines, strict=True) if name != image][:k]
            emit(
                {
                    "image_id": image,
                    "neighbour_ids": [name for name, _ in pairs],
                    "scores": [round(cosine, 6) for _, cosine in pairs],
                }
            )


def add(
    index_path: IndexPath,
    features: Features,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Add vectors to an index that stays as it is otherwise; searches that begin after this find them."""
    loading()
    from ovseg_ray.cluster import connect
    from ovseg_ray.feature_store.vectors import open_vectors
    from ovseg_ray.neighbours import NeighbourService
    from ovseg_ray.neighbours.service import is_running
    from ovseg_ray.neighbours.storage import Storage

    vectors = open_vectors(features)
    Storage(index_path.absolute()).manifest()  # what is no index is told before Ray starts
    with connect(address, debug=debug), NeighbourService(index_path, shared=is_running(index_path)) as service:
        for ids, block in vectors.blocks():
            service.add(ids.to_pylist(), block)
        emit(
            {
                "index": str(index_path.absolute()),
                "vectors": service.manifest.rows,
                "features": service.manifest.features,
            }
        )
