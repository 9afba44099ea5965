"""Rows of a data set as a Ray Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import ray.data

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError

MIN_BLOCK_ROWS = 50
"""A block costs about 20 ms of bookkeeping, decoding an image a few: blocks must not be small."""
MAX_BLOCKS = 1000


def sample_dataset(
    dataset: DataSet, rows: Sequence[int] | np.ndarray | None = None, blocks: int | None = None
) -> ray.data.Dataset:
    """Index rows spread over a cluster, to be decoded where they are used.

    Ray Data keeps no order unless `DataContext.execution_options.preserve_order` says so: rely on "image_id".

    Args:
        dataset: every node must see its files.
        rows: which rows, in this order; None: all.
        blocks: how many blocks; None: as many as have `MIN_BLOCK_ROWS` rows. Never smaller ones, except the only.

    Returns:
        Rows of `INDEX_SCHEMA`.

    Raises:
        UserError: no rows.

    Example:
        >>> reader = dataset.without_index()  # small: travels to every worker
        >>> def sizes(rows: pa.Table) -> pa.Table:
        ...     samples = [reader.sample(row) for row in rows.to_pylist()]
        ...     return pa.table({"image_id": rows["image_id"], "height": [s.height for s in samples]})
        >>> sample_dataset(dataset).map_batches(sizes, batch_format="pyarrow")
    """
    table = dataset.index if rows is None else dataset.index.take(np.asarray(rows, np.int64))
    count = table.num_rows
    if count == 0:
        raise UserError(f"{dataset.path} (split {dataset.split}): no images to read; choose at least one")
    most = max(1, count // MIN_BLOCK_ROWS)
    wanted = min(blocks or most, most, MAX_BLOCKS)
    edges = np.linspace(0, count, wanted + 1).astype(int)
    return ray.data.from_arrow([table.slice(a, b - a) for a, b in pairwise(edges)])
