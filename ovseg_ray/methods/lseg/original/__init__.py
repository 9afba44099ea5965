"""Checkpoints of the paper's published code (isl-org/lang-seg), read without it."""

from ovseg_ray.methods.lseg.original.convert import convert
from ovseg_ray.methods.lseg.original.network import Conversion, Untold, convert_state

__all__ = ["Conversion", "Untold", "convert", "convert_state"]
