"""Nearest neighbours of image features on Ray: shards of vectors on actors, exact or approximate, merged top-k."""

from ovseg_ray.neighbours.build import Built, build_table
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.neighbours.service import NeighbourService
from ovseg_ray.neighbours.storage import Storage

__all__ = ["Built", "IndexConfig", "NeighbourService", "Storage", "build_table"]
