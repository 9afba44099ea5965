"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class Ema:
    """Averages the trained parameters and the running statistics of normalisation layers.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that the average forgets the
    initialisation early. Whatever is frozen is not copied.

    Attributes:
        decay: the configured one.
        updates: n.
        average: by the names of `state_dict`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._live = _averaged(module)
        self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.values()), [t.detach() for t in self._live.values()], 1 - decay)

    @torch.no_grad()
    def restore(self, average: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint."""
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(average[name])


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    live: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for prefix, child in module.named_modules():
        if isinstance(child, _NORMS):
            for name, buffer in child.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    live[f"{prefix}.{name}" if prefix else name] = buffer
    return live
