"""What an endpoint does, apart from HTTP and from Ray."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ovseg_ray.errors import UserError
from ovseg_ray.segmenter import EncodedPicture, Result
from ovseg_ray.serving import answers, pictures
from ovseg_ray.serving.api import (
    CacheUse,
    ImageInfo,
    Parameters,
    SegmentResponse,
    Timings,
    UploadResponse,
    VocabularyInfo,
)
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.image_store import ExpiringStore
from ovseg_ray.serving.models import Models, ServedModel
from ovseg_ray.serving.problems import ProblemError
from ovseg_ray.serving.vocabularies import MemoryShelf, Vocabularies
from ovseg_ray.vocabulary import Vocabulary


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        response: as JSON.
        label_map: (H, W) uint8 or uint16, after thresholds.
        names: of the labels.
    """

    response: SegmentResponse
    label_map: np.ndarray
    names: tuple[str, ...]


@dataclass
class Upload:
    """A picture that was uploaded: its file, and its encoding for each "NAME@VERSION" that was asked."""

    data: bytes
    size: tuple[int, int]
    encodings: dict[str, EncodedPicture]

    @property
    def bytes(self) -> int:
        """Bytes of all of it."""
        tensors = [t for picture in self.encodings.values() for t in picture.encoding.tensors.values()]
        return len(self.data) + sum(tensor.nbytes for tensor in tensors)


class Engine:
    """Answers requests with the models it is given.

    Args:
        config: of the endpoint.
        models: loaded.
    """

    def __init__(self, config: ServingConfig, models: Models) -> None:
        self.config = config
        self.models = models
        self.vocabularies = Vocabularies(MemoryShelf())
        self._uploads: ExpiringStore[Upload] = ExpiringStore(config.images.bytes, config.images.ttl_s)
        self._model_thread = ThreadPoolExecutor(1, "model")

    async def segment(self, data: bytes | None, image_id: str | None, parameters: Parameters) -> Answer:
        """Segment one picture.

        Args:
            data: the picture's file; None if `image_id` is given.
            image_id: of an upload.
            parameters: what is asked.

        Raises:
            ProblemError: whatever is wrong with the request.
        """
        started = time.perf_counter()
        model = self.models.get(parameters.model)
        vocabulary = await self.vocabularies.asked(parameters, model.segmenter.templates)
        answers.background_value(vocabulary.names, parameters.background)
        upload = None
        if image_id is not None:
            upload = self._uploads.get(image_id)
            if upload is None:
                raise ProblemError("image_not_found", f'no picture "{image_id[:100]}"; it may have expired: upload it')
            data = upload.data
        assert data is not None
        answer = await self._in_model_thread(self._segment, model, data, upload, vocabulary, parameters, started)
        answer.response.image.id = image_id
        answer.response.vocabulary.id = parameters.vocabulary
        return answer

    async def upload(self, data: bytes, model_name: str | None) -> UploadResponse:
        """Keep a picture and its encoding.

        Raises:
            ProblemError: whatever is wrong with the request, or no room for it.
        """
        model = self.models.get(model_name)
        upload = await self._in_model_thread(self._encode_upload, model, data)
        key = f"img_{secrets.token_urlsafe(16)}"
        if not self._uploads.put(key, upload, upload.bytes):
            raise ProblemError("storage_full", f"the picture takes {upload.bytes} bytes once encoded; send it smaller")
        return UploadResponse(
            id=key,
            width=upload.size[1],
            height=upload.size[0],
            model=model.name,
            version=model.version,
            expires_in=self.config.images.ttl_s,
            bytes=upload.bytes,
        )

    async def forget(self, image_id: str) -> None:
        """Delete an upload.

        Raises:
            ProblemError: there is none.
        """
        if not self._uploads.delete(image_id):
            raise ProblemError("image_not_found", f'no picture "{image_id[:100]}"')

    async def _in_model_thread(self, function, *args):  # type: ignore[no-untyped-def]
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, function, *args)

    def _encode_upload(self, model: ServedModel, data: bytes) -> Upload:
        image = pictures.decode(data, self.config.limits)
        encoded = model.segmenter.encode(image)
        return Upload(data, encoded.size, {f"{model.name}@{model.version}": encoded})

    def _segment(
        self,
        model: ServedModel,
        data: bytes,
        upload: Upload | None,
        vocabulary: Vocabulary,
        parameters: Parameters,
        started: float,
    ) -> Answer:
        begun = time.perf_counter()
        embeddings = model.segmenter.embeddings
        before = embeddings.encoded
        try:
            embeddings.embed(vocabulary)
        except UserError as error:
            raise ProblemError("invalid_labels", str(error)) from error
        embedded = time.perf_counter()
        prompts = sum(len(label.synonyms) for label in vocabulary.labels) * len(vocabulary.templates)
        encoded_prompts = embeddings.encoded - before
        image: np.ndarray | None = None
        key = f"{model.name}@{model.version}"
        known = upload.encodings.get(key) if upload else None
        if known is None:
            image = pictures.decode(data, self.config.limits)
            picture = model.segmenter.encode(image)
            if upload:
                upload.encodings[key] = picture
        else:
            picture = known
        encoded = time.perf_counter()
        result = model.segmenter.segment(picture, vocabulary)
        if "overlay" in parameters.parts and image is None:
            image = pictures.decode(data, self.config.limits)
        response, label_map = _respond(model, vocabulary, parameters, result, image)
        done = time.perf_counter()
        response.timings = Timings(
            queue=_ms(started, begun),
            text=_ms(begun, embedded),
            image=_ms(embedded, encoded),
            post=_ms(encoded, done),
            total=_ms(started, done),
        )
        response.cache = CacheUse(
            image=known is not None, prompts=prompts - encoded_prompts, prompts_encoded=encoded_prompts
        )
        return Answer(response, label_map, vocabulary.names)


def _respond(
    model: ServedModel, vocabulary: Vocabulary, parameters: Parameters, result: Result, image: np.ndarray | None
) -> tuple[SegmentResponse, np.ndarray]:
    names = vocabulary.names
    label_map = answers.apply_background(result.label_map, result.confidence, names, parameters)
    parts = parameters.parts
    response = SegmentResponse(
        model=model.name,
        version=model.version,
        vocabulary=VocabularyInfo(labels=len(names), fingerprint=vocabulary.fingerprint),
        image=ImageInfo(width=label_map.shape[1], height=label_map.shape[0]),
        segments=answers.segments(label_map, result.confidence, names, parameters) if "segments" in parts else None,
        label_map=answers.label_map_part(label_map, names) if "label_map" in parts else None,
        confidence=answers.confidence_part(result.confidence) if "confidence" in parts else None,
        overlay=answers.overlay_part(image, label_map, names) if "overlay" in parts and image is not None else None,
        timings=Timings(queue=0, image=0, text=0, post=0, total=0),
        cache=CacheUse(image=False, prompts=0, prompts_encoded=0),
    )
    return response, label_map


def _ms(start: float, stop: float) -> float:
    return round(1000 * (stop - start), 3)
