from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.vectors import open_vectors


def matrix(rows: int = 50, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)


def whole(path: Path, size: int = 16) -> tuple[list[str], np.ndarray]:
    blocks = list(open_vectors(path).blocks(size))
    return [name for ids, _ in blocks for name in ids.to_pylist()], np.concatenate([block for _, block in blocks])


def parquet(path: Path, vectors: np.ndarray, kind: pa.DataType | None = None, **columns: list[str]) -> Path:
    names = columns.get("image_id", [str(row) for row in range(len(vectors))])
    table = pa.table({"image_id": names, "vector": pa.array(list(vectors), kind or pa.list_(pa.float32()))})
    pq.write_table(table, path)
    return path


KINDS = [
    pa.list_(pa.float32()),
    pa.large_list(pa.float32()),
    pa.list_(pa.float32(), 6),
    pa.list_(pa.float64()),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_parquet_of_any_list_type(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path / "v.parquet", matrix(), kind)
    vectors = open_vectors(path)
    assert (vectors.rows, vectors.dim) == (50, 6)
    ids, found = whole(path)
    assert ids == [str(row) for row in range(50)]
    assert np.array_equal(found, matrix())
    assert found.dtype == np.float32


def test_a_folder_of_parquet_is_read_in_order(tmp_path: Path) -> None:
    for part in range(3):
        names = [f"{part}-{row}" for row in range(20)]
        parquet(tmp_path / f"{part}.parquet", matrix(60)[part * 20 : part * 20 + 20], image_id=names)
    ids, found = whole(tmp_path)
    assert ids[:2] == ["0-0", "0-1"]
    assert np.array_equal(found, matrix(60))


def test_fingerprint_does_not_depend_on_the_kind_of_file_or_on_blocks(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", matrix())
    prints = {open_vectors(tmp_path / "v.npy").fingerprint()}
    prints.add(open_vectors(parquet(tmp_path / "v.parquet", matrix())).fingerprint())
    assert len(prints) == 1
    changed = matrix()
    changed[49, 5] += 1e-6
    np.save(tmp_path / "w.npy", changed)
    assert open_vectors(tmp_path / "w.npy").fingerprint() not in prints


def test_half_precision_array(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", matrix().astype(np.float16))
    assert whole(tmp_path / "v.npy")[1].dtype == np.float32


def broken(path: Path, what: str) -> Path:
    rows = matrix()
    if what == "nothing":
        return path / "nowhere"
    if what == "text":
        (path / "v.parquet").write_text("no parquet")
        return path / "v.parquet"
    if what == "pickle":
        np.save(path / "v.npy", np.array([{"a": 1}], object), allow_pickle=True)
        return path / "v.npy"
    if what == "one axis":
        np.save(path / "v.npy", rows[0])
        return path / "v.npy"
    if what == "not finite":
        rows[7, 2] = np.nan
        return parquet(path / "v.parquet", rows)
    if what == "ragged":
        table = pa.table({"image_id": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]})
    elif what == "column":
        table = pa.table({"image_id": ["a"], "embedding": [[1.0]]})
    else:
        table = pa.table({"image_id": ["a"], "vector": ["1, 2"]})
    pq.write_table(table, path / "v.parquet")
    return path / "v.parquet"


MISTAKES = [
    ("nothing", "no such file"),
    ("text", "parquet"),
    ("pickle", ".npy"),
    ("one axis", r"shape \(6,\)"),
    ("not finite", "'7'"),
    ("ragged", "different lengths"),
    ("column", "no column 'vector'"),
    ("strings", "holds string"),
]


@pytest.mark.parametrize(("what", "said"), MISTAKES)
def test_mistakes_are_named(tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        whole(broken(tmp_path, what))
