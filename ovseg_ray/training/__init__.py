"""The one training loop for all methods, on Ray Train."""

from ovseg_ray.training.config import RunConfig, resolve_config
from ovseg_ray.training.train import train

__all__ = ["RunConfig", "resolve_config", "train"]
