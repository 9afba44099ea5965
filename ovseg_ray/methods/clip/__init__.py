"""CLIP: a dual encoder of images and captions (Radford et al., ICML 2021), trained from scratch."""

from ovseg_ray.methods.clip.config import ClipConfig
from ovseg_ray.methods.clip.model import Clip

__all__ = ["Clip", "ClipConfig"]
