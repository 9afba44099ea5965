"""What an endpoint does, apart from HTTP and from Ray."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from ovseg_ray.serving import answers, fetching, pictures
from ovseg_ray.serving.api import (
    CacheUse,
    ImageInfo,
    Parameters,
    SegmentResponse,
    Timings,
    UploadResponse,
    VocabularyInfo,
)
from ovseg_ray.serving.capacity import Capacity
from ovseg_ray.serving.config import LimitsConfig, ServingConfig
from ovseg_ray.serving.encoded import Encoded
from ovseg_ray.serving.hub import Hub, Upload
from ovseg_ray.serving.hub_client import HubClient, LocalHub
from ovseg_ray.serving.image_store import ExpiringStore
from ovseg_ray.serving.metrics import Metrics
from ovseg_ray.serving.models import Found, Models, Prepared, ServedModel
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.processors import Processors, compute_with
from ovseg_ray.serving.texts import SharedPrompts, TextSide
from ovseg_ray.serving.vocabularies import Vocabularies, check_vocabulary
from ovseg_ray.vocabulary import Vocabulary

T = TypeVar("T")
logger = logging.getLogger("ovseg_ray.serving")
HELPERS = 2  # threads that decode pictures and make masks while the model works
LOCAL_SHARE = 4  # a replica keeps a quarter of what the hub may
LOCAL_IMAGES_TTL_S = 10.0  # a deleted upload is forgotten by other replicas after so long
UNAVAILABLE_RETRY_S = 1.0
STREAMED_BATCHES = 2  # pictures of all streams that are worked at: one batch is computed, one waits
# Pixels times labels: their masks take less than waking another thread and being woken by it. Preparing a picture goes
# there however small it is: a method may enlarge it, and PyTorch's work belongs to threads that have one processor
SMALL_ANSWER = 2**20


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        response: as JSON.
        label_map: (H, W) uint8 or uint16, after thresholds.
        confidence: (H, W) float32.
        names: of the labels.
    """

    response: SegmentResponse
    label_map: np.ndarray
    confidence: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A picture to segment: its file, what is known of it, and what it was called."""

    data: bytes
    encoded: Encoded | None
    image_id: str | None


class Engine:
    """Answers requests with the models it has loaded; none before the first `load`.

    Args:
        hub: that replicas share; default: one of its own.
        replica: name of this replica in metrics.
    """

    def __init__(self, hub: HubClient | None = None, replica: str | None = None) -> None:
        self.config = ServingConfig.model_construct(models=[])
        self.replica = replica or uuid.uuid4().hex[:8]
        self.metrics = Metrics()
        self.models = Models([])
        self.draining = False
        self.hub: HubClient = hub or LocalHub(Hub(0, 1.0))
        self.vocabularies = Vocabularies(self.hub)
        self._inside = 0
        self._held = Capacity(LimitsConfig().held_pixels)
        self._streamed = Capacity(STREAMED_BATCHES)
        # what this replica used of late of the shared uploads
        self._uploads: ExpiringStore[Upload] = ExpiringStore(0, LOCAL_IMAGES_TTL_S, renews=False)
        # Only passes through a model compute in parallel. Were there a team of OpenMP threads for each thread that uses
        # PyTorch, they would be more than processors, and OpenMP would put them to sleep at every barrier: a forward
        # pass then takes half as long again.
        self._cpu = Processors(torch.get_num_threads())
        self._gpus: dict[torch.device, Processors] = {}
        self._helpers = ThreadPoolExecutor(HELPERS, "helper", compute_with, (1,))
        # a text tower that takes its time keeps nobody's picture waiting
        self._text_thread = ThreadPoolExecutor(1, "text", compute_with, (1,))
        self._loader = ThreadPoolExecutor(1, "loader", compute_with, (1,))

    # ---- models
    def load(self, config: ServingConfig) -> None:
        """Serve the models of a configuration from now on; those that stay are not loaded again.

        Requests that have begun end with the model they began with. Blocks while models are loaded.

        Raises:
            UserError: a model that cannot be served; those that were served before still are.
        """
        self._loader.submit(self._load, config).result()

    def _load(self, config: ServingConfig) -> None:
        kept = {model.source: model for model in self.models}
        prompts = SharedPrompts(self.hub.get_prompts, self.hub.put_prompts)
        loaded = []
        for wanted in config.models:
            model = kept.get(ServedModel.source_of(wanted))
            if model is None:
                model = ServedModel.load(wanted, self._processors, config.batching, config.tiles, prompts)
                model.batcher.on_batch = self.metrics.batch(model.name)
            loaded.append(model)
        for model in loaded:
            model.configure(config.batching, config.tiles)
        self.config = config
        self.tell_hub()
        self._held.total = config.limits.held_pixels
        self._streamed.total = STREAMED_BATCHES * config.batching.max_images
        self._uploads.max_bytes = config.images.bytes // LOCAL_SHARE
        self.models = Models(loaded)
        # a model and its batcher know each other: without this, old models would pile up until Python looks for cycles
        del kept, model
        gc.collect()

    def tidy(self) -> None:
        """Forget copies of uploads that have expired."""
        self._uploads.tidy()

    def tell_hub(self) -> None:
        """What this replica serves; now and then, for a hub that died knows nothing."""
        self.hub.put_config(self.config.model_dump(mode="json"))

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self.draining and any(True for _ in self.models)

    @property
    def alive(self) -> bool:
        """Whether the threads that do the work take any."""
        return self._cpu.alive and not self._helpers._shutdown

    def _processors(self, device: torch.device) -> Processors:
        """What computes on a device: models on the same one share it."""
        if device.type == "cpu":
            return self._cpu
        return self._gpus.setdefault(device, Processors(1, self._cpu.count))

    # ---- admission
    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request that is being answered.

        Raises:
            ProblemError: there are too many already, or none is taken.
        """
        if not self.ready:
            raise ProblemError("unavailable", "no request is taken at the moment", retry_after=UNAVAILABLE_RETRY_S)
        if self._inside >= self.config.limits.requests:
            seconds = max(model.batcher.seconds_per_item for model in self.models)
            raise ProblemError(
                "overloaded", f"{self._inside} requests are being answered", retry_after=seconds * self._inside
            )
        self._inside += 1
        self.metrics.inside(self._inside)
        try:
            yield
        finally:
            self._inside -= 1
            self.metrics.inside(self._inside)

    @contextlib.asynccontextmanager
    async def deadline(self, parameters: Parameters | None = None, begun: float | None = None) -> AsyncIterator[None]:
        """Cancel what happens within once a request's deadline has passed.

        Args:
            parameters: of the request.
            begun: when it counts from, by the event loop's clock; default: now.

        Raises:
            ProblemError: it has.
        """
        most = self.config.limits.deadline_ms
        asked = parameters.deadline_ms if parameters else None
        allowed = min(asked or most, most)
        try:
            start = asyncio.get_running_loop().time() if begun is None else begun
            async with asyncio.timeout_at(start + allowed / 1000):
                yield
        except TimeoutError as error:
            raise ProblemError("deadline_exceeded", f"no answer within {allowed} ms") from error

    # ---- requests
    async def segment(self, source: bytes | str | None, image_id: str | None, parameters: Parameters) -> Answer:
        """Segment one picture.

        Args:
            source: the picture's file, or text as `fetch` takes it; None if `image_id` is given.
            image_id: of an upload.
            parameters: what is asked.

        Raises:
            ProblemError: whatever is wrong with the request.
        """
        async with self.deadline(parameters):
            data = None if source is None else await self.fetch(source)
            return await self._segment(data, image_id, parameters)

    async def segment_many(
        self, sources: Sequence[bytes | str], parameters: Parameters
    ) -> AsyncGenerator[tuple[int, Answer | ProblemError]]:
        """Segment a list of pictures, each answer as it is ready, with its index; some go through the model together.

        The deadline holds for each of them, and ends no sending. Answers that nobody takes hold new pictures up.

        Args:
            sources: a file each, or text as `fetch` takes it.
            parameters: what is asked of all of them.
        """
        begun = asyncio.get_running_loop().time()

        async def one(index: int) -> tuple[int, Answer | ProblemError]:
            try:
                async with self.deadline(parameters, begun), self._streamed.take(1):
                    return index, await self._segment(await self.fetch(sources[index]), None, parameters)
            except ProblemError as error:
                return index, error
            except Exception:  # one picture's fault is its own line, not the end of all
                logger.exception("fault in picture %d of a batch", index)
                return index, ProblemError("internal", "the server's log says more under this request id")

        left = iter(range(len(sources)))
        running = {asyncio.create_task(one(index)) for index in itertools.islice(left, self._streamed.total)}
        try:
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
                    running |= {asyncio.create_task(one(index)) for index in itertools.islice(left, 1)}
        finally:
            for task in running:
                task.cancel()

    async def upload(self, source: bytes | str, model_name: str | None) -> UploadResponse:
        """Keep a picture and its encoding.

        Args:
            source: as of `segment`.
            model_name: that encodes it; None: the default.

        Raises:
            ProblemError: whatever is wrong with the request, or no room for it.
        """
        async with self.deadline():
            data = await self.fetch(source)
            model = self.models.get(model_name)
            async with self._held.take(self._pixels(_Source(data, None, None))):
                _, prepared = await self._help(lambda: self._prepare(data, model))
                if not self._has_room(size := len(data) + model.encoded_bytes(prepared)):
                    raise _no_room(size)
                encoded = await model.encode(prepared)
            size = len(data) + encoded.bytes
            key = await self.hub.put_image(data, prepared.size, model.key, encoded, encoded.bytes)
        if key is None:  # replicas may be between two configurations
            raise _no_room(size)
        self._uploads.put(key, Upload(data, prepared.size, {model.key: encoded}), size)
        return UploadResponse(
            id=key,
            width=prepared.size[1],
            height=prepared.size[0],
            model=model.name,
            version=model.version,
            expires_in=self.config.images.ttl_s,
            bytes=size,
        )

    async def fetch(self, source: bytes | str) -> bytes:
        """A picture's file: as it is, from base64 or a data URI, or from a host that is allowed.

        Raises:
            ProblemError: none of these.
        """
        if isinstance(source, bytes):
            return source
        if source.startswith(("http://", "https://")):
            return await fetching.fetch(source, self.config.limits)
        return await self._help(lambda: pictures.from_text(source))

    async def forget(self, image_id: str) -> None:
        """Delete an upload.

        Raises:
            ProblemError: there is none.
        """
        self._uploads.delete(image_id)
        if not await self.hub.delete_image(image_id):
            raise ProblemError("image_not_found", f'no picture "{image_id[:100]}"')

    # ---- one picture
    async def _segment(self, data: bytes | None, image_id: str | None, parameters: Parameters) -> Answer:
        begun = time.perf_counter()
        model = self.models.get(parameters.model)
        vocabulary = await self.vocabularies.asked(parameters, model.segmenter.templates)
        check_vocabulary(vocabulary, self.config.limits)
        answers.background_value(vocabulary.names, parameters.background)
        source = await self._source(data, image_id, model)
        before_text = time.perf_counter()
        known = model.texts.known(vocabulary)
        text = known if known is not None else await self._embed(model, vocabulary)
        after_text = time.perf_counter()
        pixels = self._pixels(source)
        async with self._held.take(pixels):
            prepared_at = time.perf_counter()
            image: np.ndarray | None = None
            if source.encoded is not None:
                found = await model.segment_encoded(source.encoded, text.vectors)
            else:
                image, prepared = await self._help(lambda: self._prepare(source.data, model))
                prepared_at = time.perf_counter()
                # a large picture's encoding is kept as a whole, which is for nothing where it has no room
                keep = image_id is not None and self._has_room(len(source.data) + model.encoded_bytes(prepared))
                found = await model.segment(prepared, text.vectors, keep=keep)
                if image_id is not None and found.encoded is not None:
                    await self._keep(image_id, model, found.encoded)
            small = pixels * len(vocabulary.names) <= SMALL_ANSWER and "overlay" not in parameters.parts
            response, label_map = await self._help(
                lambda: self._respond(model, vocabulary, parameters, text, found, source, image), small
            )
        done = time.perf_counter()
        response.timings = Timings(
            queue=_ms(found.started - prepared_at),
            image=_ms(prepared_at - after_text + found.encoded_at - found.started),
            text=_ms(after_text - before_text),
            post=_ms(done - found.encoded_at),
            total=_ms(done - begun),
        )
        response.cache = CacheUse(image=source.encoded is not None, prompts=text.known, prompts_encoded=text.encoded)
        response.image.id = image_id
        response.vocabulary.id = parameters.vocabulary
        self.metrics.answered(model.name, response)
        return Answer(response, label_map, found.confidence, vocabulary.names)

    def _pixels(self, source: _Source) -> int:
        if source.encoded is not None:
            return math.prod(source.encoded.size)
        return pictures.pixels_of(source.data, self.config.limits)

    def _has_room(self, size: int) -> bool:
        return size <= self.config.images.bytes

    def _prepare(self, data: bytes, model: ServedModel) -> tuple[np.ndarray, Prepared]:
        image = pictures.decode(data, self.config.limits)
        return image, model.prepare(image)

    async def _source(self, data: bytes | None, image_id: str | None, model: ServedModel) -> _Source:
        if image_id is None:
            assert data is not None
            return _Source(data, None, None)
        upload = self._uploads.get(image_id)
        if upload is None or model.key not in upload.encodings:
            upload = await self.hub.get_image(image_id)
            if upload is None:
                raise ProblemError("image_not_found", f'no picture "{image_id[:100]}"; it may have expired: upload it')
            self._uploads.put(image_id, upload, len(upload.data) + sum(e.bytes for e in upload.encodings.values()))
        return _Source(upload.data, upload.encodings.get(model.key), image_id)

    async def _keep(self, image_id: str, model: ServedModel, encoded: Encoded) -> None:
        upload = self._uploads.get(image_id)
        if upload is not None:
            upload.encodings[model.key] = encoded
            self._uploads.put(image_id, upload, len(upload.data) + sum(e.bytes for e in upload.encodings.values()))
        await self.hub.add_encoding(image_id, model.key, encoded, encoded.bytes)

    def _respond(
        self,
        model: ServedModel,
        vocabulary: Vocabulary,
        parameters: Parameters,
        text: TextSide,
        found: Found,
        source: _Source,
        image: np.ndarray | None,
    ) -> tuple[SegmentResponse, np.ndarray]:
        names, parts, confidence = vocabulary.names, parameters.parts, found.confidence
        label_map = answers.apply_background(found.label_map, confidence, names, parameters)
        overlay = None
        if "overlay" in parts:
            shown = image if image is not None else pictures.decode(source.data, self.config.limits)
            overlay = answers.overlay_part(shown, label_map, names)
        response = SegmentResponse(
            model=model.name,
            version=model.version,
            vocabulary=VocabularyInfo(labels=len(names), fingerprint=text.fingerprint),
            image=ImageInfo(width=label_map.shape[1], height=label_map.shape[0]),
            segments=answers.segments(label_map, confidence, names, parameters) if "segments" in parts else None,
            label_map=answers.label_map_part(label_map, names) if "label_map" in parts else None,
            confidence=answers.confidence_part(confidence) if "confidence" in parts else None,
            overlay=overlay,
            timings=Timings(queue=0, image=0, text=0, post=0, total=0),
            cache=CacheUse(image=False, prompts=0, prompts_encoded=0),
        )
        return response, label_map

    async def _embed(self, model: ServedModel, vocabulary: Vocabulary) -> TextSide:
        return await asyncio.get_running_loop().run_in_executor(self._text_thread, model.texts.embed, vocabulary)

    async def _help(self, function: Callable[[], T], small: bool = False) -> T:
        if small:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._helpers, function)


def _no_room(size: int) -> ProblemError:
    return ProblemError("storage_full", f"the picture takes {size} bytes once encoded; send it smaller")


def _ms(seconds: float) -> float:
    return round(1000 * max(seconds, 0.0), 3)
