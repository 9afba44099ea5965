from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from search_tools import brute_force, clustered, same, storage_of, unit

from ovseg_ray.errors import UserError
from ovseg_ray.neighbours import approximate
from ovseg_ray.neighbours.config import IndexConfig, IndexKind
from ovseg_ray.neighbours.recall import choose_effort, recall
from ovseg_ray.neighbours.shard import Shard
from ovseg_ray.neighbours.storage import Storage
from ovseg_ray.neighbours.top_k import Found, merge

ROWS = {"ivf": 2000, "hnsw": 1000, "ivfpq": 11000}


class Local:
    """The shards of a storage in this process."""

    def __init__(self, storage: Storage, resident: bool = False) -> None:
        self.storage = storage
        self.shards = [Shard(storage.root, n, resident=resident) for n in range(storage.manifest().shards)]

    def search(self, queries: np.ndarray, k: int, effort: int | None = None) -> Found:
        known = len(self.storage.manifest().segments)
        return merge([shard.search(queries, k, known, effort) for shard in self.shards], k)

    def most_effort(self) -> int:
        return max(shard.most_effort() for shard in self.shards)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_exact_search_is_brute_force(tmp_path: Path, shards: int, resident: bool) -> None:
    vectors = clustered(500)
    local = Local(storage_of(tmp_path, vectors, shards), resident)
    same(local.search(unit(vectors[:50]), 8), brute_force(vectors[:50], vectors, 8))
    rows = merge([shard.search_rows(10, 30, 8, shards) for shard in local.shards], 8)
    same(rows, brute_force(vectors[10:30], vectors, 8))


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
def test_approximate_search_reaches_its_floor_with_true_scores(tmp_path: Path, kind: IndexKind) -> None:
    vectors = clustered(ROWS[kind])
    storage = storage_of(tmp_path, vectors, 1, IndexConfig(kind=kind, lists=32 if kind == "ivfpq" else None))
    local = Local(storage)
    reached, effort = choose_effort(local, storage.manifest(), 8)
    assert reached >= 0.99
    queries = vectors[::40]
    found, truth = local.search(unit(queries), 8, effort), brute_force(queries, vectors, 8)
    assert recall(found, truth) >= 0.97
    agree = found.rows == truth.rows
    np.testing.assert_allclose(found.scores[agree], truth.scores[agree], atol=2e-6)


def test_a_recall_below_the_floor_is_refused(tmp_path: Path) -> None:
    storage = storage_of(tmp_path, clustered(3000), 1, IndexConfig(kind="ivf", effort=1, recall_floor=1.0))
    with pytest.raises(UserError, match=r"--index ivf: finds 0\.\d+ of the true 8 neighbours, below the floor of 1\.0"):
        choose_effort(Local(storage), storage.manifest(), 8)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_added_vectors_are_found_without_building_again(
    tmp_path: Path, kind: IndexKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = storage_of(tmp_path, clustered(2000), 2, IndexConfig(kind=kind))
    local = Local(storage)
    monkeypatch.setattr(approximate, "make_index", lambda *a: pytest.fail("built again"))
    new = np.eye(16, dtype=np.float32)[:3]
    storage.append(pa.array(["a", "b", "c"]), new)
    effort = None if kind == "flat" else 64
    assert local.search(new, 1, effort).rows[:, 0].tolist() == [2000, 2001, 2002]
    # one that starts now, as after a kill, knows them as well
    assert Local(storage).search(new, 1, effort).rows[:, 0].tolist() == [2000, 2001, 2002]


def test_a_restarted_shard_loads_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(2000)
    storage = storage_of(tmp_path, vectors, 1, IndexConfig(kind="ivf"))
    before = Local(storage).search(unit(vectors[:20]), 5, 4)
    monkeypatch.setattr(approximate, "make_index", lambda *a: pytest.fail("built again"))
    after = Local(storage).search(unit(vectors[:20]), 5, 4)
    assert np.array_equal(before.rows, after.rows)


def test_a_half_written_index_is_built_again(tmp_path: Path) -> None:
    vectors = clustered(2000)
    storage = storage_of(tmp_path, vectors, 1, IndexConfig(kind="ivf"))
    Local(storage)
    file = storage.root / "shard-0/index.faiss"
    file.write_bytes(file.read_bytes()[:100])
    assert Local(storage).search(unit(vectors[:1]), 1, 64).rows.tolist() == [[0]]


def test_without_faiss_only_exact_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = storage_of(tmp_path, clustered(100), 1, IndexConfig(kind="hnsw"))
    monkeypatch.setattr(approximate, "has_faiss", lambda: False)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        Local(storage)


def test_too_few_vectors_for_product_codes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wants 10240 vectors a shard, there are 100"):
        Local(storage_of(tmp_path, clustered(100), 1, IndexConfig(kind="ivfpq")))


def test_recall_counts_others_that_are_as_near() -> None:
    truth = Found(np.array([[0.9, 0.5]], np.float32), np.array([[1, 2]]))
    assert recall(Found(truth.scores, np.array([[1, 7]])), truth) == 1
    assert recall(Found(np.array([[0.9, 0.4]], np.float32), np.array([[1, 8]])), truth) == 0.5
    assert recall(Found(np.array([[0.9, -np.inf]], np.float32), np.array([[1, -1]])), truth) == 0.5
