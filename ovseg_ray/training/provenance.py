"""What a result depends on beside its configuration."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.sources import Sources

PACKAGES = ("ovseg-ray", "torch", "torchvision", "ray", "numpy", "open_clip_torch", "pillow")


def provenance_of(config: RunConfig, sources: Sources, workers: int) -> dict[str, Any]:
    """Hashes of data and labels, seed, versions: as `provenance.json` has them."""
    data = [
        {
            "path": str(source.dataset.path),
            "split": source.dataset.split,
            "images": len(source.dataset),
            "fingerprint": source.dataset.fingerprint(),
            "vocabulary": source.labels.fingerprint if source.labels else None,
            "held_out": list(source.held_out),
        }
        for source in sources.sources
    ]
    return {
        "method": config.method,
        "seed": config.training.seed,
        "data": data,
        "world_size": workers,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
