from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from colour_training import ColourPairs, ColourTraining, write_colours
from training_tools import MakeConfig, curve, make_loop

from ovseg_ray.config import DataConfig, SourceConfig
from ovseg_ray.errors import UserError
from ovseg_ray.methods.export import describe_model, load_model
from ovseg_ray.training.checkpoint import save_checkpoint
from ovseg_ray.training.loop import Loop
from ovseg_ray.training.metrics import read_metrics
from ovseg_ray.training.session import Session
from ovseg_ray.training.validation import (
    Validation,
    keep_best,
    mean_of,
    spread,
    validate,
    validation_dataset,
)


@pytest.mark.parametrize(
    ("total", "wanted", "rows"),
    [
        (0, 4, []),
        (1, 1, [0]),
        (5, 0, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (10, 2, [0, 5]),
        (10, 3, [0, 3, 6]),
        (100, 4, [0, 25, 50, 75]),
    ],
)
def test_rows_are_spread_evenly(total: int, wanted: int, rows: list[int]) -> None:
    assert spread(total, wanted) == rows


def test_means_are_over_the_sets_that_have_the_number() -> None:
    found = mean_of([{"miou": 0.5, "unseen": math.nan}, {"miou": 1.0, "unseen": 0.25, "only": 3.0}])
    assert found == {"miou": 0.75, "unseen": 0.25, "only": 3.0}
    assert math.isnan(mean_of([{"a": math.nan}])["a"])


@pytest.fixture
def trained(make_config: MakeConfig, tmp_path: Path) -> tuple[Loop, Session]:
    held_out = {"sources": [SourceConfig(path=make_config().data.sources[0].path, held_out=["green"])]}
    loop = make_loop(make_config(data=held_out, epochs=6))
    curve(loop)
    labels = tuple(loop.method.label_sets)
    sources = tuple(loop.config.data.sources)
    session = Session(loop.config, ColourTraining, tmp_path / "run", labels, sources, provenance={"seed": 0})
    return loop, session


def test_seen_and_unseen_are_told_apart(trained: tuple[Loop, Session]) -> None:
    loop, session = trained
    found = validate(loop.method.eval(), session)
    # held-out pixels count against the labels they are taken for
    assert found["seen_miou"] > 0.4 > 0.2 > found["unseen_miou"]


def test_several_sets_are_averaged(trained: tuple[Loop, Session], tmp_path: Path) -> None:
    loop, session = trained
    other = SourceConfig(path=str(write_colours(tmp_path / "other", labels=("pink", "cyan"), seed=4)))
    both = replace(session, validation=(*session.validation, other))
    alone = [validate(loop.method.eval(), replace(session, validation=(s,))) for s in both.validation]
    found = validate(loop.method, both)
    assert found["miou"] == pytest.approx((alone[0]["miou"] + alone[1]["miou"]) / 2)
    assert found["unseen_miou"] == alone[0]["unseen_miou"]


def test_a_method_that_does_not_segment_has_a_loss(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(batch_size=4)
    loop = make_loop(config, ColourPairs)
    session = Session(config, ColourPairs, tmp_path, (), tuple(config.data.sources))
    first = validate(loop.method.eval(), session)
    assert first == {"loss": first["loss"], "score": -first["loss"]}
    curve(loop)
    assert validate(loop.method.eval(), session)["loss"] < first["loss"]


def test_validation_cut_from_training_looks_at_nothing_that_training_may_not(
    trained: tuple[Loop, Session], make_config: MakeConfig
) -> None:
    loop, session = trained
    data = session.config.data.model_copy(update={"validation_share": 0.25, "validation_split": "gone"})
    cut = replace(session, config=session.config.model_copy(update={"data": data}))
    assert len(cut.sources()) == 18
    assert len(validation_dataset(cut.validation[0], data)) == 6
    found = validate(loop.method.eval(), cut)
    assert not {"unseen_miou", "seen_miou"} & set(found)
    # the same images, had their held-out pixels counted: the model, which never saw the label, would be worse off
    open_data = data.model_copy(update={"sources": [SourceConfig(path=data.sources[0].path)]})
    seen_all = replace(
        cut, config=cut.config.model_copy(update={"data": open_data}), validation=tuple(open_data.sources)
    )
    assert validate(loop.method, seen_all)["miou"] < found["miou"]


def test_the_task_writes_what_it_found(trained: tuple[Loop, Session]) -> None:
    loop, session = trained
    save_checkpoint(loop, session.path / "checkpoint")
    checkpoint = SimpleNamespace(path=str(session.path / "checkpoint"))
    found = Validation(session)(checkpoint, step=18, epoch=6.0)
    record = read_metrics(session.run.metrics_file)[0][-1]
    assert record == {"step": 18, "epoch": 6.0, "validation": json.loads(json.dumps(found))}
    assert describe_model(session.run.best / "step-00000018").provenance["score"] == found["miou"]
    assert list((session.path / "tensorboard").iterdir())
    Validation(session)(checkpoint, step=18, epoch=6.0)  # a second attempt at the same task
    assert len(read_metrics(session.run.metrics_file)[0]) == 1


def test_a_failure_is_told_in_the_metrics(trained: tuple[Loop, Session], tmp_path: Path) -> None:
    loop, session = trained
    save_checkpoint(loop, session.path / "checkpoint")
    data = DataConfig(**{**session.config.data.model_dump(), "validation_split": "gone"})
    broken = replace(session, config=session.config.model_copy(update={"data": data}))
    with pytest.raises(UserError, match="gone"):
        Validation(broken)(SimpleNamespace(path=str(session.path / "checkpoint")), step=18, epoch=6.0)
    assert "gone" in read_metrics(session.run.metrics_file)[0][-1]["validation_error"]


@pytest.mark.parametrize(
    ("keep", "scores", "left"),
    [
        (0, [0.5], []),
        (1, [0.1, 0.5, 0.3], [1]),
        (2, [0.1, 0.5, 0.3], [1, 2]),
        (1, [0.5, 0.5], [1]),  # at a tie the one that has seen more
        (3, [0.1, math.nan], [0]),
    ],
)
def test_the_best_are_kept(trained: tuple[Loop, Session], keep: int, scores: list[float], left: list[int]) -> None:
    loop, session = trained
    training = session.config.training.model_copy(update={"keep_best": keep})
    session = replace(session, config=session.config.model_copy(update={"training": training}))
    (session.run.best / ".step-0.ab.partial").mkdir(parents=True)
    for number, score in enumerate(scores):
        keep_best(loop.method, session, number, score)
    found = sorted(path.name for path in session.run.best.glob("step-*"))
    assert found == [f"step-{number:08d}" for number in left]
    for name in found:
        assert load_model(session.run.best / name).label_sets == session.label_sets
