"""LSeg: a joint embedding of pixels and words (Li et al., ICLR 2022)."""

from ovseg_ray.methods.lseg.config import LSegConfig
from ovseg_ray.methods.lseg.model import LSeg

__all__ = ["LSeg", "LSegConfig"]
