"""Memory of `ovseg-ray embed` with more and more images: what all its processes take together, shared pages once.

    python benchmarks/embed_memory.py --images 500 2000 8000 --out /tmp/embed-benchmark

Runs the command on so many JPEGs (as in embed_throughput.py) and samples the proportional set size of the command, its
workers and Ray's object store; Ray's own services are told apart. It should not depend on how many images there are.
Prints one JSON line for each number.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from embed_throughput import make_images
from process_memory import memory_of, proportional


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    everything = given.out / f"images-{given.size}"
    make_images(everything, max(given.images), given.size)
    names = sorted(everything.iterdir())
    for count in given.images:
        folder, store = given.out / f"some-{count}", given.out / f"store-{count}"
        shutil.rmtree(store, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        for name in names[:count]:
            if not (folder / name.name).exists():
                (folder / name.name).hardlink_to(name)
        code = "import sys; from ovseg_ray.cli import main; sys.exit(main(sys.argv[1:]))"
        words = ["embed", folder, store, "--encoder", given.encoder, "--size", given.size]
        started, peak = time.monotonic(), (0, 0)
        with (
            (given.out / f"embed-{count}.log").open("w") as said,
            subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=said, stderr=said) as process,
        ):
            while process.poll() is None:
                now = memory_of(process.pid, proportional)
                peak = (max(peak[0], now[0]), max(peak[1], now[1]))
                time.sleep(0.5)
        if process.returncode:
            sys.exit((given.out / f"embed-{count}.log").read_text()[-2000:])
        seconds = round(time.monotonic() - started, 1)
        found = {"gb": round(peak[0] / 1e9, 3), "ray_services_gb": round(peak[1] / 1e9, 3)}
        print(json.dumps({"images": count, "seconds": seconds, **found}), flush=True)


if __name__ == "__main__":
    main()
