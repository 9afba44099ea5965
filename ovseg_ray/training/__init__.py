"""The one training loop for all methods, on Ray Train."""

from ovseg_ray.training.config import RunConfig, resolve_config
from ovseg_ray.training.train import check, train

__all__ = ["RunConfig", "check", "resolve_config", "train"]
