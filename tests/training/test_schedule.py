from __future__ import annotations

import pytest

from ovseg_ray.config import ScheduleConfig
from ovseg_ray.training.schedule import lr_factor


def factors(total: int, per_epoch: int = 5, **config: object) -> list[float]:
    return [lr_factor(ScheduleConfig(**config), step, total, per_epoch) for step in range(total)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "constant"}, [1, 1, 1, 1]),
        ({"name": "constant", "warmup_steps": 2}, [0.5, 1, 1, 1]),
        ({"name": "poly", "power": 1}, [1, 0.75, 0.5, 0.25]),
        ({"name": "poly", "power": 0.9}, [1, 0.75**0.9, 0.5**0.9, 0.25**0.9]),
        ({"name": "poly", "power": 1, "final_scale": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"name": "cosine"}, [1, 0.85355, 0.5, 0.14645]),
        ({"name": "cosine", "final_scale": 0.5}, [1, 0.92678, 0.75, 0.57322]),
        ({"name": "cosine", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1]),
        ({"name": "poly", "power": 1, "warmup_steps": 2}, [0.5, 1, 1, 0.5]),
        ({"name": "constant", "scales": [[0.4, 0.5], [0.6, 2.0]]}, [1, 1, 0.5, 2]),  # from steps 2 and 3 on
        ({"name": "poly", "power": 1, "warmup_steps": 2, "scales": [[0, 3.0]]}, [1.5, 3, 3, 1.5]),
        ({"name": "cosine", "warmup_steps": 100}, [0.01, 0.02, 0.03, 0.04]),  # longer than the training
    ],
)
def test_values(config: dict, expected: list[float]) -> None:
    assert factors(4, **config) == pytest.approx(expected, abs=1e-5)


def test_per_epoch_stands_still_within_an_epoch() -> None:
    steps = [lr_factor(ScheduleConfig(name="poly", per_epoch=True), s, 15, 5) for s in range(15)]
    # the published schedule: (1 - epoch / epochs) ** 0.9
    assert steps == pytest.approx([1.0] * 5 + [(2 / 3) ** 0.9] * 5 + [(1 / 3) ** 0.9] * 5)


def test_it_falls_steadily_and_stays_in_range() -> None:
    for name in ("cosine", "poly"):
        for warmup in (0, 7):
            found = factors(50, name=name, warmup_steps=warmup, final_scale=0.1)
            assert found[warmup:] == sorted(found[warmup:], reverse=True)
            assert min(found) > 0
            assert max(found) <= 1


@pytest.mark.parametrize("scales", [[[2, 0.5], [1, 0.5]], [[1, 0.5], [1, 0.7]], [[1, 0.0]], [[-1, 1.0]]])
def test_scales_that_make_no_sense(scales: list) -> None:
    with pytest.raises(ValueError, match="epochs must ascend"):
        ScheduleConfig(scales=scales)
