"""A generated world: scenes of textured shapes on textured grounds, with masks, hierarchy and captions.

It is written in the COCO layout, so whatever reads COCO reads it. Some compositions of look and shape are
"unseen": captions name them, but no training image carries a mask of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovseg_ray.data.world.classes import WorldClass, parent_names, world_classes
from ovseg_ray.data.world.scene import Instance, Scene, render_scene

if TYPE_CHECKING:
    from ovseg_ray.data.world.writer import write_world

__all__ = ["Instance", "Scene", "WorldClass", "parent_names", "render_scene", "world_classes", "write_world"]


def __getattr__(name: str) -> Any:
    # write_world is the only part that needs Ray; importing it late keeps rendering free of it.
    if name == "write_world":
        from ovseg_ray.data.world.writer import write_world

        return write_world
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
