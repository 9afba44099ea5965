"""What the serving benchmarks share: a model, servers as processes of their own, and a client that keeps them busy."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import torch
from PIL import Image

from ovseg_ray.config import build
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

TEXT_WIDTH = 512
WORDS = [f"word {i}" for i in range(1000)]


def make_model(path: Path, encoder: str) -> Path:
    """A finished run with random weights, which cost the same: "small", or a transformer of timm's."""
    torch.manual_seed(0)
    network = {"name": "small"} if encoder == "small" else {"name": "vit", "vit": {"architecture": encoder}}
    method = LSeg(build(LSegConfig, {"text": "table:/none.npz", "encoder": network}))
    method.use_text_encoder(TableTextEncoder(WORDS, torch.randn(len(WORDS), TEXT_WIDTH)))
    save_model(method, path / "model", vocabularies=[Vocabulary.of(WORDS[:20])], provenance={})
    return path


def picture(side: int, seed: int = 0) -> bytes:
    """A JPEG with areas, not noise."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(words: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a process, from when /healthz answers until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(words)} does not answer; see {log}")
            time.sleep(0.3)
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@dataclass(frozen=True)
class Load:
    """What a client saw: answers a second, and milliseconds of the median and the 99th of a hundred."""

    rate: float
    p50: float
    p99: float
    failed: int


def load(url: str, body: bytes, params: dict[str, str], *, clients: int, seconds: float, warm: float = 2.0) -> Load:
    """Ask again and again from `clients` connections."""
    return asyncio.run(_load(url, body, params, clients, seconds, warm))


async def _load(url: str, body: bytes, params: dict[str, str], clients: int, seconds: float, warm: float) -> Load:
    times: list[float] = []
    failed = 0
    start = time.perf_counter() + warm
    stop = start + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal failed
        while (begun := time.perf_counter()) < stop:
            async with session.post(url, data=body, params=params, headers={"content-type": "image/jpeg"}) as answer:
                await answer.read()
            if begun >= start:
                times.append(1000 * (time.perf_counter() - begun))
                failed += answer.status != 200

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    elapsed = time.perf_counter() - start
    times.sort()
    return Load(len(times) / elapsed, statistics.median(times), times[int(0.99 * (len(times) - 1))], failed)
