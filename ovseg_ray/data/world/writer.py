"""Writing a whole world in parallel with Ray Data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray.data

from ovseg_ray.data.world.files import VERSION, built_aside, is_finished, write_annotations, write_scene
from ovseg_ray.errors import UserError

_MIN_BLOCK = 200
"""A block costs about 20 ms of bookkeeping, a scene 2 ms: blocks must not be small."""
_MAX_BLOCKS = 1000


def write_world(
    out: Path,
    scenes: int,
    seed: int,
    *,
    size: int = 96,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a world of ``scenes`` scenes in the COCO layout, on the Ray that is running.

    The bytes depend on (scenes, seed, size) alone. A finished world of the same parameters is left as it is.

    Args:
        out: The directory to make; every Ray node must see it.
        scenes: How many scenes, at least 5 (every fifth is validation).
        seed: Which world, non-negative.
        size: Side of the square images in pixels, at least 48.
        progress: Called with (scenes done, scenes) after every block.

    Returns:
        ``out``, absolute.

    Raises:
        UserError: If a parameter is out of range or ``out`` holds something else.
    """
    for name, value, least in (("scenes", scenes, 5), ("seed", seed, 0), ("size", size, 48)):
        if value < least:
            raise UserError(f"world: {name} is {value}, must be at least {least}")
    out = Path(out).absolute()
    generator = {"version": VERSION, "scenes": scenes, "seed": seed, "size": size}
    if is_finished(out, generator):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with built_aside(out) as aside:
        blocks = max(1, min(_MAX_BLOCKS, scenes // _MIN_BLOCK))
        rows = _write_scenes(aside, scenes, seed, size, blocks, progress)
        write_annotations(aside, rows, generator)
    return out


def _write_scenes(
    root: Path, scenes: int, seed: int, size: int, blocks: int, progress: Callable[[int, int], None] | None
) -> list[dict[str, Any]]:
    """Writes images and pixel maps; returns what `write_scene` gave, in order of scene."""

    def write_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = [json.dumps(write_scene(root, seed, int(i), size)) for i in batch["id"]]
        return {"id": batch["id"], "row": np.array(rows, dtype=object)}

    written = ray.data.range(scenes, override_num_blocks=blocks).map_batches(write_batch, batch_size=None)
    found: dict[int, str] = {}
    for batch in written.iter_batches(batch_size=None, batch_format="numpy"):
        found.update(zip(map(int, batch["id"]), map(str, batch["row"]), strict=True))
        if progress is not None:
            progress(len(found), scenes)
    return [json.loads(found[i]) for i in sorted(found)]
