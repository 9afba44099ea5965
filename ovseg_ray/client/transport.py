"""Requests over HTTP with the standard library: one connection kept open, and patience with a busy server."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from ovseg_ray.client.errors import EndpointError
from ovseg_ray.errors import UserError
from ovseg_ray.serving.api import Problem

BUSY = (429, 503)
LOST = (500, 502)  # of a proxy whose replica died; the endpoint's own are problems, and stay what they are
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Transport:
    """Sends requests to one endpoint; each thread has its own connection.

    Args:
        url: of the endpoint, with a path prefix if it has one.
        token: sent as a bearer token.
        timeout: seconds that the server may be silent.
        retries: times that a request is sent again, when the server is busy (429, 503), the connection breaks, or a
            proxy says that the request got lost.

    Raises:
        UserError: no such URL.
    """

    def __init__(self, url: str, token: str | None, timeout: float, retries: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url}: not the address of an endpoint; give one like http://127.0.0.1:8000")
        self._url, self._secure = url, parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._token, self._timeout, self._retries = token, timeout, retries
        self._local = threading.local()

    def close(self) -> None:
        """Close this thread's connection; the next request opens another."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        retries: int | None = None,
    ) -> bytes:
        """The body of the answer; `retries` other than the usual ones.

        Raises:
            EndpointError: refused, or not reached.
        """
        return self._open(method, path, body, headers, retries, whole=True)[1]

    def lines(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Iterator[bytes]:
        """Lines of the answer, each as it arrives.

        Raises:
            EndpointError: refused, not reached, or the connection broke in between.
        """
        response, _ = self._open(method, path, body, headers)
        done = False
        try:
            yield from response
            done = True
        except (OSError, http.client.HTTPException) as error:
            raise EndpointError("unreachable", f"{self._url}: the answer broke off ({_said(error)})") from error
        finally:
            if not done:  # what was not read would stand before the next answer
                self.close()

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str] | None,
        retries: int | None = None,
        whole: bool = False,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """An answer and, if it is wanted whole, its body: one that breaks off is asked for again."""
        sent = {"Accept": "application/json", "User-Agent": "ovseg-ray-client", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        retries = self._retries if retries is None else retries
        for attempt in range(retries + 1):
            last = attempt == retries
            try:
                response, answer = self._once(method, path, body, sent, whole)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if last or isinstance(error, TimeoutError):
                    raise EndpointError(
                        "unreachable", f"{self._url}: no answer ({_said(error)}); is 'ovseg-ray serve' running there?"
                    ) from error
                # a server closes connections that were idle: the first retry needs no pause
                time.sleep(_pause(attempt - 1) if attempt else 0)
                continue
            if response.status < 400:
                return response, answer
            refusal = _refusal(response, answer)
            lost = response.status in LOST and refusal.problem is None
            if last or not (lost or response.status in BUSY):
                raise refusal
            time.sleep(_pause(attempt, response.headers.get("Retry-After")))
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], whole: bool
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            connection = self._local.connection = kind(self._host, self._port, timeout=self._timeout)
        connection.request(method, self._prefix + path, body=body, headers=headers)
        response: http.client.HTTPResponse = connection.getresponse()
        return response, response.read() if whole or response.status >= 400 else b""


def _pause(attempt: int, retry_after: str | None = None) -> float:
    """Seconds: what the server asks for, else twice as long each time; spread, so that clients do not come at once."""
    if retry_after is not None and retry_after.strip().isdecimal():
        return min(float(retry_after), LONGEST_PAUSE_S) + random.uniform(0, 0.1)
    return float(min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)) * random.uniform(0.75, 1.25)


def _refusal(response: http.client.HTTPResponse, body: bytes) -> EndpointError:
    try:
        return EndpointError.of(Problem.model_validate(json.loads(body)))
    except (ValueError, ValidationError):  # a proxy's own page, for example
        return EndpointError("unexpected", f"HTTP status {response.status} {response.reason}", response.status)


def _said(error: Any) -> str:
    return str(error) or type(error).__name__
