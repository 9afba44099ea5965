from __future__ import annotations

import pytest
import torch
from stego_golden import Golden

from ovseg_ray.methods.stego.negatives import cyclic_negatives, draw_negatives, original_negatives


@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_the_originals_rule(size: int) -> None:
    golden = Golden("super_perm")
    assert torch.equal(original_negatives(golden[f"perm_{size}"]), golden[f"neg_{size}"])


@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_every_image_serves_once_and_never_itself(size: int) -> None:
    for order in Golden("super_perm")[f"perm_{size}"]:
        found = cyclic_negatives(order)
        assert torch.equal(found.sort().values, torch.arange(size))
        assert (found != torch.arange(size)).all()


def test_draws_follow_from_the_seed() -> None:
    for reference in (False, True):
        first = draw_negatives(5, 16, seed=3, reference=reference)
        torch.randperm(7)
        assert torch.equal(first, draw_negatives(5, 16, seed=3, reference=reference))
        assert not torch.equal(first, draw_negatives(5, 16, seed=4, reference=reference))
        assert first.shape == (5, 16)
    assert len({tuple(row.tolist()) for row in first}) == 5
