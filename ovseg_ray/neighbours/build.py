"""Building a neighbour table: every vector asks for its nearest, block by block."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.neighbour_table import TableInfo, table_part, write_table
from ovseg_ray.feature_store.vectors import Vectors
from ovseg_ray.neighbours.choice import choose_index
from ovseg_ray.neighbours.config import IndexConfig, IndexKind
from ovseg_ray.neighbours.exclusion import Exclusion, Removal
from ovseg_ray.neighbours.memory import QUERY_ROWS, MemoryPlan, plan_memory
from ovseg_ray.neighbours.service import NeighbourService, Quality, default_shards
from ovseg_ray.neighbours.storage import Storage
from ovseg_ray.neighbours.top_k import NOTHING, Found, has_faiss, nothing
from ovseg_ray.progress import ProgressBar

SPARE = 16  # candidates beyond k that the memory plan counts with


@dataclass(frozen=True)
class Built:
    """A table that was written, and what it took."""

    rows: int
    info: TableInfo
    quality: Quality
    memory: MemoryPlan


def build_table(
    vectors: Vectors,
    out: Path,
    k: int,
    *,
    index: IndexConfig | None = None,
    choose: bool = False,
    removals: tuple[Removal, ...] = ("self",),
    shards: int | None = None,
    memory: int | None = None,
) -> Built:
    """The k nearest of every vector. Ray must be connected (`ovseg_ray.cluster.connect`).

    Vectors are copied, normalised, to a directory beside `out` that goes when the table is there; shards work from it.

    Args:
        vectors: at least two.
        out: parquet file to write, on storage that every node sees.
        k: neighbours of each; rows that keep fewer after `removals` get fewer.
        index: how to search; default: exactly.
        choose: let `choose_index` say the kind, by size and memory, in place of that of `index`; it is told on stderr.
        removals: what is no neighbour of a vector: itself, other crops of its image, exact copies.
        shards: processes that search; default: one a GPU, else one for every two CPUs, fewer for few vectors.
        memory: bytes that all processes together may take.

    Raises:
        UserError: vectors that cannot be used, too few of them, too little memory, a recall below the floor, or a
            table that cannot be written.
    """
    index, out = index or IndexConfig(), Path(out).absolute()
    others = vectors.rows - ("self" in removals)
    if k < 1 or k > others:
        raise UserError(f"--k {k}: {vectors.path} has {others} others for each vector; give 1 to {max(others, 1)}")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give a file for the table, such as {out / 'neighbours.parquet'}")
    if choose:
        index = index.model_copy(update={"kind": _chosen(vectors, k, index, shards, memory)})
    plan = _plan(vectors, k, index, shards, memory)
    print(f"neighbours: {plan.describe()}", file=sys.stderr, flush=True)
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    try:
        with ProgressBar("read vectors", vectors.rows, "vectors") as bar:
            storage = Storage.create(work, vectors, plan.shards, index, progress=bar.update)
        exclusion = Exclusion(storage, removals)
        with NeighbourService(work, resident=plan.resident, recall_at=k + exclusion.usual) as service:
            manifest = service.manifest
            info = TableInfo(manifest.features, k, index.kind, round(service.quality.recall, 6), removals)
            with ProgressBar("neighbours", manifest.rows, "vectors") as bar:
                write_table(out, _parts(service, exclusion, k, bar), info)
            return Built(manifest.rows, info, service.quality, plan)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _chosen(vectors: Vectors, k: int, index: IndexConfig, shards: int | None, memory: int | None) -> IndexKind:
    def fits(kind: IndexKind) -> bool:
        try:
            _plan(vectors, k, index.model_copy(update={"kind": kind}), shards, memory)
        except UserError:
            return False
        return True

    wanted = min(shards or default_shards(vectors.rows), vectors.rows)
    gpu = ray.cluster_resources().get("GPU", 0) >= wanted  # as the service gives them out
    kind, reason = choose_index(vectors.rows, vectors.dim, wanted, gpu=gpu, faiss=has_faiss(), fits=fits)
    print(f"neighbours: index {kind}: {reason}", file=sys.stderr, flush=True)
    return kind


def _plan(vectors: Vectors, k: int, index: IndexConfig, shards: int | None, memory: int | None) -> MemoryPlan:
    """With the asked shards, else with as many as fit into the memory."""
    wanted = min(shards or default_shards(vectors.rows), vectors.rows)
    for count in range(wanted, 0, -1):
        try:
            return plan_memory(vectors.rows, vectors.dim, k + SPARE, count, index, memory)
        except UserError:
            if shards is not None or count == 1:
                raise
    raise AssertionError("there is at least one shard")


def _parts(service: NeighbourService, exclusion: Exclusion, k: int, bar: ProgressBar) -> Iterator[pa.Table]:
    rows, effort = service.manifest.rows, service.quality.effort
    first = min(k + exclusion.usual, rows)
    starts = list(range(0, rows, QUERY_ROWS))

    def ask(number: int) -> list[Any]:
        start = starts[number]
        return service.ask_rows(start, min(start + QUERY_ROWS, rows), first, effort)

    coming = ask(0)
    bar.start(0)
    for number, start in enumerate(starts):
        # the next block is searched while this one is written
        asked, coming = coming, ask(number + 1) if number + 1 < len(starts) else []
        queries = np.arange(start, min(start + QUERY_ROWS, rows))
        yield _part(service, exclusion, queries, service.collect(asked, first), k)
        bar.update(int(queries[-1]) + 1)


def _part(service: NeighbourService, exclusion: Exclusion, queries: np.ndarray, found: Found, k: int) -> pa.Table:
    """Rows of the table for some queries; those that lost too many candidates ask again for more."""
    most = min(k + exclusion.most, service.manifest.rows)
    best, wanted = _nearest(exclusion, queries, found, k), found.rows.shape[1]
    while wanted < most and len(short := np.flatnonzero((best.rows == NOTHING).any(1))):
        wanted = min(wanted * 4, most)
        # a query may have to see as many candidates as it has copies: the more, the fewer queries ask at once
        at_once = max(1, QUERY_ROWS * (k + SPARE) // wanted)
        for start in range(0, len(short), at_once):
            some = short[start : start + at_once]
            vectors = service.storage.gather(queries[some], service.manifest.segments)
            more = _nearest(exclusion, queries[some], service.search(vectors, wanted, service.quality.effort), k)
            best.rows[some], best.scores[some] = more.rows, more.scores
    there = best.rows != NOTHING
    names = service.storage.names
    ids, chosen = pa.array(queries), pa.array(best.rows[there])
    return table_part(
        names.take(ids).combine_chunks(), names.take(chosen).combine_chunks(), best.scores[there], there.sum(1)
    )


def _nearest(exclusion: Exclusion, queries: np.ndarray, found: Found, k: int) -> Found:
    """(n, k) of the candidates that are neighbours, best first; places that none is left for stay empty."""
    kept = exclusion.apply(queries, found)
    order = np.cumsum(kept, axis=1)
    kept &= order <= k
    best, places = nothing(len(queries), k), (np.nonzero(kept)[0], order[kept] - 1)
    best.rows[places], best.scores[places] = found.rows[kept], found.scores[kept]
    return best
