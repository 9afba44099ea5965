"""STEGO: unsupervised semantic segmentation by distilling feature correspondences (Hamilton et al., ICLR 2022)."""

from ovseg_ray.methods.stego.config import StegoConfig
from ovseg_ray.methods.stego.model import Stego

__all__ = ["Stego", "StegoConfig"]
