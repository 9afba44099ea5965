from __future__ import annotations

import numpy as np
import pytest
from search_tools import brute_force, clustered, same, unit

from ovseg_ray.neighbours import top_k
from ovseg_ray.neighbours.top_k import Found, exact_top_k, faiss_top_k, merge, nothing, torch_top_k


@pytest.mark.parametrize("search", [faiss_top_k, torch_top_k])
def test_both_back_ends_are_exact(search: object) -> None:
    vectors = clustered(300)
    same(search(unit(vectors[:40]), unit(vectors), 9), brute_force(vectors[:40], vectors, 9))  # type: ignore[operator]


def test_torch_serves_where_faiss_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(top_k, "has_faiss", lambda: False)
    monkeypatch.setattr(top_k, "torch_top_k", lambda *a: called.append(a) or torch_top_k(*a))
    vectors = unit(clustered(50))
    same(exact_top_k(vectors, vectors, 100), brute_force(vectors, vectors, 50))
    assert called


def test_merging_parts_is_searching_the_whole() -> None:
    vectors = clustered(200)
    parts = []
    for start, stop in ((0, 7), (7, 120), (120, 200)):
        found = exact_top_k(unit(vectors[:30]), unit(vectors[start:stop]), 11)
        parts.append(Found(found.scores, found.rows + start))
    same(merge(parts, 11), brute_force(vectors[:30], vectors, 11))


def test_equal_scores_go_by_row_and_gaps_stay_last() -> None:
    a = Found(np.array([[1.0, 0.5]], np.float32), np.array([[9, 4]]))
    b = Found(np.array([[1.0, -np.inf]], np.float32), np.array([[3, -1]]))
    found = merge([a, b], 5)
    assert found.rows.tolist() == [[3, 9, 4, -1, -1]]
    assert merge([nothing(1, 2), a], 2).rows.tolist() == [[9, 4]]
