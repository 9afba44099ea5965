"""Tables and the service on Ray, against brute force; shards killed for real."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from search_tools import brute_force, clustered, same, storage_of, unit

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.neighbour_table import NeighbourTable
from ovseg_ray.feature_store.vectors import open_vectors
from ovseg_ray.neighbours import IndexConfig, NeighbourService, build_table, choice
from ovseg_ray.neighbours.build import SPARE
from ovseg_ray.neighbours.memory import QUERY_ROWS
from ovseg_ray.neighbours.standing import start_service
from ovseg_ray.neighbours.top_k import Found

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def parquet(path: Path, names: list[str], vectors: np.ndarray) -> Path:
    pq.write_table(pa.table({"image_id": names, "vector": pa.array(list(vectors))}), path)
    return path


def kill_shards(service: NeighbourService) -> None:
    for process in ray.get([shard.__ray_call__.remote(lambda _: os.getpid()) for shard in service._shards]):
        os.kill(process, signal.SIGKILL)


def expected(vectors: np.ndarray, k: int, banned: np.ndarray) -> list[set[int]]:
    scores = unit(vectors) @ unit(vectors).T
    scores[banned] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [{int(row) for row in rows if scores[query, row] > -np.inf} for query, rows in enumerate(order)]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_table_of_a_bare_array(tmp_path: Path, kind: Any, capfd: pytest.CaptureFixture[str]) -> None:
    vectors = clustered(3000)
    np.save(tmp_path / "v.npy", vectors)
    source, out = open_vectors(tmp_path / "v.npy"), tmp_path / "t.parquet"
    built = build_table(source, out, 7, index=IndexConfig(kind=kind), shards=2, memory=2 * 10**9)
    table = NeighbourTable.open(out, source.fingerprint())
    found = [{int(name) for name in table.neighbours(str(row))} for row in range(3000)]
    truth = expected(vectors, 7, np.eye(3000, dtype=bool))
    share = np.mean([len(a & b) / 7 for a, b in zip(found, truth, strict=True)])
    assert share > (0.9995 if kind == "flat" else 0.98)
    assert built.info.recall == (1.0 if kind == "flat" else pytest.approx(0.995, abs=0.006))
    assert all(len(row) == 7 for row in found)
    scores = np.stack([table.scores(str(row)) for row in range(100)])
    assert (np.diff(scores, axis=1) <= 0).all()
    assert "2 shards: about 0.6" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.parquet", "v.npy"]


@pytest.mark.parametrize(
    ("work", "memory", "kind"),
    [(1e12, 10**9, "flat"), (0, 10**9, "ivf"), (0, 440_400_000, "ivfpq"), (0, 437_000_000, "flat")],
)
def test_the_index_is_chosen_where_nobody_says(
    work: float,
    memory: int,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(choice, "EXACT_WORK", work)
    np.save(tmp_path / "v.npy", clustered(12000, dim=64))
    source, floor = open_vectors(tmp_path / "v.npy"), IndexConfig(recall_floor=0.5)
    built = build_table(source, tmp_path / "t.parquet", 2, index=floor, choose=True, shards=1, memory=memory)
    assert built.info.index == kind
    assert built.info.recall >= 0.5
    (line,) = [line for line in capfd.readouterr().err.splitlines() if ": index " in line]
    assert line.startswith(f"neighbours: index {kind}: ")


def test_self_crops_and_copies_are_removed_on_request(tmp_path: Path) -> None:
    vectors = clustered(60, dim=8)
    vectors[::5] = vectors[0]  # twelve copies
    names = [f"image {row // 5}#{row % 5}" for row in range(60)]
    source = open_vectors(parquet(tmp_path / "v.parquet", names, vectors))
    image, copy = np.arange(60) // 5, np.where(np.arange(60) % 5 == 0, -1, np.arange(60))
    own = np.eye(60, dtype=bool)
    cases: list[tuple[tuple[Any, ...], np.ndarray]] = [
        ((), ~own & False),
        (("self",), own),
        (("self", "same_image"), image[:, None] == image),
        (("self", "duplicates"), own | (copy[:, None] == copy)),
        (("self", "same_image", "duplicates"), (image[:, None] == image) | (copy[:, None] == copy)),
    ]
    for removals, banned in cases:
        build_table(source, tmp_path / "t.parquet", 6, removals=removals)
        table = NeighbourTable.open(tmp_path / "t.parquet")
        for query, truth in enumerate(expected(vectors, 6, banned)):
            found = [names.index(name) for name in table.neighbours(names[query])]
            assert len(found) == 6
            assert not banned[query, found].any(), removals
            least = min(unit(vectors)[query] @ unit(vectors)[row] for row in truth)
            assert table.scores(names[query]).min() == pytest.approx(least, abs=1e-5)


def test_many_copies_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 1,500 copies must see them all before it sees another: not all of a block at once."""
    vectors = np.concatenate([np.repeat(clustered(1), 1500, axis=0), clustered(50, seed=1)])
    names = [str(row) for row in range(len(vectors))]
    source = open_vectors(parquet(tmp_path / "v.parquet", names, vectors))
    asked: list[int] = []
    search = NeighbourService.search

    def counted(self: NeighbourService, queries: np.ndarray, k: int, effort: int | None = None) -> Found:
        asked.append(len(queries) * k)
        return search(self, queries, k, effort)

    monkeypatch.setattr(NeighbourService, "search", counted)
    build_table(source, tmp_path / "t.parquet", 3, removals=("self", "duplicates"))
    assert 0 < max(asked) <= QUERY_ROWS * (3 + SPARE)
    table = NeighbourTable.open(tmp_path / "t.parquet")
    truth = brute_force(vectors[:1], vectors[1500:], 3)
    for name in ("0", "1023", "1499"):
        assert [int(found) - 1500 for found in table.neighbours(name)] == truth.rows[0].tolist()
        np.testing.assert_allclose(table.scores(name), truth.scores[0], atol=2e-6)


def test_too_many_neighbours_are_refused(tmp_path: Path) -> None:
    source = open_vectors(parquet(tmp_path / "v.parquet", ["a", "b", "c"], np.eye(3)))
    with pytest.raises(UserError, match=r"--k 3: .* has 2 others for each vector; give 1 to 2"):
        build_table(source, tmp_path / "t.parquet", 3)
    build_table(source, tmp_path / "t.parquet", 2)
    assert set(NeighbourTable.open(tmp_path / "t.parquet").neighbours("a")) == {"b", "c"}


@pytest.mark.chaos
def test_killed_shards_come_back_and_answer_the_same(tmp_path: Path) -> None:
    vectors = clustered(4000)
    storage = storage_of(tmp_path, vectors, 2, IndexConfig(kind="ivf"))
    with NeighbourService(storage.root) as service:
        queries, effort = unit(vectors[:200]), service.quality.effort
        before = service.search(queries, 8, effort)
        truth = brute_force(vectors[:200], vectors, 8)
        same(service.search(queries, 8), truth)
        kill_shards(service)
        after = service.search(queries, 8, effort)
        assert np.array_equal(before.rows, after.rows)
        same(service.search(queries, 8), truth)
        # what was added before another kill is not lost
        service.add(["new"], np.eye(16)[:1])
        kill_shards(service)
        ids, scores = service.nearest(np.eye(16)[:1], 2)
        assert ids[0][0] == "new"
        assert scores[0, 0] == pytest.approx(1, abs=1e-6)


@pytest.mark.chaos
def test_shards_killed_while_queries_wait(tmp_path: Path) -> None:
    """What was asked before the kill is answered after it, and truly."""
    vectors = clustered(4000)
    with NeighbourService(storage_of(tmp_path, vectors, 2, IndexConfig()).root) as service:
        service.collect(service.ask_rows(0, 10, 8), 8)  # shards are up
        truth = brute_force(vectors, vectors, 8)
        processes = ray.get([shard.__ray_call__.remote(lambda _: os.getpid()) for shard in service._shards])
        asked = [service.ask_rows(start, start + 100, 8) for start in range(0, 4000, 100)]
        for process in processes:
            os.kill(process, signal.SIGKILL)
        answered = [service.collect(parts, 8) for parts in asked]
        again = ray.get([shard.__ray_call__.remote(lambda _: os.getpid()) for shard in service._shards])
        assert not {*again} & {*processes}
    rows, scores = (np.concatenate([getattr(found, name) for found in answered]) for name in ("rows", "scores"))
    same(Found(scores, rows), truth)


def test_more_neighbours_than_the_recall_was_measured_for_are_found_exactly(tmp_path: Path) -> None:
    vectors = clustered(4000)
    with NeighbourService(storage_of(tmp_path, vectors, 2, IndexConfig(kind="ivf")).root) as service:
        names, scores = service.nearest(vectors[:20], 400)
        truth = brute_force(vectors[:20], vectors, 400)
        np.testing.assert_allclose(scores, truth.scores, atol=2e-6)
        found = [len({*map(int, row)} & {*wanted.tolist()}) for row, wanted in zip(names, truth.rows, strict=True)]
        assert min(found) >= 398  # rounding may exchange two at the end


def test_vectors_with_a_name_twice_leave_no_index(tmp_path: Path) -> None:
    source = open_vectors(parquet(tmp_path / "v.parquet", ["a", "a", "b"], np.eye(3)))
    for _ in range(2):  # the second time as the first
        with pytest.raises(UserError, match="'a'"):
            start_service(source, tmp_path / "index", IndexConfig(), shards=1)


def test_queries_are_checked(tmp_path: Path) -> None:
    with NeighbourService(storage_of(tmp_path, clustered(50), 1).root) as service:
        assert service.nearest(clustered(50)[3], 1)[0] == [["3"]]
        with pytest.raises(UserError, match="16 numbers"):
            service.nearest(np.ones((1, 5)), 1)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_service_that_stays_is_shared_and_grows(tmp_path: Path, kind: Any) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.normal(size=(300, 16)).astype(np.float32))
    vectors, root = open_vectors(tmp_path / "v.npy"), tmp_path / "index"
    first = start_service(vectors, root, IndexConfig(kind=kind), shards=2)
    try:
        other = NeighbourService(root, shared=True)  # another client, as of another process
        assert other.quality == first.quality
        names, scores = other.nearest_of(["7", "123"], 3)
        assert [row[0] for row in names] == ["7", "123"]
        assert scores[:, 0] == pytest.approx(1.0, abs=1e-5)
        new = rng.normal(size=(2, 16))
        first.add(["new a", "new b"], new)
        # the other client learns of them from the answer
        assert other.nearest(new, 2)[0][0][0] == "new a"
        assert other.manifest.rows == 302
        kill_shards(first)
        assert other.nearest_of(["new b"], 1)[0] == [["new b"]]
        again = start_service(vectors, root, IndexConfig(kind=kind), shards=2)  # it is there already
        assert again.manifest == other.manifest
        other.close()  # a client that leaves stops nothing
        assert first.nearest_of(["new a"], 1)[0] == [["new a"]]
    finally:
        first.stop()
    np.save(tmp_path / "w.npy", rng.normal(size=(300, 16)))
    with pytest.raises(UserError, match="other vectors"):
        start_service(open_vectors(tmp_path / "w.npy"), root, IndexConfig(kind=kind))
    with pytest.raises(UserError, match=f"kind '{kind}'"):
        start_service(vectors, root, IndexConfig(kind="ivf"))
    with pytest.raises(UserError, match="is not in"):
        other.nearest_of(["nobody"], 1)
