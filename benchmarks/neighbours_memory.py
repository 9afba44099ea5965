"""Memory and time of a neighbour table: what all its processes take together, against what the command said.

    python benchmarks/neighbours_memory.py --rows 1000000 --index ivf --out /tmp/neighbours-benchmark

Makes clustered vectors of 384 numbers, runs `ovseg-ray neighbours build`, and samples the resident memory that each
process does not share (Ray's own services are named apart). --minutes ends it early, once shards search: memory is that
of their indices by then and does not grow, and recall was measured before. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from process_memory import memory_of, unshared

CHUNK = 10_000


def make_vectors(path: Path, rows: int, dim: int) -> None:
    """Vectors around a hundredth as many centres, written in chunks."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(rows // 100, 1), dim)).astype(np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        noise = rng.normal(size=(count, dim)).astype(np.float32)
        out[start : start + count] = centres[rng.integers(len(centres), size=count)] + 0.7 * noise
    out.flush()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--index", default="ivf")
    parser.add_argument("--shards", type=int, help="default: as many as fit into the memory")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many; default: to the end")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    vectors = given.out / f"{given.rows}x{given.dim}.npy"
    if not vectors.is_file():
        make_vectors(vectors, given.rows, given.dim)
    code = "import sys; from ovseg_ray.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["neighbours", "build", vectors, given.out / "table.parquet", "--index", given.index]
    command = [sys.executable, "-c", code, *words, *(["--shards", given.shards] if given.shards else [])]
    log, quality = given.out / "stderr.log", given.out / ".table.parquet.work" / "quality.json"
    told: dict[str, Any] = {}
    started, peak, stopped = time.monotonic(), (0, 0), False
    with (
        log.open("w") as said,
        subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        while process.poll() is None:
            now = memory_of(process.pid, unshared)
            peak = (max(peak[0], now[0]), max(peak[1], now[1]))
            if not told and quality.is_file():
                told = json.loads(quality.read_text())
            if not stopped and time.monotonic() - started > 60 * given.minutes:
                stopped = True
                process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        table = process.stdout.read() if process.stdout else ""
    lines = log.read_text().splitlines()
    if process.returncode and not stopped:
        sys.exit("\n".join(lines[-5:]))
    result = {
        "rows": given.rows,
        "index": given.index,
        "seconds": round(time.monotonic() - started, 1),
        "gb": round(peak[0] / 1e9, 3),
        "ray_services_gb": round(peak[1] / 1e9, 3),
        "stated": next((line for line in lines if " GB (" in line), ""),
        "recall": told.get("recall", 1.0),
        "effort": told.get("effort"),
        "table": json.loads(table) if not stopped else [line for line in lines if "ETA" in line][-1:],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
