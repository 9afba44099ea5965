"""A neighbour service that stays: shards that outlive the processes that ask them."""

from __future__ import annotations

from pathlib import Path

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.vectors import Vectors
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.neighbours.memory import plan_memory
from ovseg_ray.neighbours.service import NeighbourService, default_shards
from ovseg_ray.neighbours.storage import MANIFEST, Storage
from ovseg_ray.progress import ProgressBar

FETCHED = 64  # neighbours of a query that memory is planned for


def start_service(
    vectors: Vectors, root: Path, index: IndexConfig, *, shards: int | None = None, memory: int | None = None
) -> NeighbourService:
    """Start shards that stay, or find those that run. Ray must be connected (`ovseg_ray.cluster.connect`).

    Other processes of the cluster ask them by `NeighbourService(root, shared=True)`.

    Args:
        vectors: to search.
        root: directory of the index, on storage that every node sees; one that is there is taken up, with what was
            added to it.
        index: how to search; of a new index.
        shards: processes; of a new index. Default: one a GPU, else one for every two CPUs, fewer for few vectors.
        memory: bytes that all shards together may take.

    Raises:
        UserError: `root` holds an index of other vectors or of another kind, too little memory, or a recall below
            the floor.
    """
    root = Path(root).absolute()
    if not (root / MANIFEST).is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())) and not any(root.glob("*segment-*")):
            raise UserError(f"{root}: is there and no neighbour index; choose a new or empty directory")
        count = min(shards or default_shards(vectors.rows), vectors.rows)
        plan_memory(vectors.rows, vectors.dim, FETCHED, count, index, memory)
        with ProgressBar("read vectors", vectors.rows, "vectors") as bar:
            Storage.create(root, vectors, count, index, progress=bar.update)
    manifest = Storage(root).manifest()
    if manifest.source != vectors.fingerprint():
        raise UserError(f"{root}: holds an index of other vectors than {vectors.path}; choose another INDEX")
    if manifest.index.kind != index.kind:
        raise UserError(f"{root}: holds an index of kind '{manifest.index.kind}'; give --index {manifest.index.kind}")
    plan = plan_memory(manifest.rows, manifest.dim, FETCHED, manifest.shards, manifest.index, memory)
    return NeighbourService(root, resident=plan.resident, shared=True)
