"""What happens to every request: an id, who asks, the limit of its body, a line in the log, metrics."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette._utils import get_route_path  # what the router goes by: the two must never differ
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovseg_ray.serving.auth import OPEN, Tokens
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.problems import MEDIA_TYPE, ProblemError

REQUEST_ID = "x-request-id"
_SANE = re.compile(r"^[A-Za-z0-9._-]{1,100}$")
logger = logging.getLogger("ovseg_ray.serving.access")
SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class Gate:
    """The outermost layer of the application.

    Args:
        app: what lies within.
        engine: for limits, tokens and metrics.
        public: paths that need no token besides health: the page's own files.
        returns_request_id: add the header to answers.
    """

    def __init__(
        self, app: ASGIApp, engine: Engine, public: Callable[[str], bool], returns_request_id: bool = True
    ) -> None:
        self.app, self._engine, self._public = app, engine, public
        self._returns_request_id = returns_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _SANE.match(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                if self._returns_request_id:
                    sent[REQUEST_ID] = request_id
                for name, value in SECURITY.items():
                    sent.setdefault(name, value)
            await send(message)

        who = ""
        try:
            who = self._admit(get_route_path(scope), headers)
            await self.app(scope, self._limited(receive), with_headers)
        except ProblemError as error:
            await _refuse(error, request_id, with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - started, request_id, who)

    def _admit(self, path: str, headers: Headers) -> str:
        who = ""
        if path not in OPEN and not self._public(path):
            who = Tokens(self._engine.config.tokens).check(headers.get("authorization"))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._engine.config.limits.body_bytes:
            raise self._too_large()
        return who

    def _limited(self, receive: Receive) -> Receive:
        """Stops a body that was announced smaller, or not at all."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._engine.config.limits.body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ProblemError:
        return ProblemError("body_too_large", f"at most {self._engine.config.limits.body_bytes} bytes are taken")

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str, who: str) -> None:
        route = route_of(scope)
        self._engine.metrics.request(route, scope["method"], status, seconds)
        if get_route_path(scope) in OPEN:
            return
        line = {"request_id": request_id, "method": scope["method"], "route": route, "status": status}
        logger.info(json.dumps({**line, "ms": round(1000 * seconds, 1), "who": who, "replica": self._engine.replica}))


def route_of(scope: Scope) -> str:
    """The address as declared ("/v1/images/{id}"), so that metrics and logs do not grow with ids."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) and path else "(other)"


async def _refuse(error: ProblemError, request_id: str, send: Send) -> None:
    body = error.problem(request_id).model_dump_json(exclude_none=True).encode()
    headers = {**error.headers, "content-type": MEDIA_TYPE, "content-length": str(len(body)), "connection": "close"}
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
