"""The demo's own few decisions; its steps are tested where they live."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovseg_ray import demo, demo_stego
from ovseg_ray.errors import UserError


def test_headline_takes_each_number_from_its_own_label_list() -> None:
    own = {"seen_miou": 0.9, "unseen_miou": 0.8, "harmonic_miou": 0.85, "miou": 0.88}
    spaces = {
        "labels": {"metrics": own},
        "shuffled": {"metrics": {"unseen_miou": 0.01, "miou": 0.02}},
        "parents": {"metrics": {"miou": 0.7}},
    }
    assert demo.headline({"spaces": spaces}) == {
        "seen_miou": 0.9,
        "unseen_miou": 0.8,
        "harmonic_miou": 0.85,
        "shuffled_unseen_miou": 0.01,
        "parents_miou": 0.7,
    }


def test_headline_of_stego() -> None:
    both = {"miou": 0.3, "miou_of_predicted": 0.2, "pixel_accuracy": 0.6}
    spaces = {name: {"metrics": both} for name in ("labels", "clusters", "linear", "k-means")}
    found = demo_stego.headline({"spaces": spaces})
    assert (found["named_miou"], found["clusters_miou"], found["kmeans_accuracy"]) == (0.3, 0.2, 0.6)


def test_a_step_found_whole_keeps_the_time_it_took_when_it_was_done(tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text(json.dumps({"clip": 120.0}))
    for name in ("clip", "lseg"):
        with demo._step(tmp_path, demo.STEPS, name, "what it does"):
            pass
    assert demo._seconds(tmp_path) == {"clip": 120.0, "lseg": pytest.approx(0.0, abs=0.5)}


def test_a_step_that_fails_leaves_no_time(tmp_path: Path) -> None:
    with pytest.raises(UserError), demo._step(tmp_path, demo.STEPS, "world", "what it does"):
        raise UserError("no room")
    assert demo._seconds(tmp_path) == {}


def test_a_file_is_no_place_for_a_demo(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        demo.run_demo(tmp_path / "out")
