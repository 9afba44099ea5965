"""Open-vocabulary segmentation at cluster scale, on Ray.

Example:
    >>> import ovseg_ray
    >>> model = ovseg_ray.load("runs/lseg")
    >>> result = model.segment("street.jpg", "sky, road, a red car")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from ovseg_ray.config import Precision
    from ovseg_ray.segmenter import Segmenter

__version__ = "0.1.0"


def load(path: str | os.PathLike[str], device: str | None = None, precision: Precision = "fp32") -> Segmenter:
    """A trained model, ready to segment; needs no Ray.

    Args:
        path: a run directory, its `model/` directory, or what `ovseg-ray demo` wrote.
        device: where it runs; default: a GPU if there is one.
        precision: "bf16" or "fp16" for a faster image network where the device is built for it; scores stay float32.

    Raises:
        UserError: no finished model there.
    """
    from ovseg_ray.segmenter import Segmenter  # PyTorch is loaded only when it is needed

    return Segmenter.load(path, device, precision)
