"""Which parts of a store are forgotten, told without Ray and without reading what has not changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovseg_ray.data import open_dataset
from ovseg_ray.data.dataset import DataSet, plain_index
from ovseg_ray.data.readers.feature_store import FeatureDataSet
from ovseg_ray.data.square_blocks import SquareDecoder
from ovseg_ray.data.squares import SquareConfig
from ovseg_ray.embedding import outdated
from ovseg_ray.embedding.outdated import drop_outdated
from ovseg_ray.feature_store.sources import Source
from ovseg_ray.feature_store.store import StoredRow, part_file, part_summary, write_part
from ovseg_ray.feature_store.vectors import MANIFEST

SIZE = 2  # images of a part


def save(path: Path, seed: int) -> None:
    """A picture that is always as many bytes long."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path, format="BMP")


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    (root / "classes.json").write_text('{"classes": ["a", "b"]}')
    for index in range(6):
        save(root / f"images/train/{index}.bmp", index)
        Image.fromarray(np.zeros((6, 6), np.uint8)).save(root / f"masks/train/{index}.png")
    return open_dataset(root)


@pytest.fixture
def store(dataset: DataSet, tmp_path: Path) -> Path:
    """Whole, of three parts."""
    out = tmp_path / "store"
    (out / "parts").mkdir(parents=True)
    decoder = SquareDecoder(dataset.without_index(), SquareConfig(size=4, crops="five"))
    for number in range(3):
        rows = dataset.index.slice(number * SIZE, SIZE)
        block = decoder(rows.append_column("part", pa.array([number] * rows.num_rows)))
        sources = [Source(**source) for source in block.column("source").to_pylist() if source is not None]
        assert [source.image_id for source in sources] == rows.column("image_id").to_pylist()
        stored = [StoredRow(name, np.ones(3, np.float32)) for name in block.column("image_id").to_pylist()]
        write_part(out, number, stored, [], "none", sources)
    (out / MANIFEST).write_text("{}")
    return out


def parts(out: Path) -> list[int]:
    return [number for number in range(3) if part_file(out, number).is_file()]


def test_nothing_is_read_where_nothing_has_changed(
    dataset: DataSet, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> bytes:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(outdated, "read_bytes", read)
    drop_outdated(dataset, store, SIZE)
    assert parts(store) == [0, 1, 2]
    assert (store / MANIFEST).is_file()


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_file_replaced_by_one_as_long_takes_its_part_away(
    kind: str, dataset: DataSet, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "maps").mkdir()
    image = Path(dataset.row(3)["image_path"])
    if kind == "image":
        size = image.stat().st_size
        save(image, 99)
        assert image.stat().st_size == size
    else:
        Image.fromarray(np.ones((6, 6), np.uint8)).save(dataset.row(3)["mask_path"])
    drop_outdated(dataset, store, SIZE)
    assert parts(store) == [0, 2]
    assert not (store / MANIFEST).exists()
    assert not (store / "maps").exists()
    assert f"embed: {image} has other content than was embedded" in capsys.readouterr().err


def test_the_same_content_at_another_time_keeps_its_part(dataset: DataSet, store: Path) -> None:
    for row in dataset.index.to_pylist():
        os.utime(row["image_path"], ns=(0, 1))
    drop_outdated(dataset, store, SIZE)
    assert parts(store) == [0, 1, 2]
    assert (store / MANIFEST).is_file()


def test_an_image_that_is_away_takes_nothing_away(dataset: DataSet, store: Path) -> None:
    Path(dataset.row(0)["image_path"]).unlink()
    drop_outdated(dataset, store, SIZE)
    assert parts(store) == [0, 1, 2]


def test_rows_that_come_from_no_file_never_change(tmp_path: Path) -> None:
    index = plain_index(["a"], [tmp_path / "parts"])
    dataset = FeatureDataSet(tmp_path, "train", "features", index, None, None)
    block = SquareDecoder(dataset, SquareConfig(size=4))(index.append_column("part", pa.array([0])))
    (row,) = block.to_pylist()
    assert row["problem"] is None
    assert row["source"]["stamp"] == ""
    (tmp_path / "parts").mkdir()
    write_part(tmp_path, 0, [StoredRow("a", np.ones(3, np.float32))], [], "none", [Source(**row["source"])])
    drop_outdated(dataset, tmp_path, SIZE)
    assert parts(tmp_path) == [0]


def test_an_old_part_says_nothing_and_is_kept(dataset: DataSet, store: Path) -> None:
    for number in range(3):
        table = pq.read_table(part_file(store, number))
        said = json.loads(table.schema.metadata[b"ovseg_ray.failed"])
        del said["sources"]
        metadata = {b"ovseg_ray.failed": json.dumps(said).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), part_file(store, number))
        assert part_summary(part_file(store, number)).sources == []
    for row in dataset.index.to_pylist():
        save(row["image_path"], 99)
    drop_outdated(dataset, store, SIZE)
    assert parts(store) == [0, 1, 2]
