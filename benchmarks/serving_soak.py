"""Load for minutes while replicas are killed and models swapped: requests lost, and memory over time.

    python benchmarks/serving_soak.py [--minutes 10] [--kill-every 45] [--swap-every 60] [--haproxy] [--out FILE]

Askers are the package's own client as it comes: `lost` is what it gave up on. Of the two replicas the older is never
killed, so that its memory is that of one process through all swaps; the other is killed again and again. Memory is
what a process has for itself (RssAnon), of the older replica and of all else that serves: proxy, controller, hub and
Ray's own processes. `slope` is the least-squares line through the samples after the first third.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from serving_load import WORDS, family, free_port, make_model, picture, replicas, server, write

from ovseg_ray.client import Client, EndpointError
from ovseg_ray.client import transport as sending

MARK = "OVSEG_SOAK"
SAMPLE_S = 5.0


class CountedTransport(sending.Transport):
    """Counts what the client is told before it asks again."""

    seen: ClassVar[collections.Counter[str]] = collections.Counter()

    def _once(self, *request: Any) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            response, answer = super()._once(*request)
        except (OSError, http.client.HTTPException) as error:
            self.seen[type(error).__name__] += 1
            raise
        if response.status != 200:
            self.seen[f"status {response.status}"] += 1
        return response, answer


class Askers:
    """Threads that ask until they are told to stop.

    Args:
        url: of the endpoint.
        count: of threads.
        side: of pictures.
        pause: seconds between a thread's requests.
    """

    def __init__(self, url: str, count: int, side: int, pause: float) -> None:
        self.answered, self.lost, self.versions = 0, [], collections.Counter[str]()
        self.slowest = 0.0
        self._url, self._pictures, self._pause = url, [picture(side, seed) for seed in range(8)], pause
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with Client(self._url) as client:
            client._transport = CountedTransport(self._url, None, timeout=120.0, retries=5)  # as the client has it
            while not self._stop.wait(self._pause):
                begun = time.monotonic()
                try:
                    found = client.segment(random.choice(self._pictures), random.sample(WORDS, 20))
                except EndpointError as error:
                    with self._lock:
                        self.lost.append(str(error))
                    continue
                with self._lock:
                    self.answered += 1
                    self.versions[found.version] += 1
                    self.slowest = max(self.slowest, time.monotonic() - begun)


def own_bytes(pid: int) -> int:
    """RssAnon of a process; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def soak(arguments: argparse.Namespace, url: str, config: Path, models: list[Path], pid: int) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    elder, *_ = replicas(MARK)
    kills = swaps = 0
    begun = killed = swapped = sampled = time.monotonic()
    with Askers(url, arguments.clients, arguments.side, arguments.pause) as askers:
        while (now := time.monotonic()) - begun < 60 * arguments.minutes:
            time.sleep(0.2)
            younger = [found for found in replicas(MARK) if found != elder]
            if now - killed > arguments.kill_every and younger:
                os.kill(younger[-1], signal.SIGKILL)
                killed, kills = now, kills + 1
            if now - swapped > arguments.swap_every:
                models.reverse()
                config.write_text(f"models:\n- {{run: {models[0]}, name: lseg}}\n")
                os.kill(pid, signal.SIGHUP)
                swapped, swaps = now, swaps + 1
                print(f"{now - begun:4.0f} s: {kills} kills, {swaps} swaps, {askers.answered} answered", flush=True)
            if now - sampled > SAMPLE_S:
                sampled = now
                rest = [other for other in family(MARK) if other not in younger and other != elder]
                samples.append(
                    {
                        "s": round(now - begun, 1),
                        "elder": round(own_bytes(elder) / 2**20, 1),
                        "rest": round(sum(map(own_bytes, rest)) / 2**20, 1),
                        "younger": round(sum(map(own_bytes, younger)) / 2**20, 1),
                    }
                )
    return {
        "minutes": arguments.minutes, "kills": kills, "swaps": swaps, "answered": askers.answered,
        "lost": askers.lost, "asked again because of": dict(CountedTransport.seen), "slowest_s": askers.slowest,
        "versions": len(askers.versions), "elder_lives": elder in replicas(MARK),
        "slope_mib_per_minute": {name: slope(samples, name) for name in ("elder", "rest")}, "memory_mib": samples,
    }  # fmt: skip


def slope(samples: list[dict[str, float]], name: str) -> float:
    """MiB a minute, after the first third."""
    late = samples[len(samples) // 3 :]
    if len(late) < 3:
        return float("nan")
    return round(60 * float(np.polyfit([s["s"] for s in late], [s[name] for s in late], 1)[0]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kill-every", type=float, default=45)
    parser.add_argument("--swap-every", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--haproxy", action="store_true")
    parser.add_argument("--out", type=Path, help="results as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        models = [make_model(directory / part, "small", seed) for seed, part in enumerate("ab")]
        config = directory / "serving.yaml"
        config.write_text(f"models:\n- {{run: {models[0]}, name: lseg}}\n")
        port = free_port()
        os.environ[MARK] = "1"  # inherited, so that its processes can be told from others
        words = ["-m", "ovseg_ray.cli", "serve", "--config", str(config), "--port", str(port), "--min-replicas", "2"]
        log = arguments.out.with_suffix(".log") if arguments.out else directory / "log"
        with server([*words, *(["--haproxy"] if arguments.haproxy else [])], port, log) as process:
            found = soak(arguments, f"http://127.0.0.1:{port}", config, models, process.pid)
    write(arguments.out, found)
    print({key: value for key, value in found.items() if key != "memory_mib"})
    for sample in found["memory_mib"][:: max(1, len(found["memory_mib"]) // 10)]:
        print(sample)


if __name__ == "__main__":
    main()
