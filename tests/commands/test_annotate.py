from __future__ import annotations

from typing import Literal

import yaml
from pydantic import Field

from ovseg_ray.commands.annotate import annotated_yaml
from ovseg_ray.config import Config
from ovseg_ray.serving.config import ServingConfig


class Inner(Config):
    """What lies inside."""

    kind: Literal["a", "b"] | None = Field(None, description="which one")


class Outer(Config):
    rate: float = Field(1e-4, gt=0, le=1, description="how fast")
    words: list[str] = Field(["# not a comment", "yes", "1"], min_length=1)
    inner: Inner = Inner()
    note: str = "plain"


def test_every_key_says_what_it_does_and_may_be() -> None:
    lines = [" ".join(line.split()) for line in annotated_yaml(Outer()).splitlines()]
    assert lines[0] == "rate: 0.0001 # how fast [> 0 and <= 1]"
    assert lines[2] == "inner: # What lies inside."
    assert lines[3] == "kind: null # which one [a | b]"
    assert lines[4] == "note: plain"


def test_it_reads_back_to_the_same() -> None:
    config = Outer(inner=Inner(kind="b"), note="with: colon # and hash")
    assert Outer(**yaml.safe_load(annotated_yaml(config))) == config


def test_skip_leaves_keys_out() -> None:
    assert set(yaml.safe_load(annotated_yaml(Outer(), skip=("words", "inner")))) == {"rate", "note"}


def test_lists_of_configurations_and_long_values_read_back() -> None:
    config = ServingConfig.model_validate(
        {"models": [{"run": "runs/a-long-name-of-a-run-in-a-long-folder"}, {"run": "b", "name": "b"}]}
    )
    text = annotated_yaml(config)
    assert "- run: runs/a-long-name-of-a-run-in-a-long-folder # a finished run" in text
    assert ServingConfig(**yaml.safe_load(text)) == config
