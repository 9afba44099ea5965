"""What all replicas share: the configuration, vectors of prompts, vocabularies, uploads with their encodings, metrics.

Plain Python in one process; `hub_actor` puts it behind a Ray actor.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovseg_ray.serving.image_store import ExpiringStore

MAX_VOCABULARIES = 1000
MAX_PROMPTS = 500_000
METRICS_TTL_S = 30.0


@dataclass
class Upload:
    """A picture that was uploaded.

    Attributes:
        data: its file.
        size: (height, width), upright.
        encodings: of each "NAME@VERSION" that was asked; what a value is, is the business of who put it.
    """

    data: bytes
    size: tuple[int, int]
    encodings: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Stored:
    upload: Upload
    bytes: int


class Hub:
    """Not safe to share between threads.

    Args:
        image_bytes: uploads kept in all.
        image_ttl_s: seconds after its last use that an upload is forgotten.
        clock: seconds; for tests.
    """

    def __init__(self, image_bytes: int, image_ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._prompts: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._vocabularies: dict[str, dict[str, Any]] = {}
        self._uploads: ExpiringStore[_Stored] = ExpiringStore(image_bytes, image_ttl_s, clock)
        self._metrics: dict[str, tuple[float, Any]] = {}
        self._config: dict[str, Any] | None = None
        self._clock = clock

    # ---- what is served
    def put_config(self, config: dict[str, Any]) -> None:
        """A replica serves this, a mapping as of `ServingConfig`, whose bounds of uploads hold from now on."""
        self._config = config
        self._uploads.max_bytes, self._uploads.ttl_s = config["images"]["bytes"], config["images"]["ttl_s"]

    def get_config(self) -> dict[str, Any] | None:
        """What a replica could serve last; None if none has served anything."""
        return self._config

    # ---- prompts
    def get_prompts(self, space: str, prompts: Sequence[str]) -> dict[str, bytes]:
        """Vectors that are known, of one text encoder."""
        found = {}
        for prompt in prompts:
            if (vector := self._prompts.get((space, prompt))) is not None:
                found[prompt] = vector
                self._prompts.move_to_end((space, prompt))
        return found

    def put_prompts(self, space: str, vectors: Mapping[str, bytes]) -> None:
        """Make vectors known; the least recently used are forgotten."""
        self._prompts.update({(space, prompt): vector for prompt, vector in vectors.items()})
        while len(self._prompts) > MAX_PROMPTS:
            self._prompts.popitem(last=False)

    # ---- vocabularies
    def put_vocabulary(self, key: str, body: dict[str, Any]) -> bool:
        """Keep a vocabulary; False if there are too many."""
        if key not in self._vocabularies and len(self._vocabularies) >= MAX_VOCABULARIES:
            return False
        self._vocabularies[key] = body
        return True

    def get_vocabulary(self, key: str) -> dict[str, Any] | None:
        """A vocabulary, or None."""
        return self._vocabularies.get(key)

    def delete_vocabulary(self, key: str) -> bool:
        """Forget a vocabulary; whether there was one."""
        return self._vocabularies.pop(key, None) is not None

    def list_vocabularies(self) -> dict[str, int]:
        """Ids, and the number of labels of each."""
        return {key: len(body["labels"]) for key, body in self._vocabularies.items()}

    # ---- uploads
    def put_image(self, data: bytes, size: tuple[int, int], model: str, encoding: Any, bytes: int) -> str | None:
        """Keep an upload and its encoding for one model.

        Returns:
            Its id, which nobody can guess; None if there is no room for it.
        """
        key = f"img_{secrets.token_urlsafe(16)}"
        total = len(data) + bytes
        return key if self._uploads.put(key, _Stored(Upload(data, size, {model: encoding}), total), total) else None

    def get_image(self, key: str) -> Upload | None:
        """An upload, if it is still there; its time starts anew."""
        stored = self._uploads.get(key)
        return None if stored is None else stored.upload

    def add_encoding(self, key: str, model: str, encoding: Any, bytes: int) -> None:
        """Keep the encoding of an upload for one more model, if there is room."""
        stored = self._uploads.get(key)
        if stored is not None and model not in stored.upload.encodings:
            if stored.bytes + bytes > self._uploads.max_bytes:
                return
            stored.upload.encodings[model] = encoding
            stored.bytes += bytes
            self._uploads.put(key, stored, stored.bytes)

    def delete_image(self, key: str) -> bool:
        """Forget an upload; whether there was one."""
        return self._uploads.delete(key)

    def tidy(self) -> None:
        """Forget uploads that have expired, whether anybody asks for one or not."""
        self._uploads.tidy()

    # ---- metrics
    def exchange_metrics(self, replica: str, families: Any) -> dict[str, Any]:
        """Leave a replica's metrics and take those of all that left theirs of late."""
        now = self._clock()
        self._metrics[replica] = (now, families)
        self._metrics = {key: value for key, value in self._metrics.items() if now - value[0] < METRICS_TTL_S}
        return {key: value for key, (_, value) in self._metrics.items()}
