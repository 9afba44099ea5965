"""Which index is taken where nobody has said."""

from __future__ import annotations

import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.neighbours.choice import choose_index
from ovseg_ray.neighbours.config import IndexConfig, IndexKind
from ovseg_ray.neighbours.memory import plan_memory

MILLION = 1_000_000
BOTH = {"ivf", "ivfpq"}


@pytest.mark.parametrize(
    ("rows", "dim", "shards", "fitting", "kind", "reason"),
    [
        (2, 1, 1, BOTH, "flat", "does not take long"),
        (300_000, 384, 1, BOTH, "flat", "does not take long"),
        (350_000, 384, 1, BOTH, "ivf", "--index flat is exact"),
        (450_000, 384, 2, BOTH, "flat", "does not take long"),  # two shards take half as long
        (MILLION, 16, 1, BOTH, "flat", "does not take long"),  # short vectors, too
        (MILLION, 384, 2, BOTH, "ivf", "approximate"),
        (MILLION, 384, 2, {"ivfpq"}, "ivfpq", "ivf exceeds --memory"),
        (MILLION, 384, 2, set(), "flat", "no approximate index fits --memory"),
    ],
)
def test_by_size_then_by_memory(rows: int, dim: int, shards: int, fitting: set[str], kind: str, reason: str) -> None:
    found = choose_index(rows, dim, shards, gpu=False, faiss=True, fits=lambda name: name in fitting)
    assert found.kind == kind
    assert reason in found.reason


def test_no_approximate_index_where_none_is_built() -> None:
    for gpu, faiss, reason in [(True, True, "GPU"), (False, False, "pip install faiss-cpu")]:
        found = choose_index(10 * MILLION, 768, 1, gpu=gpu, faiss=faiss, fits=lambda _: True)
        assert found.kind == "flat"
        assert reason in found.reason


@pytest.mark.parametrize(
    ("rows", "limit", "kind"), [(MILLION, 2e9, "ivf"), (3 * MILLION, 2e9, "ivfpq"), (30 * MILLION, 2e9, "flat")]
)
def test_the_memory_of_a_laptop(rows: int, limit: float, kind: str) -> None:
    def fits(name: IndexKind) -> bool:
        try:
            plan_memory(rows, 384, 24, 1, IndexConfig(kind=name), int(limit))
        except UserError:
            return False
        return True

    assert choose_index(rows, 384, 1, gpu=False, faiss=True, fits=fits).kind == kind
