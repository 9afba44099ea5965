"""Sweeps: search spaces, Optuna's suggestions, trials on Ray Tune."""

from ovseg_ray.tuning.space import SweepSpace, read_space
from ovseg_ray.tuning.sweep import SweepOptions, summary, tune

__all__ = ["SweepOptions", "SweepSpace", "read_space", "summary", "tune"]
