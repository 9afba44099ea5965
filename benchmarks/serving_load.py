"""What the serving benchmarks share: a model, servers as processes of their own, and a client that keeps them busy."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
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
from typing import Any

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


def make_model(path: Path, encoder: str, seed: int = 0) -> Path:
    """A finished run with random weights, which cost the same: "small", or a transformer of timm's."""
    torch.manual_seed(seed)
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
def server(words: list[str], port: int, log: Path, *, ready: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a process, from when /healthz answers (or, not `ready`, at once) until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while ready:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(words)} does not answer; see {log}")
            time.sleep(0.3)
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(90)
        with contextlib.suppress(ProcessLookupError):  # its own children may outlive it; LitServe's do
            os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Question:
    """What is asked again and again."""

    body: bytes
    params: dict[str, str]
    kind: str = "image/jpeg"


@dataclass(frozen=True)
class Load:
    """What a client saw: answers a second, and milliseconds of the median and the 99th of a hundred."""

    rate: float
    p50: float
    p99: float
    failed: int


def load(url: str, question: Question, *, clients: int, seconds: float, warm: float = 2.0) -> Load:
    """Ask again and again from `clients` connections."""
    return asyncio.run(_load(url, question, clients, seconds, warm))


async def _load(url: str, question: Question, clients: int, seconds: float, warm: float) -> Load:
    times: list[float] = []
    failed = 0
    start = time.perf_counter() + warm
    stop = start + seconds
    headers = {"content-type": question.kind}

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal failed
        while (begun := time.perf_counter()) < stop:
            async with session.post(url, data=question.body, params=question.params, headers=headers) as answer:
                await answer.read()
            if (ended := time.perf_counter()) >= start and ended < stop:
                times.append(1000 * (ended - begun))
                failed += answer.status != 200

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients), timeout=timeout) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    times.sort()
    if not times:
        return Load(0.0, math.nan, math.nan, failed)  # none came back in time
    return Load(len(times) / seconds, statistics.median(times), times[int(0.99 * (len(times) - 1))], failed)


def replicas(mark: str) -> list[int]:
    """Process ids of the replicas below a process that has MARK=1 in its environment."""
    return [pid for pid in family(mark) if b"ServeReplica" in _read(pid, "cmdline")]


def family(mark: str) -> list[int]:
    """Process ids of all that have MARK=1 in their environment."""
    pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if f"{mark}=1".encode() in _read(pid, "environ").split(b"\0")]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Results as JSON, with what they were measured on."""
    if path is not None:
        machine = {"processors": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, **result}, indent=1) + "\n")
