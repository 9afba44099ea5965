"""Batch norms whose statistics belong to the plan: the same images share them, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ovseg_ray.errors import UserError


def share_statistics(module: nn.Module, images: int | None, shares: Sequence[int], rank: int) -> None:
    """Make every batch norm of a module take its statistics over groups of images that only the plan decides.

    The images of a step, in the plan's order, are cut into groups (Hoffer et al. 2017, "ghost batch norm", where a
    group is smaller than the batch). A group within one worker costs no communication, one over several workers two
    small collectives a layer. torch's SyncBatchNorm knows whole process groups on GPUs only.

    Args:
        module: changed in place; names and state stay as they are.
        images: of a group; None takes a step's (or micro-batch's) images of all workers together.
        shares: images that each worker takes through the network at once.
        rank: of this worker.

    Raises:
        UserError: the groups fit neither into a worker's images nor over whole workers.
    """
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm)]
    if not norms:
        return
    images, together = groups_of(images, shares)
    parts = 1 if together > 1 else shares[rank] // images
    group = _process_group(together, rank, len(shares))
    if parts == 1 and group is None:
        return
    for norm in norms:
        # the class changes and nothing else, as it does in torch's convert_sync_batchnorm
        norm.__class__ = _shared_class(type(norm))
        shared = cast(_Shared, norm)
        shared.parts, shared.group = parts, group


def groups_of(images: int | None, shares: Sequence[int]) -> tuple[int, int]:
    """How groups of `images` lie over workers.

    Args:
        images: of a group; None means all.
        shares: images of each worker.

    Returns:
        Images of a group, and workers that one spans.

    Raises:
        UserError: they fit neither.
    """
    whole = sum(shares)
    images = images or whole
    if images == whole:
        return images, len(shares)
    if all(share % images == 0 for share in shares):
        return images, 1
    if len(set(shares)) == 1 and images % shares[0] == 0 and whole % images == 0:
        return images, images // shares[0]
    each = " + ".join(map(str, shares))
    raise UserError(
        f"training.batch_norm_images = {images}: does not fit a batch of {each} images on {len(shares)} workers; use "
        f"null for all of them, a number that divides each of these, or other --workers"
    )


@torch.no_grad()
def average_statistics(tensors: dict[str, Tensor], module: nn.Module) -> None:
    """Replace running statistics by their mean over the groups of all workers, in place.

    They are linear in the statistics of the groups, so this is what one worker that saw all groups would hold.

    Args:
        tensors: any of the module's state by name: itself, or a moving average of it.
        module: whose batch norms are meant.
    """
    running, groups = [], 1
    for prefix, child in module.named_modules():
        if isinstance(child, _BatchNorm):
            groups = getattr(child, "parts", 1)
            names = [f"{prefix}.{name}" if prefix else name for name, _ in child.named_buffers(recurse=False)]
            running += [tensors[name] for name in names if name in tensors and tensors[name].is_floating_point()]
    if not running:
        return
    flat = torch.cat([tensor.flatten() * groups for tensor in running] + [running[0].new_tensor([groups])])
    dist.all_reduce(flat)
    means = flat[:-1] / flat[-1]
    for tensor, mean in zip(running, means.split([tensor.numel() for tensor in running]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def _process_group(workers: int, rank: int, world_size: int) -> dist.ProcessGroup | None:
    """The `workers` neighbours that this rank shares its statistics with."""
    if workers == 1:
        return None
    mine = None
    for first in range(0, world_size, workers):
        # every rank must make every group, in the same order
        group = dist.new_group(list(range(first, first + workers)))
        if first <= rank < first + workers:
            mine = group
    return mine


_CLASSES: dict[type, type] = {}


def _shared_class(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    if issubclass(kind, _Shared):
        return kind
    if kind not in _CLASSES:
        _CLASSES[kind] = type(f"Shared{kind.__name__}", (_Shared, kind), {})
    return _CLASSES[kind]


class _Shared(_BatchNorm):
    parts: int
    group: dist.ProcessGroup | None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if self.group is not None:
            return self._across(input, self.group)
        # one group: what batch norm does anyway, without a copy of the map
        return super().forward(input) if self.parts == 1 else self._within(input)

    def _within(self, x: Tensor) -> Tensor:
        if len(x) % self.parts:
            raise RuntimeError(f"a batch of {len(x)} does not divide into {self.parts} groups of batch statistics")
        if self.running_mean is None or self.running_var is None:
            parts = [self._normalised(part, None, None) for part in x.chunk(self.parts)]
            return torch.cat(parts)
        outputs, means, variances = [], [], []
        for part in x.chunk(self.parts):
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            outputs.append(self._normalised(part, mean, variance))
            means.append(mean)
            variances.append(variance)
        self.running_mean.copy_(torch.stack(means).mean(0))
        self.running_var.copy_(torch.stack(variances).mean(0))
        self._count()
        return torch.cat(outputs)

    def _normalised(self, x: Tensor, mean: Tensor | None, variance: Tensor | None) -> Tensor:
        return F.batch_norm(x, mean, variance, self.weight, self.bias, True, self._momentum(), self.eps)

    def _across(self, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps, group)
        if self.running_mean is not None and self.running_var is not None:
            momentum = self._momentum()
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), momentum)
        self._count()
        return y

    def _momentum(self) -> float:
        if self.momentum is None:
            assert self.num_batches_tracked is not None
            return 1.0 / (float(self.num_batches_tracked) + 1)
        return self.momentum

    def _count(self) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the images of several workers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = x.new_tensor([x.numel() // x.shape[1]], dtype=torch.float32)
        zeros, ones = _constants(x)
        # torch's own kernels: one pass each, twenty times as fast as the same in single operations
        mean, variance = torch.ops.aten.batch_norm_update_stats(x, zeros.clone(), ones.clone(), 0.0)
        local = torch.cat([count, mean.float(), variance.float()])
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, local, group=group)
        counts, means, variances = torch.stack(gathered).split([1, len(mean), len(mean)], dim=1)
        total = counts.sum()
        # the sum of squares about the common mean, not about zero: nothing cancels (Chan et al. 1979)
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.group, ctx.total, ctx.eps, ctx.has_bias = group, total, eps, bias is not None
        ctx.mark_non_differentiable(mean, variance, total)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=_layout(x))
        gain = torch.rsqrt(variance + ctx.eps)
        # with given statistics: dx = dy * weight * gain, and the sums over (x - mean) * gain * dy and over dy
        whole_weight = _constants(x)[1] if weight is None else weight
        dx, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            dy, x, whole_weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_bias, of_weight])
        whole = sums.clone()
        dist.all_reduce(whole, group=ctx.group)
        sum_dy, sum_dy_unit = whole / ctx.total
        # what the statistics themselves owe to x: an affine function of x in each channel
        slope = whole_weight * gain * gain * sum_dy_unit
        offset = whole_weight * gain * sum_dy - slope * mean
        dx = dx.sub_(_column(offset, x).to(dx.dtype)).addcmul_(x, _column(slope, x).to(dx.dtype), value=-1)
        return dx, None if weight is None else of_weight, of_bias if ctx.has_bias else None, None, None


def _constants(x: Tensor) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros(x.shape[1], device=x.device)
    return zeros, torch.ones_like(zeros)


def _layout(x: Tensor) -> torch.memory_format:
    nhwc = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.ndim - 2))
