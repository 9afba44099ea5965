"""Load for minutes while replicas are killed and models swapped: requests lost, and memory at the start and at the end.

    python benchmarks/serving_soak.py [--minutes 10] [--kill-every 45] [--swap-every 60] [--haproxy]

Clients do what clients should: any request that got no answer, or one of 5xx or 429, is sent again. `lost` counts those
that ten attempts did not bring through.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import aiohttp
from serving_load import WORDS, free_port, make_model, picture, server

ATTEMPTS = 10


def replicas(root: int) -> dict[int, int]:
    """Resident bytes of the replicas below a process, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if b"ServeReplica" in (entry / "cmdline").read_bytes() and int(os.getsid(int(entry.name))):
                environment = (entry / "environ").read_bytes()
                if f"OVSEG_SOAK={root}".encode() in environment:
                    found[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * 4096
        except (OSError, ValueError):
            continue
    return found


async def ask(session: aiohttp.ClientSession, url: str, body: bytes, counts: dict[str, int], stop: float) -> None:
    params = {"candidate_labels": ",".join(random.sample(WORDS, 20))}
    while time.monotonic() < stop:
        for attempt in range(ATTEMPTS):
            try:
                async with session.post(url, data=body, params=params) as answer:
                    await answer.read()
                    if answer.status == 200:
                        counts["answered"] += 1
                        break
                    counts[f"status {answer.status}"] = counts.get(f"status {answer.status}", 0) + 1
            except (aiohttp.ClientError, TimeoutError):
                counts["cut off"] = counts.get("cut off", 0) + 1
            await asyncio.sleep(0.1 * 2**attempt)
        else:
            counts["lost"] += 1


async def soak(arguments: argparse.Namespace, url: str, config: Path, models: list[Path], root: int, pid: int) -> None:
    counts = {"answered": 0, "lost": 0}
    kills = swaps = 0
    stop = time.monotonic() + 60 * arguments.minutes
    body = picture(arguments.side)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        tasks = [asyncio.create_task(ask(session, url, body, counts, stop)) for _ in range(arguments.clients)]
        await asyncio.sleep(10)
        print("start", {key: f"{value / 2**20:.0f} MiB" for key, value in replicas(root).items()}, flush=True)
        killed = swapped = time.monotonic()
        while time.monotonic() < stop - 20:
            await asyncio.sleep(1)
            if time.monotonic() - killed > arguments.kill_every and (running := list(replicas(root))):
                os.kill(random.choice(running), signal.SIGKILL)
                killed, kills = time.monotonic(), kills + 1
            if time.monotonic() - swapped > arguments.swap_every:
                models.reverse()
                config.write_text("models:\n" + "".join(f"- {{run: {path}, name: lseg}}\n" for path in models[:1]))
                os.kill(pid, signal.SIGHUP)
                swapped, swaps = time.monotonic(), swaps + 1
                print(f"{kills} kills, {swaps} swaps", counts, sum(replicas(root).values()) >> 20, "MiB", flush=True)
        await asyncio.gather(*tasks)
    print("end", {key: f"{value / 2**20:.0f} MiB" for key, value in replicas(root).items()})
    print(f"{kills} kills, {swaps} swaps:", counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kill-every", type=float, default=45)
    parser.add_argument("--swap-every", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--haproxy", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        models = [make_model(directory / part, "small") for part in ("a", "b")]
        config = directory / "serving.yaml"
        config.write_text(f"models:\n- {{run: {models[0]}, name: lseg}}\n")
        port = free_port()
        os.environ["OVSEG_SOAK"] = str(os.getpid())  # inherited, so that its replicas can be told from others
        words = ["-m", "ovseg_ray.cli", "serve", "--config", str(config), "--port", str(port), "--min-replicas", "2"]
        with server([*words, *(["--haproxy"] if arguments.haproxy else [])], port, directory / "log") as process:
            url = f"http://127.0.0.1:{port}/v1/segment"
            asyncio.run(soak(arguments, url, config, models, os.getpid(), process.pid))


if __name__ == "__main__":
    main()
