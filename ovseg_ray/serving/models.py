"""The models of a replica: loaded, warmed up, by name and version."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.methods.base import Encoding
from ovseg_ray.methods.export import DESCRIPTION_FILE, WEIGHTS_FILE
from ovseg_ray.methods.tiling import TileGrid, Window, segment_band
from ovseg_ray.segmenter import Segmenter, find_model
from ovseg_ray.serving import memory
from ovseg_ray.serving.api import ModelInfo
from ovseg_ray.serving.batch_sizes import BatchSizes
from ovseg_ray.serving.batching import Batcher
from ovseg_ray.serving.config import BatchingConfig, ServedModelConfig, TilesConfig
from ovseg_ray.serving.encoded import WHOLE, Encoded
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.processors import Processors
from ovseg_ray.serving.texts import SharedPrompts, Texts

T = TypeVar("T")
SMALLEST_TILE = 64
# Pictures whose labels are found in one call: up to so many pixels together. What a call costs before its first pixel
# weighs on small ones only, and memory of a call is not part of what batches are planned by.
LABELLED_TOGETHER = 2**18


@dataclass(frozen=True)
class Prepared:
    """A picture as the network takes it.

    Attributes:
        image: (3, h, w) float32.
        size: (H, W) of the picture itself.
    """

    image: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """What a picture shows.

    Attributes:
        label_map: (H, W) uint8, uint16 over 255 labels.
        confidence: (H, W) float32.
        encoded: the picture's encoding, if it was to be kept.
        started: when the model turned to it (time.perf_counter).
        encoded_at: when the image network was done with it.
    """

    label_map: np.ndarray
    confidence: np.ndarray
    encoded: Encoded | None
    started: float
    encoded_at: float


@dataclass(frozen=True)
class _Question:
    """Labels asked of a picture: (N, D) text, the (H, W) of the answer, whether the encoding is wanted as well."""

    text: Tensor
    size: tuple[int, int]
    keep: bool


@dataclass(eq=False)
class _Job:
    """One picture's way through the image network, and through the labels where there are any."""

    image: Tensor
    inner: tuple[int, int]
    question: _Question | None
    gone: bool = False  # nobody waits for it any more


class ServedModel:
    """A model that answers many requests at a time.

    Args:
        name: what clients call it.
        version: of what stands under that name.
        segmenter: the model itself, on its device.
        processors: that its device computes with.
        batching: sizes.
        tiles: for large pictures.
        prompts: the cache of all replicas.
        source: what it was loaded from; see `source_of`.
    """

    def __init__(
        self,
        name: str,
        version: str,
        segmenter: Segmenter,
        processors: Processors,
        batching: BatchingConfig,
        tiles: TilesConfig,
        prompts: SharedPrompts,
        source: Hashable = None,
    ) -> None:
        self.name, self.version, self.segmenter = name, version, segmenter
        self.source = source
        self.method = segmenter.method
        self.device = next(self.method.parameters()).device
        assert self.method.text_encoder is not None
        self.texts = Texts(self.method.text_encoder, self.device, prompts)
        self._processors = processors
        cost = memory.probe(self.method, self.device)  # warms up, too
        self._cost, self._kept = cost.encoding, cost.encoded
        self._batching: BatchingConfig | None = None
        self._budget = 0
        self.configure(batching, tiles)
        self._sizes = BatchSizes()
        self.batcher: Batcher[_Job, Any] = Batcher(self._run, processors, self.limit, self._least)

    @classmethod
    def load(
        cls,
        config: ServedModelConfig,
        processors: Callable[[torch.device], Processors],
        batching: BatchingConfig,
        tiles: TilesConfig,
        prompts: SharedPrompts,
    ) -> ServedModel:
        """As configured, on the processors of its device.

        Raises:
            UserError: no finished model there, one that does not segment, or no such device.
        """
        directory = find_model(Path(config.run))
        name, version = identity(config)
        segmenter = Segmenter.load(directory, config.device, config.precision)
        shared = processors(next(segmenter.method.parameters()).device)
        return cls(name, version, segmenter, shared, batching, tiles, prompts, cls.source_of(config))

    @staticmethod
    def source_of(config: ServedModelConfig) -> Hashable:
        """Equal for configurations that load the same files under the same name.

        Raises:
            UserError: no finished model there.
        """
        return (*identity(config), config.device, config.precision, fingerprint(find_model(Path(config.run))))

    def configure(self, batching: BatchingConfig, tiles: TilesConfig) -> None:
        """Other sizes from now on. A budget that was learned stays where nothing is said about batches."""
        self._tiles = tiles
        if batching != self._batching:
            self._batching, self._largest = batching, batching.max_images
            self._budget = batching.memory_bytes or memory.budget(self.device)

    @property
    def key(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"

    def limit(self, key: Hashable, processors: int) -> int:
        """How many pictures of a shape (h, w) go together: what fits into memory, or less where less is faster.

        Of memory a pass has the part that it has of the processors.
        """
        fits = int(self._budget * processors / self._processors.count // self._bytes(key))
        return self._sizes.best((key, processors), max(1, min(self._largest, fits)))

    def _least(self, key: Hashable) -> int:
        """How many processors must be free for a picture of a shape (h, w), whose memory it has then."""
        return math.ceil(self._processors.count * self._bytes(key) / max(1, self._budget))

    def _bytes(self, key: Hashable) -> float:
        assert isinstance(key, tuple)
        return max(1.0, self._cost * math.prod(key))

    @property
    def tile_side(self) -> int:
        """Side of the windows of large pictures: the configured one, smaller where memory is."""
        step = math.lcm(self.method.pads_to, SMALLEST_TILE)
        fits = int(math.sqrt(self._budget / max(self._cost, 1e-9)))
        return max(step, min(self._tiles.side, fits) // step * step)

    def prepare(self, image: np.ndarray) -> Prepared:
        """(H, W, 3) uint8 RGB as the network takes it."""
        return Prepared(self.method.preprocess(image), (image.shape[0], image.shape[1]))

    def grid(self, prepared: Prepared) -> TileGrid | None:
        """Windows of a picture that is too large for the network; None for others."""
        height, width = prepared.image.shape[1:]
        side = self.tile_side
        if height * width <= max(self._tiles.above_pixels, side * side) and self._fits(height * width):
            return None
        return TileGrid.over((height, width), side, min(self._tiles.overlap, side // 4))

    def encoded_bytes(self, prepared: Prepared) -> int:
        """What `Encoded.bytes` will be, before anything is encoded."""
        grid = self.grid(prepared)
        height, width = grid.window if grid else prepared.image.shape[1:]
        windows = len(grid.rows) * len(grid.columns) if grid else 1
        return round(windows * self._kept * math.prod(self._padded((height, width))))

    # ---- through the network
    async def encode(self, prepared: Prepared) -> Encoded:
        """All that does not depend on labels."""
        grid = self.grid(prepared)
        if grid is None:
            encoding: Encoding = await self._submit(prepared.image)
            return Encoded(prepared.size, None, {WHOLE: encoding})
        windows = [(row, column) for row in range(len(grid.rows)) for column in range(len(grid.columns))]
        return Encoded(prepared.size, grid, await self._windows(grid, prepared.image, windows))

    async def segment(self, prepared: Prepared, text: Tensor, *, keep: bool = False) -> Found:
        """The best label of every pixel.

        Args:
            prepared: the picture.
            text: (N, D) on the model's device.
            keep: return the encoding as well.
        """
        grid = self.grid(prepared)
        if grid is not None:
            if keep:
                return await self.segment_encoded(await self.encode(prepared), text)
            return await self._segment_tiles(grid, prepared.size, text, prepared.image, {})

        found: Found = await self._submit(prepared.image, _Question(text, prepared.size, keep))
        return found

    async def segment_encoded(self, encoded: Encoded, text: Tensor) -> Found:
        """As `segment`, of a picture whose encoding is known."""
        if encoded.grid is not None:
            found = await self._segment_tiles(encoded.grid, encoded.size, text, None, dict(encoded.windows))
            return replace(found, encoded=encoded)

        def run() -> Found:
            started = time.perf_counter()
            encoding = encoded.windows[WHOLE].to(self.device)
            label_maps, confidences = self._labels(encoding, text, encoded.size)
            return Found(label_maps[0], confidences[0], encoded, started, started)

        return await self._in_thread(run)

    async def _segment_tiles(
        self,
        grid: TileGrid,
        size: tuple[int, int],
        text: Tensor,
        image: Tensor | None,
        windows: dict[Window, Encoding],
    ) -> Found:
        """Band by band; without the picture itself all windows must be there."""
        started = time.perf_counter()
        label_map = np.empty(grid.size, _label_type(len(text)))
        confidence = np.empty(grid.size, np.float32)
        for band in grid.bands():
            if image is not None:
                for window in [window for window in windows if window[0] < min(band[1])]:
                    del windows[window]
                wanted = [(row, column) for row in band[1] for column in range(len(grid.columns))]
                windows |= await self._windows(grid, image, [window for window in wanted if window not in windows])
            used = {key: value.to(self.device) for key, value in windows.items() if key[0] in band[1]}
            strips = segment_band(self.method, grid, used, text, band)
            while (strip := await self._in_thread(partial(self._strip, strips))) is not None:
                (top, bottom), labels, certainty = strip
                label_map[top:bottom], confidence[top:bottom] = labels, certainty
        if grid.size != size:
            label_map, confidence = _resized(label_map, confidence, size)
        return Found(label_map, confidence, None, started, started)

    def _strip(self, strips: Iterator[Any]) -> tuple[tuple[int, int], np.ndarray, np.ndarray] | None:
        try:
            with torch.inference_mode():
                rows, labels, confidence = next(strips)
        except StopIteration:
            return None
        except ValueError as error:
            raise ProblemError("too_many_labels", f"{error}: ask for fewer, or send a smaller picture") from error
        return rows, labels.cpu().numpy(), confidence.cpu().numpy()

    async def _windows(self, grid: TileGrid, image: Tensor, windows: Sequence[Window]) -> dict[Window, Encoding]:
        tasks = [self._submit(grid.cut(image, window)) for window in windows]
        return dict(zip(windows, await asyncio.gather(*tasks), strict=True))

    async def _submit(self, image: Tensor, question: _Question | None = None) -> Any:
        """Through the image network with whatever else waits: an `Encoding`, or what was `Found`."""
        inner = (image.shape[1], image.shape[2])
        # padded here, so that pictures of several sizes share a batch
        padded = self._padded(inner)
        job = _Job(image, inner, question)
        try:
            return await self.batcher.submit(job, padded)
        except asyncio.CancelledError:
            job.gone = True
            raise

    def _run(self, jobs: Sequence[_Job], processors: int) -> list[Any]:
        started = time.perf_counter()
        waiting = [job for job in jobs if not job.gone]
        results: dict[_Job, Any] = {}
        if waiting:
            try:
                encodings = self._encode(waiting, processors)
            except (RuntimeError, MemoryError) as error:
                if not memory.ran_out(error):
                    raise
                return self._run_halves(jobs, processors)
            times = started, time.perf_counter()
            for positions in _alike(waiting):
                if group := [position for position in positions if not waiting[position].gone]:
                    some = [waiting[position] for position in group]
                    results |= zip(some, self._answer(some, _part(encodings, group), *times), strict=True)
        return [results.get(job) for job in jobs]

    def _encode(self, jobs: Sequence[_Job], processors: int) -> Encoding:
        height, width = self._padded(jobs[0].inner)
        images = [
            F.pad(job.image, (0, width - job.inner[1], 0, height - job.inner[0]), mode="replicate")
            if job.inner != (height, width)
            else job.image
            for job in jobs
        ]
        started = time.perf_counter()
        with torch.inference_mode():
            encodings = self.method.encode(torch.stack(images).to(self.device))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._sizes.measured(((height, width), processors), len(jobs), time.perf_counter() - started)
        return encodings

    def _answer(self, jobs: Sequence[_Job], encodings: Encoding, started: float, encoded_at: float) -> Sequence[Any]:
        """Of jobs that ask the same."""
        question, encodings = jobs[0].question, replace(encodings, size=jobs[0].inner)
        if question is None:
            return [_part(encodings, [index]) for index in range(len(jobs))]
        try:
            maps = self._labels(encodings, question.text, question.size)
        except Exception as error:
            return [error] * len(jobs)
        kept: list[Encoded | None] = [None] * len(jobs)
        if question.keep:
            kept = [Encoded(question.size, None, {WHOLE: _part(encodings, [index])}) for index in range(len(jobs))]
        return [Found(*of_one, started, encoded_at) for of_one in zip(*maps, kept, strict=True)]

    def _run_halves(self, jobs: Sequence[_Job], processors: int) -> list[Any]:
        """A batch that did not fit, in two; from now on batches are smaller."""
        if len(jobs) == 1:
            return [ProblemError("image_too_large", "the picture needs more memory than there is")]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._budget = self._budget // 2
        half = len(jobs) // 2
        return [*self._run(jobs[:half], processors), *self._run(jobs[half:], processors)]

    def _labels(self, encoding: Encoding, text: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(B, H, W) label map and confidence."""
        with torch.inference_mode():
            found = self.method.segment(encoding, text, size)
        return found.label_map.cpu().numpy().astype(_label_type(len(text))), found.confidence.float().cpu().numpy()

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (length + -length % self.method.pads_to for length in size)
        return height, width

    def _fits(self, pixels: int) -> bool:
        return self._cost * pixels <= self._budget

    async def _in_thread(self, function: Callable[[], T]) -> T:
        share = await self._processors.take()
        return await self._processors.run(share, function)


def identity(config: ServedModelConfig) -> tuple[str, str]:
    """Name and version of a model that need not be loaded.

    Raises:
        UserError: no finished model there.
    """
    directory = find_model(Path(config.run))
    run = directory.parent if directory.name == "model" else directory
    return config.name or run.name, config.version or fingerprint(directory)


def fingerprint(directory: Path) -> str:
    """Hash of a model's files: 12 hex digits."""
    digest = hashlib.sha256()
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


class Models:
    """What a replica serves; never changed, only replaced as a whole.

    Args:
        models: in the order of the configuration.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def get(self, wanted: str | None) -> ServedModel:
        """The model of "NAME" (the first of its versions), "NAME@VERSION", or None for the default.

        Raises:
            ProblemError: no such model.
        """
        if wanted is None:
            return self._models[0]
        name, at, version = wanted.partition("@")
        for model in self._models:
            if model.name == name and (not at or model.version == version):
                return model
        known = ", ".join(dict.fromkeys(model.key if at else model.name for model in self))
        raise ProblemError("model_not_found", f'no model "{wanted}"; there is {known}')

    def describe(self) -> list[ModelInfo]:
        """What `/v1/models` says."""
        found = []
        for position, model in enumerate(self._models):
            label_sets = model.method.label_sets
            found.append(
                ModelInfo(
                    name=model.name,
                    version=model.version,
                    method=model.method.name,
                    labels=list(dict.fromkeys(name for labels in label_sets for name in labels.names)),
                    templates=list(model.segmenter.templates),
                    default=position == 0,
                    latest=self.get(model.name) is model,
                )
            )
        return found


def _alike(jobs: Sequence[_Job]) -> list[list[int]]:
    """Positions of jobs whose labels can be found together; of one that asks for none, alone."""
    groups: dict[Hashable, list[int]] = {}
    for position, job in enumerate(jobs):
        key = (id(job.question.text), job.question.size, job.question.keep, job.inner) if job.question else position
        groups.setdefault(key, []).append(position)
    found = []
    for group in groups.values():
        question = jobs[group[0]].question
        most = max(1, LABELLED_TOGETHER // math.prod(question.size)) if question else 1
        found += [group[start : start + most] for start in range(0, len(group), most)]
    return found


def _part(encodings: Encoding, positions: Sequence[int]) -> Encoding:
    """Of some images of a batch: copies, for a view would keep the encodings of the whole batch alive."""
    if len(positions) == len(next(iter(encodings.tensors.values()))):
        return encodings
    return encodings.select(torch.tensor(positions, device=next(iter(encodings.tensors.values())).device))


def _label_type(labels: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if labels <= 255 else np.uint16


def _resized(label_map: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both at the nearest of their pixels: where a method resizes pictures and they are still large."""
    rows, columns = (
        (np.arange(target) * 2 + 1) * source // (2 * target)
        for source, target in zip(label_map.shape, size, strict=True)
    )
    return label_map[rows[:, None], columns], confidence[rows[:, None], columns]
