"""What a sweep looks for, and where: the search space file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ovseg_ray.config import Config, build, read_yaml
from ovseg_ray.errors import UserError

Value = bool | int | float | str | list[Any] | dict[str, Any] | None
SHIPPED = Path(__file__).parent / "spaces"
SCALES = "training.schedule.scales"  # what population-based training finds
MEASURED = ("latency_ms", "memory_mb")  # objectives that are measured on the finished model


class _Range(Config):
    when: dict[str, list[Value]] = Field({}, description="only where these other keys of the space have such values")


class FloatRange(_Range):
    """A real number."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = Field(False, description="halving as likely as doubling")

    @model_validator(mode="after")
    def _check(self) -> FloatRange:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, not {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low}: a log range starts above 0")
        return self

    @property
    def probes(self) -> list[Value]:
        """Values that the configuration must accept."""
        return [self.low, self.high]

    def holds(self, value: Value) -> bool:
        """Whether a value lies in the range."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


class IntRange(_Range):
    """A whole number, both ends included."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = Field(False, description="halving as likely as doubling")
    step: int = Field(1, ge=1, description="distance of neighbouring values; 1 with log")

    @model_validator(mode="after")
    def _check(self) -> IntRange:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, not {self.low} and {self.high}")
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("a log range of whole numbers starts at 1 or more and has step 1")
        return self

    @property
    def probes(self) -> list[Value]:
        """Values that the configuration must accept."""
        return [self.low, self.high]

    def holds(self, value: Value) -> bool:
        """Whether a value lies in the range."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0


class Choice(_Range):
    """One of some values, of any kind that YAML has."""

    type: Literal["choice"]
    values: list[Value] = Field(min_length=2)

    @model_validator(mode="after")
    def _check(self) -> Choice:
        if len(set(self.names)) < len(self.values):
            raise ValueError("a value stands twice")
        return self

    @property
    def names(self) -> list[str]:
        """The values as text, which is how Optuna holds them."""
        return [name_of(value) for value in self.values]

    @property
    def probes(self) -> list[Value]:
        """Values that the configuration must accept."""
        return self.values

    def holds(self, value: Value) -> bool:
        """Whether it is one of the values."""
        return name_of(value) in self.names

    def value(self, name: str) -> Value:
        """The value of that name."""
        return self.values[self.names.index(name)]


Range = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class Objective(Config):
    """A number to make large or small."""

    metric: str = Field(description="of validation (miou, loss, …), or latency_ms, memory_mb of the finished model")
    mode: Literal["max", "min"] = "max"


class Asha(Config):
    """Asynchronous successive halving (Li et al. 2020): trials that fall behind at a rung end there."""

    name: Literal["asha"]
    grace: float = Field(1.0, gt=0, description="epochs that every trial gets: the first rung")
    reduction: float = Field(3.0, gt=1, description="one of so many goes on; rungs lie at grace × reduction^k epochs")


class Pbt(Config):
    """Population-based training (Jaderberg et al. 2017) of the learning rate's schedule; all trials are one population.

    Every `interval` epochs those that are worst go on from the weights and configuration of one of the best, at another
    learning rate.
    """

    name: Literal["pbt"]
    interval: float = Field(1.0, gt=0, description="epochs between exchanges")
    quantile: float = Field(0.25, gt=0, le=0.5, description="share of trials that give up, and of those they turn to")
    factors: list[float] = Field([0.8, 1.25], min_length=1, description="one of them times the rate of the other trial")

    @model_validator(mode="after")
    def _check(self) -> Pbt:
        if min(self.factors) <= 0:
            raise ValueError(f"factors = {self.factors}: a learning rate is above 0")
        return self


class NoScheduler(Config):
    """Every trial runs to its end."""

    name: Literal["none"]


Scheduler = Annotated[Asha | Pbt | NoScheduler, Field(discriminator="name")]


class SweepSpace(Config):
    """A search space file.

    Keys of `space` are configuration keys of the method, as `ovseg-ray config METHOD` lists them.
    """

    objectives: list[Objective] = Field([Objective(metric="miou")], min_length=1)
    scheduler: Scheduler = NoScheduler(name="none")
    validation_share: float = Field(
        0.2, gt=0, lt=1, description="share of the training images that trials are compared on, and not trained on"
    )
    startup_trials: int = Field(8, ge=1, description="drawn at random before results guide the search")
    space: dict[str, Range] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> SweepSpace:
        for key, range_ in self.space.items():
            for parent, values in range_.when.items():
                if parent not in self.space or list(self.space).index(parent) >= list(self.space).index(key):
                    raise ValueError(f"{key}: 'when' names {parent}, which must be a key of the space above it")
                wrong = [value for value in values if not self.space[parent].holds(value)]
                if wrong or not values:
                    raise ValueError(f"{key}: when {parent} is {wrong or values}, which it never is")
        if self.scheduler.name != "none" and self.curve is None:
            raise ValueError(f"scheduler {self.scheduler.name} needs an objective of validation, such as miou")
        if SCALES in self.space:
            raise ValueError(f"{SCALES} is no number; scheduler pbt finds it")
        if len({objective.metric for objective in self.objectives}) < len(self.objectives):
            raise ValueError("an objective stands twice")
        return self

    @property
    def curve(self) -> Objective | None:
        """The objective that validations follow: the first that is no measurement of the finished model."""
        return next((objective for objective in self.objectives if objective.metric not in MEASURED), None)

    def active(self, key: str, values: Mapping[str, Value]) -> bool:
        """Whether a key has a value where those above it have `values`."""
        wanted = self.space[key].when.items()
        return all(
            parent in values and name_of(values[parent]) in [name_of(value) for value in options]
            for parent, options in wanted
        )


def read_space(name: str | None, method: str) -> SweepSpace:
    """The space of a file, or the one that ships with a method.

    Raises:
        UserError: no such file or shipped space, or one that is not right.
    """
    path = Path(name) if name is not None else SHIPPED / f"{method}.yaml"
    if name is None and not path.is_file():
        raise UserError(f"--space: none ships for method '{method}'; give a file")
    return build(SweepSpace, read_yaml(path), str(name or path.name))


def name_of(value: Value) -> str:
    """A value as one line of text; whole and real numbers of equal value are told apart by nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
