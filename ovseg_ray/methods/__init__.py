"""The methods, all behind one contract: `Method`."""

from ovseg_ray.methods.base import Batch, Encoding, Method, ParameterGroup, Segmentation
from ovseg_ray.methods.registry import get_method, method_names

__all__ = ["Batch", "Encoding", "Method", "ParameterGroup", "Segmentation", "get_method", "method_names"]
