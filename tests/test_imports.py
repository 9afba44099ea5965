"""What is slow to import is not imported by those who have no use for it: every process of a cluster would wait."""

from __future__ import annotations

import subprocess
import sys

import pytest

NETWORK_LIBRARIES = ("torchvision", "timm", "open_clip", "transformers")


@pytest.mark.parametrize(
    ("modules", "unused"),
    [
        (("ovseg_ray.neighbours.shard", "ovseg_ray.data.square_blocks"), ("torch", *NETWORK_LIBRARIES)),
        (
            ("ovseg_ray.methods.lseg", "ovseg_ray.methods.stego", "ovseg_ray.evaluation.evaluate"),
            NETWORK_LIBRARIES,
        ),
    ],
)
def test_processes_import_only_what_they_use(modules: tuple[str, ...], unused: tuple[str, ...]) -> None:
    code = f"import sys, {', '.join(modules)}; print([name for name in {unused!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
