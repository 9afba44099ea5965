"""Windows: where they lie, that their weights add up, and that blended scores are what they are said to be."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ray.config import build
from ovseg_ray.methods import tiling
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.methods.tiling import TileGrid, fade, segment_band

WIDTH = 16


def lseg(**changes: object) -> LSeg:
    torch.manual_seed(0)
    values = {"width": 8, "joint_width": WIDTH, "encoder": {"channels": [8, 8, 8, 8]}, **changes}
    return LSeg(build(LSegConfig, values)).eval()


def words(count: int) -> Tensor:
    return F.normalize(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (100, 230), (1, 300), (257, 64)])
@pytest.mark.parametrize("overlap", [0, 8, 32])
def test_windows_cover_the_picture_and_weights_sum_to_one(size: tuple[int, int], overlap: int) -> None:
    grid = TileGrid.over(size, 64, overlap)
    assert grid.window == (min(64, size[0]), min(64, size[1]))
    for spans, length in ((grid.rows, size[0]), (grid.columns, size[1])):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(before[1] - after[0] >= overlap for before, after in itertools.pairwise(spans))
        torch.testing.assert_close(fade(spans, overlap).sum(0), torch.ones(length))
    bands = [band for band, _ in grid.bands()]
    assert bands[0][0] == 0
    assert bands[-1][1] == size[0]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bands))


def test_a_window_fades_out() -> None:
    weights = fade(((0, 64), (48, 112)), 16)
    assert weights[0, :48].eq(1).all()
    assert weights[1, 64:].eq(1).all()
    assert weights[0, 48:64].diff().lt(0).all()
    assert weights[0, 56] == pytest.approx(0.5, abs=0.05)


def tiled(method: LSeg, image: Tensor, text: Tensor, grid: TileGrid) -> tuple[Tensor, Tensor]:
    encodings = {
        (row, column): method.encode(grid.cut(image, (row, column)).unsqueeze(0))
        for row in range(len(grid.rows))
        for column in range(len(grid.columns))
    }
    strips = [strip for band in grid.bands() for strip in segment_band(method, grid, encodings, text, band)]
    assert [strip[0][0] for strip in strips[1:]] == [strip[0][1] for strip in strips[:-1]]
    return torch.cat([strip[1] for strip in strips]), torch.cat([strip[2] for strip in strips])


@pytest.mark.parametrize("block", ["none", "depthwise", "bottleneck"])
@pytest.mark.parametrize(("labels", "at_once"), [(5, 4_000_000), (200, 4_000_000), (200, 50_000)])
def test_scores_are_blended(block: str, labels: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "SCORES_AT_ONCE", at_once)
    method, text = lseg(head_block={"kind": block}), words(labels)
    image = torch.randn(3, 100, 150, generator=torch.Generator().manual_seed(2))
    grid = TileGrid.over((100, 150), 64, 16)
    with torch.no_grad():
        dense = torch.zeros(labels, 100, 150)
        vertical, horizontal = fade(grid.rows, 16), fade(grid.columns, 16)
        for i, (top, bottom) in enumerate(grid.rows):
            for j, (left, right) in enumerate(grid.columns):
                window = method.encode(image[None, :, top:bottom, left:right])
                weight = vertical[i, top:bottom, None] * horizontal[j, left:right]
                dense[:, top:bottom, left:right] += weight * method.dense_scores(window, text, (64, 64))[0]
        label_map, confidence = tiled(method, image, text, grid)
    probability, winner = dense.softmax(0).max(0)
    torch.testing.assert_close(confidence, probability, atol=1e-5, rtol=1e-4)
    best = dense.topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-4
    assert torch.equal(label_map[clear], winner[clear])


def test_one_window_is_the_picture_itself() -> None:
    method, text = lseg(), words(9)
    image = torch.randn(3, 40, 56, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        label_map, confidence = tiled(method, image, text, TileGrid.over((40, 56), 64, 16))
        expected = method.segment(method.encode(image[None]), text, (40, 56))
    assert torch.equal(label_map, expected.label_map[0])
    torch.testing.assert_close(confidence, expected.confidence[0], atol=1e-6, rtol=1e-5)


def test_the_lowest_label_wins_a_tie() -> None:
    method, text = lseg(), words(1).repeat(130, 1)
    image = torch.randn(3, 70, 70, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        label_map, confidence = tiled(method, image, text, TileGrid.over((70, 70), 64, 16))
    assert label_map.eq(0).all()
    torch.testing.assert_close(confidence, torch.full_like(confidence, 1 / 130))


def test_too_many_labels_that_need_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MOST_SCORES", 1000)
    method, text = lseg(head_block={"kind": "bottleneck"}), words(20)
    with pytest.raises(ValueError, match="20 labels over 70 pixels"):
        tiled(method, torch.zeros(3, 70, 70), text, TileGrid.over((70, 70), 64, 16))
