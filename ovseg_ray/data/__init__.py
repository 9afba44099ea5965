"""Data sets: what a sample is, a reader for each format, transforms and the check of a whole set."""

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.data.readers.registry import check_split, list_splits, open_dataset
from ovseg_ray.data.sample import DecodedSample, Sample

__all__ = ["DataSet", "DecodedSample", "Sample", "check_split", "list_splits", "open_dataset"]
