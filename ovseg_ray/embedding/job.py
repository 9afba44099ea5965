"""The embedding job: rows of a data set stream through Ray Data to actors that write parts of a feature store.

A part is the unit of everything: the block that travels, what an actor writes as a whole, what a job that was stopped
need not do again. Nothing but rows of the index is ever in the driver, and Ray Data holds back decoding while the
actors are busy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.readers.files import first_repeated
from ovseg_ray.data.square_blocks import SquareDecoder, bytes_of, mask_of
from ovseg_ray.embedding.config import EmbedConfig
from ovseg_ray.embedding.embedder import Embedder
from ovseg_ray.embedding.outdated import drop_outdated
from ovseg_ray.errors import UserError
from ovseg_ray.feature_store.sources import ContentHash, Source
from ovseg_ray.feature_store.store import (
    FeatureStore,
    StoredRow,
    StoreInfo,
    check_store,
    finish_store,
    part_file,
    part_summary,
    start_store,
    write_part,
)
from ovseg_ray.feature_store.vectors import MANIFEST, PARTS, ParquetVectors
from ovseg_ray.networks.config import pretrained_tag, weights_file
from ovseg_ray.networks.frozen import weights_hash
from ovseg_ray.progress import ProgressBar

MOST_PART_IMAGES = 64
# Some of every CPU stays free for decoding. Else actors that come back after a node was lost may take all of those that
# are left, and wait for ever for what nobody decodes.
ACTOR_CPUS, DECODE_CPUS = 0.97, 0.01
DECODERS = 2  # for an actor without a GPU: each more costs seconds of a CPU to start
PART_BYTES = 32 << 20  # of decoded squares: Ray Data would split a block of four times as much


def embed(dataset: DataSet, out: Path, config: EmbedConfig, *, workers: int | None = None) -> FeatureStore:
    """Embed every image of a split. Ray must be connected (`ovseg_ray.cluster.connect`).

    The same call again goes on where it was stopped: parts that are there are kept. An image that cannot be read is
    recorded in the manifest and left out; once it was mended, the same call takes it in. An image or mask that was
    replaced under its name since is embedded again, with the others of its part.

    Args:
        dataset: its files seen by every node.
        out: directory of the store, on storage that every node sees.
        config: what to compute.
        workers: actors with the backbone; default: one a GPU, else one for every two CPUs.

    Raises:
        UserError: no images, two of one id, none that can be read, weights that do not fit, another store in `out`.
    """
    out = Path(out).absolute()
    job = check(dataset, out, config)
    if config.encoder.weights is None:
        print("embed: the backbone has random weights; --weights gives it those of a training", file=sys.stderr)
    probe = Embedder(config)  # what is wrong with the encoder is said here, once
    start_store(out, job)
    size = part_images(config)
    drop_outdated(dataset, out, size)
    if (out / MANIFEST).is_file():
        return FeatureStore.open(out)
    parts = range(-(-len(dataset) // size))
    missing = [number for number in parts if not part_file(out, number).is_file()]
    done = len(dataset) - sum(min(size, len(dataset) - number * size) for number in missing)
    if done:
        print(f"embed: {done} of {len(dataset)} images were done before", file=sys.stderr, flush=True)
    with ProgressBar("embed", len(dataset), "images") as bar:
        bar.start(done)
        failed = 0
        for images, wrong in _run(dataset, out, config, missing, size, workers):
            done, failed = done + images, failed + wrong
            bar.update(done, unreadable=str(failed))
    return _finish(dataset, out, config, probe, len(parts))


def check(dataset: DataSet, out: Path, config: EmbedConfig) -> dict[str, Any]:
    """What `embed` would do, if nothing stands against it that can be told without Ray.

    Raises:
        UserError: no images, two of one id, no such weights, or another store in `out`.
    """
    if len(dataset) == 0:
        raise UserError(f"{dataset.path} (split {dataset.split}): holds no images; give another data set or split")
    repeated = first_repeated(dataset.index.column("image_id").to_pylist())
    if repeated is not None:
        raise UserError(
            f"{dataset.path} (split {dataset.split}): image id '{repeated}' stands twice; give every image its own id"
        )
    job = job_of(dataset, config)
    check_store(out, job)
    return job


def job_of(dataset: DataSet, config: EmbedConfig) -> dict[str, Any]:
    """Identity of a store: all that its content follows from."""
    values = config.model_dump(mode="json", exclude={"batch_size"})
    weights = config.encoder.weights
    if weights is not None and weights_hash_needs_file(weights):
        raise UserError(f"{weights_file(weights)}: no such weights file; give one in --weights")
    return {
        **values,
        "weights": weights_hash(weights),
        "data": dataset.fingerprint(),
        "path": str(dataset.path),
        "split": dataset.split,
    }


def weights_hash_needs_file(weights: str) -> bool:
    """Whether weights name a file that is not there."""
    return pretrained_tag(weights) is None and not weights_file(weights).is_file()


def part_images(config: EmbedConfig) -> int:
    """Images of a part."""
    squares = config.squares
    return max(1, min(MOST_PART_IMAGES, PART_BYTES // (squares.size**2 * 3 * squares.squares)))


def _run(
    dataset: DataSet, out: Path, config: EmbedConfig, missing: list[int], size: int, workers: int | None
) -> Iterator[tuple[int, int]]:
    """(images, unreadable ones) of each part as it is written."""
    if not missing:
        return
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = workers or gpus or max(1, int(resources.get("CPU", 1)) // 2)
    blocks = []
    for number in missing:
        block = dataset.index.slice(number * size, size)
        blocks.append(block.append_column("part", pa.array([number] * block.num_rows)))
    reader = SquareDecoder(dataset.without_index(), config.squares)
    decoders = max(1, int(resources.get("CPU", 1))) if gpus else DECODERS * workers
    written = (
        ray.data.from_arrow(blocks)
        # other resources than the actors: else Ray Data would fuse both, and nothing be decoded while actors compute
        .map_batches(
            reader,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            compute=ray.data.TaskPoolStrategy(size=min(decoders, len(blocks))),
        )
        .map_batches(
            _Writer,
            fn_constructor_args=(out, config),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(missing))),
            num_gpus=1 if gpus else 0,
            num_cpus=ACTOR_CPUS,
        )
    )
    for batch in written.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            yield row["images"], row["failed"]


class _Writer:
    """An actor that holds the backbone and writes parts."""

    def __init__(self, out: Path, config: EmbedConfig) -> None:
        gpu = bool(ray.get_gpu_ids())
        self._out, self._config = out, config
        self._embedder = Embedder(config, "cuda" if gpu else "cpu")

    def __call__(self, block: pa.Table) -> pa.Table:
        numbers = set(block.column("part").to_pylist())
        assert len(numbers) == 1, "a block is one part"
        number, side = numbers.pop(), self._config.squares.size
        failed: list[dict[str, Any]] = []
        kept: list[dict[str, Any]] = []
        for row in block.drop_columns(["pixels"]).to_pylist():
            (failed if row["problem"] is not None else kept).append(row)
        stored = []
        if kept:
            pixels = bytes_of(block.column("pixels")).reshape(-1, side, side, 3)
            seeds = [number * MOST_PART_IMAGES * 5 + place for place in range(len(kept))]
            vectors, maps = self._embedder(pixels, seeds)
            for row, vector, features in zip(kept, vectors, maps, strict=True):
                dense = None if self._config.dense == "none" else features
                stored.append(StoredRow(row["image_id"], vector, dense, mask_of(row, side)))
        problems = [(row["image_id"], row["problem"]) for row in failed]
        sources = [Source(**source) for source in block.column("source").to_pylist() if source is not None]
        write_part(self._out, number, stored, problems, self._config.dense, sources)
        images = len(kept) // self._config.squares.squares + len(failed)
        return pa.table({"part": [number], "images": [images], "failed": [len(failed)]})


def _finish(dataset: DataSet, out: Path, config: EmbedConfig, probe: Embedder, parts: int) -> FeatureStore:
    files = [part_file(out, number) for number in range(parts)]
    rows, error, content = 0, 0.0, ContentHash()
    failed: list[tuple[str, str]] = []
    for file in files:
        summary = part_summary(file)
        rows, error = rows + summary.rows, max(error, summary.error)
        failed += summary.failed
        content.update(summary.sources)
    if rows == 0:
        raise UserError(f"{dataset.path}: none of its {len(dataset)} images can be read ({failed[0][1]}); mend them")
    known = sorted((out / PARTS).glob("*.parquet"))
    assert known == files, "parts are those of this job"
    info = StoreInfo(
        job=job_of(dataset, config),
        rows=rows,
        images=rows // config.squares.squares,
        failed=failed,
        dim=probe.backbone.channels,
        grid=probe.grid,
        dense=config.dense,
        error=error,
        features=ParquetVectors(out, files).fingerprint(),
        labels=dataset.vocabulary.names if dataset.vocabulary is not None and dataset.masks is not None else (),
        content=content.hexdigest() if content.images == len(dataset) else None,
    )
    return finish_store(out, info)
