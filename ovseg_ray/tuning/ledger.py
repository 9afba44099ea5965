"""The Optuna study of a sweep as its one record: trials asked for and told in an order that nothing else disturbs.

Trials end in any order, but the sampler must not know: a trial is asked for once all but the `lag` before it have been
told, and none of these has. So suggestion k follows from the seed, k and `lag` alone, whatever the machine was doing.
What a trial came to is written into the study as soon as it is known; "told" is Optuna's word for using it.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ovseg_ray.errors import UserError
from ovseg_ray.tuning.asha import Halving
from ovseg_ray.tuning.space import SCALES, Choice, FloatRange, SweepSpace, Value, name_of

State = Literal["complete", "stopped", "failed"]
STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
_OUTCOME, _CURVE, _MEMBER = "outcome", "curve", "member"


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        state: "complete", "stopped" early, or "failed".
        values: one number an objective; None unless complete.
        reason: of a failure.
        seconds: of training, over all starts.
        epochs: trained.
    """

    state: State
    values: tuple[float, ...] | None = None
    reason: str = ""
    seconds: float = 0.0
    epochs: float = 0.0


@dataclass(frozen=True)
class Member:
    """A trial of a population.

    Attributes:
        origin: whose values it trains with, by number; its own until it takes over those of another.
        scales: (epoch, factor on the learning rate) from its origin's beginning on.
        turns: (epoch, number of the trial that it went on from) of each exchange.
        reached: epochs trained, up to an exchange.
        score: of its validation there.
    """

    origin: int
    scales: Sequence[Sequence[float]] = ()
    turns: Sequence[Sequence[float]] = ()
    reached: float = 0.0
    score: float | None = None


class Ledger:
    """Asks and tells.

    Args:
        study: of `open_study`.
        space: of the sweep.
        seed: of the suggestions.
        first: values of trial 0: the configuration that the sweep started from, as far as it lies in the space.
            What lies outside is no value of trial 0, which keeps it as configured. None: trial 0 is drawn like others.
        halving: ends trials that fall behind, if the sweep does.

    Attributes:
        lag: how many trials may be unknown to the next one asked for.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SweepSpace,
        seed: int,
        first: Mapping[str, Value] | None = None,
        halving: Halving | None = None,
    ) -> None:
        self.study, self.space, self.lag = study, space, 1
        self._halving = halving
        self._seed, self._first = seed, None if first is None else dict(first)

    # ---- what is known
    def trials(self) -> list[FrozenTrial]:
        """All trials that were asked for, by number."""
        return [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    def outcome(self, trial: FrozenTrial) -> Outcome | None:
        """What a trial came to, told or not."""
        known = trial.user_attrs.get(_OUTCOME)
        if known is None:
            return None
        return Outcome(**{**known, "values": None if known["values"] is None else tuple(known["values"])})

    def unfinished(self) -> list[int]:
        """Numbers of trials that were asked for and came to nothing yet."""
        return [trial.number for trial in self.trials() if self.outcome(trial) is None]

    def curve(self, number: int) -> list[tuple[float, float]]:
        """(epoch, first objective) of a trial's validations so far."""
        return curve_of(self.trials()[number])

    def falls_behind(self, number: int) -> bool | None:
        """Whether a running trial ends at a rung that it has passed; None while that may depend on trials before it."""
        if self._halving is None:
            return False
        trials = self.trials()
        ended = [self.outcome(trial) is not None for trial in trials]
        return self._halving.verdict(number, [curve_of(trial) for trial in trials], ended)

    # ---- a population
    def member(self, number: int) -> Member:
        """Where a trial of a population stands."""
        known = self.trials()[number].user_attrs.get(_MEMBER)
        return Member(number) if known is None else Member(**known)

    def note_member(self, number: int, member: Member) -> None:
        """Note where a trial of a population stands."""
        Trial(self.study, self.trials()[number]._trial_id).set_user_attr(_MEMBER, asdict(member))

    def trained_values(self, number: int) -> dict[str, Value]:
        """What a trial trains with: the values asked for, or those that it took over, with its learning rates."""
        member = self.member(number)
        values = self.values(member.origin)
        return {**values, SCALES: [list(scale) for scale in member.scales]} if member.scales else values

    # ---- asking
    def ask(self) -> tuple[int, dict[str, Value]] | None:
        """The next trial: its number and values; None while an earlier one must end first."""
        trials = self.trials()
        number = len(trials)
        due = max(number - self.lag, 0)
        if any(self.outcome(trial) is None for trial in trials[:due]):
            return None
        for earlier in trials[:due]:
            self._tell(earlier)
        self.study.sampler = _sampler(self._seed, number, self.space.startup_trials)
        if self._first is not None and not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(self._as_optuna(self._first))
        trial = self.study.ask()
        return number, self._suggest(trial)

    def values(self, number: int) -> dict[str, Value]:
        """Values of a trial, also of one whose asking was cut short."""
        frozen = self.trials()[number]
        if frozen.state.is_finished():
            return self._from_optuna(frozen.params)
        self.study.sampler = _sampler(self._seed, number, self.space.startup_trials)
        return self._suggest(Trial(self.study, frozen._trial_id))

    def _suggest(self, trial: Trial) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key, range_ in self.space.space.items():
            if not self.space.active(key, found):
                continue
            if trial.number == 0 and self._first is not None and key not in {*self._first, *trial.params}:
                continue
            if isinstance(range_, Choice):
                found[key] = range_.value(trial.suggest_categorical(key, range_.names))
            elif isinstance(range_, FloatRange):
                found[key] = trial.suggest_float(key, range_.low, range_.high, log=range_.log)
            else:
                found[key] = trial.suggest_int(key, range_.low, range_.high, step=range_.step, log=range_.log)
        return found

    def _from_optuna(self, params: Mapping[str, Any]) -> dict[str, Value]:
        ranges = self.space.space
        return {
            key: range_.value(params[key]) if isinstance(range_, Choice) else params[key]
            for key, range_ in ranges.items()
            if key in params
        }

    def _as_optuna(self, values: Mapping[str, Value]) -> dict[str, Any]:
        return {
            key: name_of(value) if isinstance(self.space.space[key], Choice) else value for key, value in values.items()
        }

    # ---- telling
    def report(self, number: int, epoch: float, value: float) -> None:
        """Note a validation of a running trial; one that is known already stays as it is."""
        curve = self.curve(number)
        if not math.isfinite(value) or any(known >= epoch for known, _ in curve):
            return
        trial = Trial(self.study, self.trials()[number]._trial_id)
        trial.set_user_attr(_CURVE, [*curve, (epoch, value)])

    def finish(self, number: int, outcome: Outcome) -> None:
        """Note what a trial came to. It is told when its turn comes."""
        trial = Trial(self.study, self.trials()[number]._trial_id)
        trial.set_user_attr(_OUTCOME, asdict(outcome))

    def close(self) -> None:
        """Tell all that is known: nothing more will be asked for now."""
        for trial in self.trials():
            if self.outcome(trial) is None:
                return
            self._tell(trial)

    def _tell(self, frozen: FrozenTrial) -> None:
        if frozen.state.is_finished():
            return
        outcome = self.outcome(frozen)
        assert outcome is not None
        curve, end = curve_of(frozen), self._end(frozen.number)
        if end is not None and outcome.state != "failed":
            # it may have gone on, even to its end, until the verdict was certain
            curve = [point for point in curve if point[0] <= end]
            outcome = replace(outcome, state="stopped", values=None)
            self.finish(frozen.number, outcome)
        if len(self.space.objectives) == 1:  # Optuna has no curves of several objectives
            trial = Trial(self.study, frozen._trial_id)
            for epoch, value in curve:
                trial.report(value, round(1000 * epoch))
        self.study.tell(frozen.number, outcome.values, state=STATES[outcome.state])

    def _end(self, number: int) -> float | None:
        """Where a trial fell behind, once all before it have ended."""
        if self._halving is None:
            return None
        return self._halving.ends([curve_of(trial) for trial in self.trials()[: number + 1]])[number]


def curve_of(trial: FrozenTrial) -> list[tuple[float, float]]:
    """(epoch, first objective) of the validations of a trial so far."""
    return [(epoch, value) for epoch, value in trial.user_attrs.get(_CURVE, [])]


def open_study(path: Path, method: str, space: SweepSpace) -> optuna.Study:
    """The study in an SQLite file, named after the method; a new one where there is none.

    Raises:
        UserError: the file cannot be read or written as a study.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = optuna.study.StudyDirection
    directions = [direction.MAXIMIZE if o.mode == "max" else direction.MINIMIZE for o in space.objectives]
    try:
        return optuna.create_study(
            storage=f"sqlite:///{path}", study_name=method, directions=directions, load_if_exists=True
        )
    except Exception as error:  # SQLAlchemy's, of many kinds
        raise UserError(f"{path}: cannot be used as a study ({_line(error)}); choose another --out") from error


def default_values(space: SweepSpace, configuration: Mapping[str, Any]) -> dict[str, Value]:
    """Values of the space's keys in a configuration, as far as they lie in their ranges."""
    from ovseg_ray.tuning.check import lookup

    found: dict[str, Value] = {}
    for key, range_ in space.space.items():
        try:
            value = lookup(configuration, key)
        except KeyError:
            continue
        if space.active(key, found) and range_.holds(value):
            found[key] = value
    return found


def _sampler(seed: int, number: int, startup: int) -> optuna.samplers.BaseSampler:
    """A sampler whose draws follow from the seed and the trial: a sweep that was killed goes on as if it had not been.

    Tree-structured Parzen estimators over all keys at once (Watanabe 2023); trials that still run count as bad ones,
    so that no two look at the same place.
    """
    own = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "little")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=own, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]


def best_first(study: optuna.Study) -> Sequence[FrozenTrial]:
    """The best trial, or with several objectives the Pareto front, best in the first objective first; maybe none."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        return ()
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return sorted(study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number))[
        : None if len(study.directions) > 1 else 1
    ]
