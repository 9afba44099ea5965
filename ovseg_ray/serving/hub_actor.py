"""The hub as a Ray actor, one for all replicas; encodings lie in the object store, shared within a node."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray

from ovseg_ray.serving.config import ImageStoreConfig
from ovseg_ray.serving.encoded import Encoded
from ovseg_ray.serving.hub import Hub, Upload

NAMESPACE = "ovseg-ray-serving"
TIDY_PERIOD_S = 5.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class HubActor:
    """`Hub`, each method by its name."""

    def __init__(self) -> None:
        images = ImageStoreConfig()  # until the first replica says what is served
        self._hub = Hub(images.bytes, images.ttl_s)
        # it outlives replicas and the application: what has expired goes although nobody calls
        own = ray.get_runtime_context().current_actor
        threading.Thread(target=_tidy_always, args=(own,), daemon=True).start()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._hub, method)(*arguments)

    def put_image(self, data: bytes, size: tuple[int, int], model: str, arrays: Any, bytes: int) -> str | None:
        # put by this actor: it outlives the replica that made the encoding
        return self._hub.put_image(data, size, model, ray.put(arrays), bytes)

    def add_encoding(self, key: str, model: str, arrays: Any, bytes: int) -> None:
        self._hub.add_encoding(key, model, ray.put(arrays), bytes)


def _tidy_always(actor: Any) -> None:
    # by a call, for the hub itself is not safe to share with this thread
    while True:
        time.sleep(TIDY_PERIOD_S)
        actor.call.remote("tidy")


class RemoteHub:
    """A client of the one hub of an application, which it starts where there is none.

    Args:
        application: whose hub.
    """

    def __init__(self, application: str) -> None:
        # detached: no replica owns it, so that none takes it along
        options = {"name": application, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        self._actor = cast(Any, HubActor).options(**options).remote()

    def put_config(self, config: dict[str, Any]) -> None:
        self._actor.call.remote("put_config", config)

    def get_config(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = ray.get(self._actor.call.remote("get_config"))
        return found

    def get_prompts(self, space: str, prompts: Sequence[str]) -> Mapping[str, bytes]:
        found: Mapping[str, bytes] = ray.get(self._actor.call.remote("get_prompts", space, list(prompts)))
        return found

    def put_prompts(self, space: str, vectors: Mapping[str, bytes]) -> None:
        self._actor.call.remote("put_prompts", space, dict(vectors))

    async def put_vocabulary(self, key: str, body: dict[str, Any]) -> bool:
        return cast(bool, await self._call("put_vocabulary", key, body))

    async def get_vocabulary(self, key: str) -> dict[str, Any] | None:
        return cast("dict[str, Any] | None", await self._call("get_vocabulary", key))

    async def delete_vocabulary(self, key: str) -> bool:
        return cast(bool, await self._call("delete_vocabulary", key))

    async def list_vocabularies(self) -> dict[str, int]:
        return cast("dict[str, int]", await self._call("list_vocabularies"))

    async def put_image(self, data: bytes, size: tuple[int, int], model: str, encoding: Any, bytes: int) -> str | None:
        arrays = await asyncio.to_thread(encoding.to_arrays)
        return cast("str | None", await self._actor.put_image.remote(data, size, model, arrays, bytes))

    async def get_image(self, key: str) -> Upload | None:
        upload: Upload | None = await self._call("get_image", key)
        if upload is not None:
            for model, reference in list(upload.encodings.items()):
                try:
                    upload.encodings[model] = Encoded.from_arrays(await reference)
                except ray.exceptions.RayError:  # its node is gone: it is made anew from the file
                    del upload.encodings[model]
        return upload

    async def add_encoding(self, key: str, model: str, encoding: Any, bytes: int) -> None:
        arrays = await asyncio.to_thread(encoding.to_arrays)
        await self._actor.add_encoding.remote(key, model, arrays, bytes)

    async def delete_image(self, key: str) -> bool:
        return cast(bool, await self._call("delete_image", key))

    async def exchange_metrics(self, replica: str, families: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", await self._call("exchange_metrics", replica, families))

    async def _call(self, method: str, *arguments: Any) -> Any:
        return await self._actor.call.remote(method, *arguments)


def stop_hub(application: str) -> None:
    """End the hub of an application, if there is one."""
    try:
        ray.kill(ray.get_actor(application, namespace=NAMESPACE))
    except ValueError:
        return
