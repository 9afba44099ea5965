"""How an engine talks to the hub: the same whether it lies in this process or behind a Ray actor."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ovseg_ray.serving.hub import Hub, Upload


class HubClient(Protocol):
    """The hub, as `Hub` documents it. What is async is asked for from the event loop, the rest from threads too."""

    def put_config(self, config: dict[str, Any]) -> None: ...
    def get_config(self) -> dict[str, Any] | None: ...
    def get_prompts(self, space: str, prompts: Sequence[str]) -> Mapping[str, bytes]: ...
    def put_prompts(self, space: str, vectors: Mapping[str, bytes]) -> None: ...
    async def put_vocabulary(self, key: str, body: dict[str, Any]) -> bool: ...
    async def get_vocabulary(self, key: str) -> dict[str, Any] | None: ...
    async def delete_vocabulary(self, key: str) -> bool: ...
    async def list_vocabularies(self) -> dict[str, int]: ...
    async def put_image(
        self, data: bytes, size: tuple[int, int], model: str, encoding: Any, bytes: int
    ) -> str | None: ...
    async def get_image(self, key: str) -> Upload | None: ...
    async def add_encoding(self, key: str, model: str, encoding: Any, bytes: int) -> None: ...
    async def delete_image(self, key: str) -> bool: ...
    async def exchange_metrics(self, replica: str, families: Any) -> dict[str, Any]: ...


class LocalHub:
    """A hub in this process."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = threading.Lock()

    def put_config(self, config: dict[str, Any]) -> None:
        self._hub.put_config(config)

    def get_config(self) -> dict[str, Any] | None:
        return self._hub.get_config()

    def get_prompts(self, space: str, prompts: Sequence[str]) -> Mapping[str, bytes]:
        with self._lock:
            return self._hub.get_prompts(space, prompts)

    def put_prompts(self, space: str, vectors: Mapping[str, bytes]) -> None:
        with self._lock:
            self._hub.put_prompts(space, vectors)

    async def put_vocabulary(self, key: str, body: dict[str, Any]) -> bool:
        return self._hub.put_vocabulary(key, body)

    async def get_vocabulary(self, key: str) -> dict[str, Any] | None:
        return self._hub.get_vocabulary(key)

    async def delete_vocabulary(self, key: str) -> bool:
        return self._hub.delete_vocabulary(key)

    async def list_vocabularies(self) -> dict[str, int]:
        return self._hub.list_vocabularies()

    async def put_image(self, data: bytes, size: tuple[int, int], model: str, encoding: Any, bytes: int) -> str | None:
        return self._hub.put_image(data, size, model, encoding, bytes)

    async def get_image(self, key: str) -> Upload | None:
        return self._hub.get_image(key)

    async def add_encoding(self, key: str, model: str, encoding: Any, bytes: int) -> None:
        self._hub.add_encoding(key, model, encoding, bytes)

    async def delete_image(self, key: str) -> bool:
        return self._hub.delete_image(key)

    async def exchange_metrics(self, replica: str, families: Any) -> dict[str, Any]:
        return self._hub.exchange_metrics(replica, families)
