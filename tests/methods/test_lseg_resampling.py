"""Sampling along one axis against PyTorch's interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg_ray.methods.lseg.resampling import Axis, upsample_scores


@pytest.mark.parametrize(("source", "target"), [(1, 1), (1, 4), (2, 4), (8, 16), (7, 20), (20, 7)])
def test_aligned_corners_are_torchs(source: int, target: int) -> None:
    x = torch.randn(2, 3, source, 4)
    expected = F.interpolate(x, size=(target, 4), mode="bilinear", align_corners=True)
    torch.testing.assert_close(Axis.aligned(source, target).sample(x, 2), expected)


@pytest.mark.parametrize("size", [(30, 41), (32, 64), (1, 1)])
def test_own_size_is_interpolation_cut_to_the_unpadded_part(size: tuple[int, int]) -> None:
    x = torch.randn(1, 2, 16, 32)
    dense = upsample_scores(x, size, size, (32, 64))
    by_axis = x
    for dim in (2, 3):
        axis = Axis.to_pixels(x.shape[dim], 2 * x.shape[dim], size[dim - 2], size[dim - 2])
        by_axis = axis.sample(by_axis, dim)
    torch.testing.assert_close(by_axis, dense)
    assert dense.shape[2:] == size


@pytest.mark.parametrize("size", [(64, 128), (16, 32), (45, 21), (1, 1)])
def test_another_size_lies_on_the_same_picture(size: tuple[int, int]) -> None:
    # a ramp over the input's pixels, which linear interpolation keeps exact
    rows = torch.linspace(0, 31, 16)[:, None].expand(16, 32)
    result = upsample_scores(rows[None, None], (30, 60), size, (32, 64))[0, 0, :, 0]
    expected = ((torch.arange(size[0]) + 0.5) * (30 / size[0]) - 0.5).clamp(0, 29)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("target", [30, 32, 47, 5])
@pytest.mark.parametrize("labels", [1, 3])
def test_labels_last(target: int, labels: int) -> None:
    axis = Axis.to_pixels(16, 32, 30, target)
    x = torch.randn(16, 2, labels)
    torch.testing.assert_close(axis.sample_first(x), axis.sample(x, 0))
    torch.testing.assert_close(torch.tensordot(axis.matrix(16), x, 1), axis.sample(x, 0))


def test_parts_of_an_axis_need_only_their_span() -> None:
    x, axis = torch.randn(16, 3), Axis.to_pixels(16, 32, 30, 47)
    whole = axis.sample(x, 0)
    for start in range(0, 47, 10):
        part = axis.part(start, start + 10)
        low, high = part.span()
        torch.testing.assert_close(part.shifted(low).sample(x[low:high], 0), whole[start : start + 10])
