from __future__ import annotations

import numpy as np
import pytest

from ovseg_ray.config import TrainingConfig
from ovseg_ray.errors import UserError
from ovseg_ray.training.plan import Plan, permutation, sample_generator


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs", "per_epoch", "total"),
    [
        (1, 1, 1, 1, 1),
        (10, 10, 1, 1, 1),
        (10, 3, 2, 3, 6),  # the rest of one is left out
        (10, 4, 0.5, 2, 1),
        (10, 4, 2.5, 2, 5),
        (1000, 10, 0.001, 100, 1),  # never no step at all
        (7, 2, 1.6, 3, 5),
    ],
)
def test_steps(samples: int, batch_size: int, epochs: float, per_epoch: int, total: int) -> None:
    plan = Plan(samples, batch_size, epochs)
    assert (plan.steps_per_epoch, plan.total_steps) == (per_epoch, total)


@pytest.mark.parametrize("samples", [16, 50, 117, 49_629])
def test_steps_stand_in_place_of_epochs(samples: int) -> None:
    plan = Plan.of(TrainingConfig(steps=5000, epochs=3, batch_size=16), samples, 2)
    assert plan.total_steps == 5000
    assert max(plan.marks(1)) == 5000


@pytest.mark.parametrize("samples", [12, 17, 23])
def test_no_sample_comes_twice_in_an_epoch(samples: int) -> None:
    plan = Plan(samples, 4, 3)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = np.concatenate([plan.global_batch(step) for step in steps])
        assert len(set(seen.tolist())) == len(seen) == samples // 4 * 4
        assert seen.min() >= 0
        assert seen.max() < samples


@pytest.mark.parametrize(
    ("workers", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (3, 4), (12, 1), (5, 1), (5, 2)]
)
def test_global_batches_do_not_depend_on_the_division(workers: int, accumulate: int) -> None:
    whole = Plan(50, 12, 2, seed=3)
    plan = Plan(50, 12, 2, seed=3, accumulate=accumulate, workers=workers)
    for step in range(whole.total_steps):
        parts = [plan.micro_batch(step, m, r) for m in range(accumulate) for r in range(workers)]
        assert [len(part) for part in parts] == list(plan.shares) * accumulate
        assert max(plan.shares) - min(plan.shares) <= 1
        assert np.concatenate(parts).tolist() == whole.global_batch(step).tolist()


@pytest.mark.parametrize(
    ("workers", "unit", "shares"),
    [(2, 4, (8, 8)), (3, 4, (4, 4, 8)), (4, 4, (4, 4, 4, 4)), (5, 4, (3, 3, 3, 3, 4)), (3, 5, (5, 5, 6))],
)
def test_images_that_share_statistics_stay_together(workers: int, unit: int, shares: tuple[int, ...]) -> None:
    assert Plan(100, 16, 1, workers=workers, unit=unit).shares == shares


def test_epochs_and_seeds_differ_and_repeat() -> None:
    plan = Plan(100, 10, 2, seed=1)
    first = [plan.global_batch(s).tolist() for s in range(20)]
    assert first == [Plan(100, 10, 2, seed=1).global_batch(s).tolist() for s in range(20)]
    assert first[:10] != first[10:]
    assert first != [Plan(100, 10, 2, seed=2).global_batch(s).tolist() for s in range(20)]
    assert sorted(permutation(100, 1, 0)) == list(range(100))


def test_the_schedule_resumes_at_any_step() -> None:
    plan = Plan(20, 4, 3, accumulate=2, workers=2)
    whole = [(epoch, indices.tolist()) for epoch, indices in plan.schedule(1)]
    assert len(whole) == plan.total_steps * 2
    for step in (0, 1, 7, plan.total_steps):
        assert [(e, i.tolist()) for e, i in plan.schedule(1, step)] == whole[2 * step :]


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, {5, 10, 12}), (0.4, {2, 4, 6, 8, 10, 12}), (0.01, set(range(1, 13))), (2, {10, 12}), (100, {12})],
)
def test_marks(every: float, expected: set[int]) -> None:
    assert Plan(20, 4, 2.4).marks(every) == expected


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ((0, 1, 1.0), "nothing to train on"),
        ((9, 16, 1.0), "the data has 9 images; use at most 9"),
        ((9, 16, 1.0, 0, 1, 4), "use at most 9"),
        ((3, 4, 1.0, 0, 1, 4), "fewer than 4 workers"),
        ((100, 10, 1.0, 0, 4, 2), "does not divide by 4 micro-batches; the nearest that does is 8"),
        ((100, 15, 1.0, 0, 4, 1), "the nearest that does is 16"),
        ((100, 2, 1.0, 0, 2, 4), "4 workers × 2 micro-batches; use at least 8"),
    ],
)
def test_what_cannot_be_divided_is_named(plan: tuple, text: str) -> None:
    with pytest.raises(UserError, match=text):
        Plan(*plan)


def test_plan_of_a_configuration() -> None:
    training = TrainingConfig(batch_size=8, accumulate=2, epochs=1.5, seed=9)
    assert Plan.of(training, 80, 2) == Plan(80, 8, 1.5, 9, 2, 2)


def test_augmentation_depends_on_seed_epoch_and_sample_alone() -> None:
    draws = {(s, e, i): sample_generator(s, e, i).random() for s in range(3) for e in range(3) for i in range(3)}
    assert len(set(draws.values())) == 27
    assert sample_generator(1, 2, 0).random() == draws[1, 2, 0]
