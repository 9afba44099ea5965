from __future__ import annotations

import pytest

from ovseg_ray.errors import UserError
from ovseg_ray.neighbours.config import IndexConfig
from ovseg_ray.neighbours.memory import parse_bytes, plan_memory

MILLION = 1_000_000


@pytest.mark.parametrize(("kind", "shards"), [("flat", 2), ("ivfpq", 2), ("ivf", 1)])
def test_a_million_vectors_fit_two_gigabytes(kind: str, shards: int) -> None:
    config = IndexConfig.model_validate({"kind": kind})
    plan = plan_memory(MILLION, 384, 24, shards, config, 2 * 10**9)
    assert plan.total <= 2e9
    assert not plan.resident


def test_what_does_not_fit_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"--memory: 1,000,000 vectors on 2 shards: about .* GB .*--index flat"):
        plan_memory(MILLION, 384, 24, 2, IndexConfig(kind="hnsw"), 10**9)


def test_memory_does_not_grow_with_the_square() -> None:
    small, large = (plan_memory(n, 384, 24, 1, IndexConfig(), None).total for n in (MILLION, 2 * MILLION))
    assert large - small < 60 * MILLION


def test_pytorch_takes_more_than_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    lean = plan_memory(1000, 384, 24, 2, IndexConfig(), None).total
    monkeypatch.setattr("ovseg_ray.neighbours.memory.has_faiss", lambda: False)
    assert plan_memory(1000, 384, 24, 2, IndexConfig(), None).total == lean + 3 * (260 << 20)


def test_few_vectors_stay_in_memory() -> None:
    assert plan_memory(1000, 384, 24, 1, IndexConfig(), 2 * 10**9).resident


@pytest.mark.parametrize(("text", "size"), [("2GB", 2e9), ("500 mb", 5e8), ("1.5GiB", 1.5 * 2**30), ("123", 123)])
def test_sizes(text: str, size: float) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "two", "2 cups", "-1GB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UserError, match="such as 2GB"):
        parse_bytes(text)
