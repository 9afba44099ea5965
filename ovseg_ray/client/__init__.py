"""A client of an endpoint; needs neither Ray nor PyTorch, only pydantic.

Example:
    >>> from ovseg_ray.client import Client
    >>> with Client("http://127.0.0.1:8000") as client:
    ...     found = client.segment("street.jpg", "sky, road, car|automobile")
    ...     picture = client.upload("street.jpg")  # encoded once, asked many times
    ...     found = client.segment(picture, ["sky", ["car", "automobile"]], parts=["label_map"])
"""

from ovseg_ray.client.arrays import confidence, label_map, mask
from ovseg_ray.client.client import Client
from ovseg_ray.client.errors import EndpointError
from ovseg_ray.errors import UserError

__all__ = ["Client", "EndpointError", "UserError", "confidence", "label_map", "mask"]
