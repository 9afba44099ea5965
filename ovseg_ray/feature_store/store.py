"""A feature store: parquet parts with a vector and, if wanted, the dense map of every image, and a manifest.

job.json        what is being embedded: the identity of the store
parts/          part-000000.parquet …: each there whole or not at all, so an interrupted job goes on
manifest.json   there only once all parts are
maps/           dense maps as plain arrays to map into memory, made from the parts when first asked for
"""

from __future__ import annotations

import fcntl
import io
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.sources import Source
from ovseg_ray.feature_store.vectors import MANIFEST, PARTS
from ovseg_ray.run_directory import write_atomically, write_directory_atomically

Dense = Literal["none", "float16", "int8"]
JOB = "job.json"
LEVELS = 127
_SUMMARY = b"ovseg_ray.failed"  # named after the first thing that it held


@dataclass(frozen=True)
class StoreInfo:
    """The manifest.

    Attributes:
        job: what was asked: encoder, preprocessing, hashes of weights and of the data's names and annotations, split.
        rows: of all parts: images, or their crops.
        images: read.
        failed: (image id, problem) of those that could not be.
        dim: numbers of a vector, and channels of a map.
        grid: (h, w) of the dense maps.
        dense: how they are stored.
        error: largest relative error of a place of an int8 map; 0 for float16, which is what it is measured on.
        features: hash of names and vectors, in the order of parts.
        labels: names of the classes of stored masks; empty where there are none.
        content: hash of names and contents of all images and masks, whatever their order; None in stores that were
            begun before contents were recorded.
    """

    job: Mapping[str, Any]
    rows: int
    images: int
    failed: Sequence[tuple[str, str]]
    dim: int
    grid: tuple[int, int]
    dense: Dense
    error: float
    features: str
    labels: Sequence[str] = field(default=())
    content: str | None = None


@dataclass(frozen=True)
class StoredRow:
    """One image or crop as it goes into a part.

    Attributes:
        image_id: of the row, unique.
        vector: (C,) float32, L2-normalised.
        features: (C, h, w) float32 or None.
        mask: (S, S) uint8 or uint16 class indices, or None.
    """

    image_id: str
    vector: np.ndarray
    features: np.ndarray | None = None
    mask: np.ndarray | None = None


class FeatureStore:
    """A finished store.

    Attributes:
        path: its directory.
        info: its manifest.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path, self.info = path, info

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """
        Raises:
            UserError: no store there, or one that is not finished.
        """
        root = Path(path).absolute()
        file = root / MANIFEST
        if not file.is_file():
            if (root / JOB).is_file():
                raise UserError(f"{path}: this feature store is not finished; run the same 'ovseg-ray embed' again")
            raise UserError(f"{path}: no feature store; make one with 'ovseg-ray embed DATA {path}'")
        try:
            values = json.loads(file.read_text())
            failed = tuple((name, problem) for name, problem in values.pop("failed"))
            info = StoreInfo(failed=failed, grid=tuple(values.pop("grid")), **values)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}: is damaged ({error}); run the same 'ovseg-ray embed' again") from error
        return cls(root, info)

    @property
    def files(self) -> list[Path]:
        """Parts, in order."""
        return sorted((self.path / PARTS).glob("*.parquet"))

    @cached_property
    def image_ids(self) -> list[str]:
        """Names of all rows, in order."""
        return [name for file in self.files for name in pq.read_table(file, columns=["image_id"])[0].to_pylist()]

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each name."""
        return {name: row for row, name in enumerate(self.image_ids)}

    def vectors(self) -> np.ndarray:
        """(N, C) float32 of all rows: for stores that fit into memory."""
        tables = [pq.read_table(file, columns=["vector"]).column(0).combine_chunks() for file in self.files]
        return np.concatenate([np.asarray(t.flatten(), np.float32).reshape(-1, self.info.dim) for t in tables])

    def features(self, row: int) -> np.ndarray:
        """(C, h, w) float32 of a row.

        Raises:
            UserError: the store has no dense maps.
        """
        maps, scales = self._maps
        values = maps[row].astype(np.float32)
        if scales is not None:
            values *= scales[row].astype(np.float32) / LEVELS
        return values

    def mask(self, row: int) -> np.ndarray | None:
        """(S, S) class indices of a row, 255 (8 bit) or 65535 (16 bit) where ignored; None where it has none."""
        data = self._masks[row].as_py()
        return None if data is None else np.array(Image.open(io.BytesIO(data)))

    @cached_property
    def _masks(self) -> pa.ChunkedArray:
        return pa.concat_tables([pq.read_table(file, columns=["mask"]) for file in self.files]).column(0)

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Mapped into memory: processes of one machine share the pages, and the system drops what is not used."""
        if self.info.dense == "none":
            raise UserError(f"{self.path}: has no dense maps; make it again with 'ovseg-ray embed … --dense float16'")
        place = self.path / "maps"
        shape = (self.info.rows, self.info.dim, *self.info.grid)
        if not (place / "features.npy").is_file():
            with (self.path / ".maps.lock").open("w") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX)  # one process makes them, the others wait for it
                if not (place / "features.npy").is_file():
                    write_directory_atomically(place, self._fill_maps)
        maps = np.load(place / "features.npy", mmap_mode="r")
        assert maps.shape == shape
        scales = np.load(place / "scales.npy", mmap_mode="r") if self.info.dense == "int8" else None
        return maps, scales

    def _fill_maps(self, partial: Path) -> None:
        shape = (self.info.rows, self.info.dim, *self.info.grid)
        dtype = np.int8 if self.info.dense == "int8" else np.float16
        maps = np.lib.format.open_memmap(partial / "features.npy", "w+", dtype, shape)
        scales = None
        if self.info.dense == "int8":
            scales = np.lib.format.open_memmap(partial / "scales.npy", "w+", np.float16, (shape[0], 1, *shape[2:]))
        row = 0
        for file in self.files:
            table = pq.read_table(file, columns=["features", "scales"])
            for data, scale in zip(table.column(0), table.column(1), strict=True):
                maps[row] = np.frombuffer(data.as_buffer(), dtype).reshape(shape[1:])
                if scales is not None:
                    scales[row] = np.frombuffer(scale.as_buffer(), np.float16).reshape(1, *shape[2:])
                row += 1
        maps.flush()
        if scales is not None:
            scales.flush()


def start_store(path: Path, job: Mapping[str, Any]) -> None:
    """Make the directory of a store, or take up the one that was begun with the same job.

    Raises:
        UserError: something else is there.
    """
    check_store(path, job)
    if not (path / JOB).is_file():
        (path / PARTS).mkdir(parents=True, exist_ok=True)
        write_atomically(path / JOB, json.dumps(dict(job), indent=1) + "\n")


def check_store(path: Path, job: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: something else is there than the store of that job, or nothing.
    """
    file = path / JOB
    wanted = json.loads(json.dumps(dict(job)))
    if file.is_file():
        known = json.loads(file.read_text())
        if known != wanted:
            key = next(key for key in [*wanted, *known] if known.get(key) != wanted.get(key))
            what = "images or annotations were added, removed or renamed" if key == "data" else f"{key} differs"
            raise UserError(f"{path}: holds a feature store of another job ({what}); choose another OUT")
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: is there and no feature store; choose a new or empty directory")


def is_store(path: Path) -> bool:
    """Whether a directory is a feature store, finished or not."""
    return (path / JOB).is_file() and (path / PARTS).is_dir()


def part_file(path: Path, number: int) -> Path:
    """Place of a part."""
    return path / PARTS / f"part-{number:06d}.parquet"


def write_part(
    path: Path,
    number: int,
    rows: Sequence[StoredRow],
    failed: Sequence[tuple[str, str]],
    dense: Dense,
    sources: Sequence[Source] = (),
) -> None:
    """Write a part that is there whole or not at all.

    Args:
        path: of the store.
        number: of the part.
        rows: its images or crops.
        failed: (image id, problem) of those that could not be read.
        dense: how maps are stored.
        sources: what its images were, those that could not be read among them.

    Raises:
        UserError: it cannot be written.
    """
    encoded = [_encoded(row.features, dense) for row in rows]
    dim = len(rows[0].vector) if rows else 1
    vectors = np.stack([row.vector for row in rows]).astype(np.float32) if rows else np.zeros((0, 1), np.float32)
    table = pa.table(
        {
            "image_id": pa.array([row.image_id for row in rows], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim).cast(
                pa.list_(pa.float32())
            ),
            "features": pa.array([e[0] for e in encoded], pa.large_binary()),
            "scales": pa.array([e[1] for e in encoded], pa.binary()),
            "mask": pa.array([_png(row.mask) for row in rows], pa.binary()),
        }
    )
    error = max((e[2] for e in encoded), default=0.0)
    said = {"failed": list(failed), "error": error, "sources": list(sources)}
    meta = {_SUMMARY: json.dumps(said).encode()}
    file = part_file(path, number)
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        pq.write_table(table.replace_schema_metadata(meta), partial, compression="none" if dense != "none" else "zstd")
        partial.replace(file)
    except OSError as problem:
        raise UserError(
            f"{file}: cannot be written ({problem.strerror}); make room, then run the same again"
        ) from problem
    finally:
        partial.unlink(missing_ok=True)


class PartSummary(NamedTuple):
    """What a part tells without being read.

    Attributes:
        rows: images, or their crops.
        failed: (image id, problem) of those that could not be read.
        error: largest quantisation error.
        sources: of all its images; empty in parts that were written before they were recorded.
    """

    rows: int
    failed: list[tuple[str, str]]
    error: float
    sources: list[Source]


def part_summary(file: Path) -> PartSummary:
    """The summary of a part, from its metadata alone."""
    metadata = pq.read_metadata(file)
    said = json.loads((metadata.metadata or {})[_SUMMARY])
    failed = [(name, problem) for name, problem in said["failed"]]
    return PartSummary(
        metadata.num_rows, failed, said["error"], [Source(*source) for source in said.get("sources", ())]
    )


def finish_store(path: Path, info: StoreInfo) -> FeatureStore:
    """Write the manifest: from now on the store can be read."""
    write_atomically(path / MANIFEST, json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n")
    return FeatureStore.open(path)


def _encoded(features: np.ndarray | None, dense: Dense) -> tuple[bytes | None, bytes | None, float]:
    """Bytes, scales and the largest relative error of a place."""
    if features is None or dense == "none":
        return None, None, 0.0
    if dense == "float16":
        return np.ascontiguousarray(features, np.float16).tobytes(), None, 0.0
    # each place its own scale: only directions matter later, and places differ widely in length
    scale = np.abs(features).max(0, keepdims=True).astype(np.float16)
    wide = np.maximum(scale.astype(np.float32), 1e-7)
    levels = np.rint(features / wide * LEVELS).clip(-LEVELS, LEVELS).astype(np.int8)
    off = np.linalg.norm(levels * (wide / LEVELS) - features, axis=0)
    error = float((off / np.maximum(np.linalg.norm(features, axis=0), 1e-12)).max())
    return levels.tobytes(), scale.tobytes(), error


def _png(mask: np.ndarray | None) -> bytes | None:
    if mask is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
