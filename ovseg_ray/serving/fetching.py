"""Pictures from other hosts, where the configuration allows them."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from ovseg_ray.serving.config import LimitsConfig
from ovseg_ray.serving.problems import ProblemError

TIMEOUT_S = 10.0
CHUNK = 2**16


async def fetch(url: str, limits: LimitsConfig) -> bytes:
    """The file at an https address of an allowed host; redirects are not followed.

    Raises:
        ProblemError: another host, no answer, or too many bytes.
    """
    host = _allowed(url, limits)
    connector = aiohttp.TCPConnector(resolver=_PublicResolver())
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ProblemError("fetch_failed", f"{host} answered {response.status}")
            data = bytearray()
            async for chunk in response.content.iter_chunked(CHUNK):
                data += chunk
                if len(data) > limits.body_bytes:
                    raise ProblemError("body_too_large", f"the picture is over {limits.body_bytes} bytes")
            return bytes(data)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ProblemError("fetch_failed", f"{host} gave no picture") from error


def _allowed(url: str, limits: LimitsConfig) -> str:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise ProblemError("url_not_allowed", "this is no address") from error
    if parts.scheme != "https" or host not in limits.url_hosts or port not in (None, 443) or "@" in parts.netloc:
        raise ProblemError("url_not_allowed", "pictures are fetched over https from hosts that the server allows only")
    return host


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses alone: an allowed name must not lead into the server's own network."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        public = [entry for entry in found if ipaddress.ip_address(entry["host"]).is_global]
        if not public:
            raise OSError("no public address")
        return public

    async def close(self) -> None:
        await self._inner.close()
