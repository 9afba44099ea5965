"""Reading all of a data set to find what is wrong in it before a training does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError

_CHUNK = 256


def check_dataset(dataset: DataSet, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Decode every image and mask.

    Args:
        dataset: opened, so that its files are there and its annotations consistent.
        progress: called with (images done, images).

    Returns:
        One line for each image with a problem, in order of the index; it names the file and the way out.
    """
    problems = []
    for done, problem in enumerate(_examined(dataset), start=1):
        if problem is not None:
            problems.append(problem)
        if progress is not None:
            progress(done, len(dataset))
    return problems


def _examined(dataset: DataSet) -> Iterator[str | None]:
    # decoders release the interpreter lock; chunks keep the rows of a large index out of memory
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(dataset), _CHUNK):
            rows = dataset.index.slice(start, _CHUNK).to_pylist()
            yield from pool.map(lambda row: _problem(dataset, row), rows)


def _problem(dataset: DataSet, row: dict[str, object]) -> str | None:
    try:
        dataset.decode_row(row)
    except UserError as error:
        return str(error)
    return None
