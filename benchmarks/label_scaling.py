"""What one picture costs as the list of labels grows: streamed `segment` against dense scores.

    python benchmarks/label_scaling.py --encoder vit_base_patch16_384 --out scaling.json
    python benchmarks/label_scaling.py --plot docs/figures/label_scaling.svg --out scaling.json

Warm seconds from picture to label map (encoding, then labels), all lengths in one process, taken in turns, the least of
the repeats; the label vectors are given, as they are for a repeated list. Peak memory of the process while it does one
picture, each length in a process of its own, and what of it the label vectors themselves are. Weights are random, which
costs the same. The dense path is skipped where its scores alone pass --dense-limit-gb; else its argmax is compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.methods.lseg import LSeg, LSegConfig

TEXT_WIDTH = 512
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Picture:
    """A network with random weights, a picture, and label vectors."""

    def __init__(self, given: argparse.Namespace) -> None:
        torch.set_num_threads(given.threads)
        torch.manual_seed(0)
        network = {"name": "vit", "vit": {"architecture": given.encoder}}
        config = {
            "encoder": {"name": "small"} if given.encoder == "small" else network,
            "width": given.width,
            "joint_width": TEXT_WIDTH,
        }
        self.method = LSeg(LSegConfig.model_validate(config)).eval()
        self.image = torch.randn(1, 3, given.size, given.size)
        self.size = (given.size, given.size)
        self.dtype = DTYPES[given.precision]

    def labels(self, count: int) -> Tensor:
        """(count, D) unit vectors; shorter lists are the beginnings of longer ones."""
        return F.normalize(torch.randn(count, TEXT_WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)

    @torch.inference_mode()
    def streamed(self, text: Tensor) -> tuple[Tensor, float]:
        """Label map, and seconds of encoding alone."""
        started = time.perf_counter()
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            encoding = self.method.encode(self.image)
        encoded = time.perf_counter() - started
        return self.method.segment(encoding, text, self.size).label_map, encoded

    @torch.inference_mode()
    def dense(self, text: Tensor) -> Tensor:
        """Label map, with all scores at full size at once."""
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            encoding = self.method.encode(self.image)
        return self.method.dense_scores(encoding, text, self.size).softmax(1).max(1).indices


def latency(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of every number of labels."""
    picture = Picture(given)
    rows: list[dict[str, Any]] = [{"labels": count} for count in given.labels]
    for turn in range(given.repeats + 1):  # the first warms up
        for row in rows:
            text = picture.labels(row["labels"])
            started = time.perf_counter()
            found, encoded = picture.streamed(text)
            row.setdefault("streamed", []).append(time.perf_counter() - started)
            row.setdefault("encode", []).append(encoded)
            if turn < 2 and row["labels"] * given.size**2 * 8 < given.dense_limit_gb * 1e9:
                started = time.perf_counter()
                expected = picture.dense(text)
                row["dense"] = min(row.get("dense", 1e9), time.perf_counter() - started)
                row["different_pixels"] = int((found != expected).sum())
    for row in rows:
        row["streamed"], row["encode"] = min(row["streamed"][1:]), min(row["encode"][1:])
    return rows


def memory(given: argparse.Namespace, count: int) -> tuple[float, float]:
    """Peak MB of a process that does one picture, and MB of its label vectors."""
    picture = Picture(given)
    picture.streamed(picture.labels(2))
    text = picture.labels(count)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, which building the network made, is forgotten
    picture.streamed(text)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024, text.numel() * 4 / 2**20


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory over labels."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    labels = [row["labels"] for row in rows]
    left.plot(labels, [row["streamed"] for row in rows], "o-", label="streamed")
    dense = [row for row in rows if "dense" in row]
    left.plot([row["labels"] for row in dense], [row["dense"] for row in dense], "s--", label="dense")
    left.set(xscale="log", xlabel="labels", ylabel="seconds a picture", ylim=(0, None))
    left.legend()
    right.plot(labels, [row["peak_mb"] for row in rows], "o-", label="peak")
    right.plot(labels, [row["peak_mb"] - row["vectors_mb"] for row in rows], "s--", label="without label vectors")
    right.set(xscale="log", xlabel="labels", ylabel="MB of the process", ylim=(0, None))
    right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20, 100, 1000, 10_000])
    parser.add_argument("--encoder", default="small", help="small, or a vision transformer of timm's")
    parser.add_argument("--size", type=int, default=480, help="side of the picture, a multiple of 32")
    parser.add_argument("--width", type=int, default=256, help="of the decoder")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of the network; scores are float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dense-limit-gb", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write, or with --plot to read")
    parser.add_argument("--plot", type=Path, help="draw what --out holds into this file")
    given = parser.parse_args()
    if given.plot is not None:
        plot(json.loads(given.out.read_text()), given.plot)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        rows = pool.apply(latency, (given,))
    for row in rows:
        with context.Pool(1) as pool:
            row["peak_mb"], row["vectors_mb"] = pool.apply(memory, (given, row["labels"]))
    given.out.write_text(json.dumps(rows, indent=1) + "\n")
    heads = ("labels", "encode s", "streamed s", "dense s", "differ", "peak MB", "vectors MB")
    print(" ".join(f"{head:>10}" for head in heads))
    for row in rows:
        times = [f"{row[key]:.3f}" if key in row else "-" for key in ("encode", "streamed", "dense")]
        memories = [f"{row[key]:.1f}" for key in ("peak_mb", "vectors_mb")]
        cells = [row["labels"], *times, row.get("different_pixels", "-"), *memories]
        print(" ".join(f"{cell:>10}" for cell in cells))


if __name__ == "__main__":
    main()
