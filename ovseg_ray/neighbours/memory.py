"""What a search will need, said before it starts, and refused where it does not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ovseg_ray.errors import UserError
from ovseg_ray.neighbours.approximate import MOST_TRAINING_ROWS, TRAIN_ROWS_PER_LIST, code_bytes, lists_of
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.neighbours.storage import BYTES, READ_ROWS
from ovseg_ray.neighbours.top_k import has_faiss

PROCESS = 130 << 20  # a shard with NumPy, Arrow, Ray and faiss in it, before any vector (measured)
DRIVER = 210 << 20  # the command itself (measured)
PYTORCH = 260 << 20  # more in each of them where PyTorch searches in place of faiss (measured)
NAME = 48  # of a vector, with its places
QUERY_ROWS = 1024
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of all processes of a search together, Ray's own services apart.

    Attributes:
        shards: how many.
        rows: vectors.
        shard: bytes of one shard.
        driver: bytes of the caller.
        resident: whether shards keep vectors in memory.
    """

    shards: int
    rows: int
    shard: int
    driver: int
    resident: bool

    @property
    def total(self) -> int:
        """Bytes of all."""
        return self.shards * self.shard + self.driver

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.rows:,} vectors on {self.shards} shard{'s' if self.shards > 1 else ''}: about "
            f"{self.total / 1e9:.2f} GB ({self.shard / 1e9:.2f} a shard, {self.driver / 1e9:.2f} here)"
        )


def plan_memory(rows: int, dim: int, k: int, shards: int, index: IndexConfig, limit: int | None) -> MemoryPlan:
    """The plan of a search within a limit.

    Args:
        rows: N.
        dim: D.
        k: neighbours fetched.
        shards: how many.
        index: of each.
        limit: bytes; None: any.

    Raises:
        UserError: it does not fit.
    """
    per_shard = -(-rows // shards)
    vectors = per_shard * dim * BYTES
    block = READ_ROWS * dim * BYTES * 2 + QUERY_ROWS * (dim + READ_ROWS + k * 16) * BYTES
    library = 0 if has_faiss() else PYTORCH
    driver = DRIVER + library + rows * NAME + QUERY_ROWS * shards * k * 64
    shard = PROCESS + library + block + _index_bytes(index, per_shard, dim)
    plan = MemoryPlan(shards, rows, shard, driver, resident=False)
    if limit is not None and plan.total > limit:
        way = (
            "take fewer --shards or raise --memory"
            if index.exact
            else "take fewer --shards, use --index flat or ivfpq, or raise --memory"
        )
        raise UserError(f"--memory: {plan.describe()}, more than the {limit / 1e9:.2f} GB allowed; {way}")
    kept = MemoryPlan(shards, rows, shard + vectors, driver, resident=True)
    if index.exact and limit is not None and kept.total <= limit * 3 // 4:
        return kept
    return plan


def _index_bytes(index: IndexConfig, rows: int, dim: int) -> int:
    if index.exact:
        return 0
    if index.kind == "hnsw":
        return rows * (dim + 2 * index.links * 4 + 24)
    lists = lists_of(index, rows)
    training = min(lists * TRAIN_ROWS_PER_LIST, MOST_TRAINING_ROWS) * dim * BYTES * 2
    stored = dim if index.kind == "ivf" else code_bytes(index, dim)
    # lists grow by doubling: a quarter more than they hold, on average
    return training + lists * dim * BYTES + int(rows * (stored + 8) * 1.25)


def parse_bytes(text: str) -> int:
    """Bytes of "2GB", "500 MB", "1.5GiB" or a plain number.

    Raises:
        UserError: none of these.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if match is None or match.group(2).upper() not in UNITS:
        raise UserError(f"--memory {text}: write a size such as 2GB or 500MB")
    return int(float(match.group(1)) * UNITS[match.group(2).upper()])
