from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from search_tools import clustered, storage_of, unit

from ovseg_ray.commands.neighbours import add, query
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.vectors import open_vectors
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.neighbours.storage import Storage


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_rows_come_back_normalised_in_order(tmp_path: Path, shards: int) -> None:
    vectors = clustered(101)
    storage = storage_of(tmp_path, vectors, shards)
    manifest = storage.manifest()
    assert manifest.rows == 101
    assert len(manifest.segments) == shards
    assert manifest.features == open_vectors(tmp_path / "vectors.npy").fingerprint()
    np.testing.assert_allclose(storage.read_rows(0, 101, manifest), unit(vectors), atol=1e-6)
    np.testing.assert_allclose(storage.read_rows(30, 70, manifest), unit(vectors)[30:70], atol=1e-6)
    rows = np.array([100, 0, 55, 55])
    np.testing.assert_allclose(storage.gather(rows, manifest.segments), unit(vectors)[rows], atol=1e-6)
    assert storage.names.to_pylist() == [str(row) for row in range(101)]


def test_added_vectors_go_to_the_smallest_shard_and_change_the_hash(tmp_path: Path) -> None:
    storage = storage_of(tmp_path, clustered(21), 2)
    before = storage.manifest()
    after = storage.append(pa.array(["new"]), np.ones((1, 16), np.float32))
    assert after == storage.manifest()
    assert after.segments[:2] == before.segments
    assert after.segments[2].shard == 0
    assert after.features != before.features
    assert storage.names.to_pylist()[-1] == "new"


MISTAKES = [
    (["3"], np.ones((1, 16)), "there already"),
    (["a", "a"], np.ones((2, 16)), "there already"),
    (["a"], np.zeros((1, 16)), "all zeros"),
    (["a"], np.ones((1, 5)), "16 numbers"),
]


@pytest.mark.parametrize(("ids", "vectors", "said"), MISTAKES)
def test_unfit_additions_change_nothing(tmp_path: Path, ids: list[str], vectors: np.ndarray, said: str) -> None:
    storage = storage_of(tmp_path, clustered(20))
    before = storage.manifest()
    with pytest.raises(UserError, match=said):
        storage.append(pa.array(ids), vectors.astype(np.float32))
    assert storage.manifest() == before


def test_names_must_differ(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pa.table({"image_id": ["a", "b", "a"], "vector": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]})
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(UserError, match="'a' comes more than once"):
        Storage.create(tmp_path / "index", open_vectors(tmp_path / "v.parquet"), 1, IndexConfig())


def test_no_storage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json"):
        Storage(tmp_path).manifest()


def test_what_is_no_index_is_told_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    np.save(tmp_path / "vectors.npy", np.ones((2, 3), np.float32))
    with pytest.raises(UserError, match=r"nowhere/.+: No such file or directory; give the directory of a neighbour"):
        query(tmp_path / "nowhere", ["a"])
    with pytest.raises(UserError, match="give the directory of a neighbour index"):
        add(tmp_path / "nowhere", tmp_path / "vectors.npy")
