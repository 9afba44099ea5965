"""Mistakes in plain words."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ovseg_ray.validation import mistakes

Text = Annotated[str, StringConstraints(min_length=1, max_length=5)]


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: float = Field(0.5, ge=0, le=1)
    kind: Literal["rle", "png"] = "rle"
    parts: list[str] = Field(["a"], alias="return", min_length=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: int = Field(1, gt=0)
    words: list[Text | Annotated[list[Text], Field(min_length=2)]] = ["a"]
    name: str | None = Field(None, pattern=r"^[a-z]{1,64}$")
    inner: Inner = Inner()
    wanted: bool


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "wanted: is missing"),
        ([], "must be an object with keys"),
        ({"wanted": "perhaps"}, "wanted: must be true or false"),
        ({"count": 0}, "count: must be greater than 0"),
        ({"count": "many"}, "count: must be a whole number"),
        ({"count": 1.5}, "count: must be a whole number"),
        ({"words": "sky"}, "words: must be a list"),
        ({"words": [""]}, "words.0: must not be empty"),
        ({"words": ["far too long"]}, "words.0: must have at most 5 characters"),
        ({"words": [5]}, "words.0: must be text or a list"),
        ({"words": ["a", ["b", 5]]}, "words.1.1: must be text"),
        ({"words": ["a", ["b"]]}, "words.1: must have at least 2 entries"),
        ({"name": "A/B"}, "name: may hold letters, digits, dots, dashes and underscores"),
        ({"inner": {"share": 2}}, "inner.share: must be at most 1"),
        ({"inner": {"share": float("nan")}}, "inner.share: must be"),
        ({"inner": {"kind": "svg"}}, "inner.kind: must be 'rle' or 'png'"),
        ({"inner": {"return": []}}, "inner.return: must hold at least one entry"),
        ({"inner": {"share": 2, "shrae": 1}}, "inner.shrae: there is no such key; did you mean 'share'?"),
        ({"inner": {"qqqq": 1}}, "inner.qqqq: there is no such key; there are share, kind, return"),
        ({"list[x]": 1}, "list[x]: there is no such key"),
    ],
)
def test_one_plain_line_names_the_key(value: object, said: str) -> None:
    if isinstance(value, dict) and value:
        value = {"wanted": True, **value}
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    found = mistakes(caught.value.errors(), Outer)
    assert len(found) <= 2
    assert str(found[0]).startswith(said)
    assert "\n" not in str(found[0])
