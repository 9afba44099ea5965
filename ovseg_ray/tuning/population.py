"""Population-based training of the learning rate's schedule (Jaderberg et al. 2017), in step.

All trials train to the next exchange, those that are worst go on from the weights and values of one of the best, and
so on. Ray Tune's own scheduler does not serve: it refuses a search algorithm, so that the study could not be the record
of the sweep; and it moves weights by Ray Tune's checkpoints, of which a training by Ray Train within a trial has none.
Here a stretch between exchanges is a run of Ray Tune's, and an exchange copies a run directory: what it then holds is
what a training with that schedule from the beginning would have left, and `best.yaml` is that training.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from ray.tune.search import Searcher

from ovseg_ray.config import read_yaml
from ovseg_ray.run_directory import RunDirectory, write_directory_atomically
from ovseg_ray.training.checkpoint import newest_checkpoint, remove_partial
from ovseg_ray.training.config import RunConfig
from ovseg_ray.tuning.ledger import Ledger, Member
from ovseg_ray.tuning.search import Places, StudySearch
from ovseg_ray.tuning.space import Objective, Pbt, Value

EXCHANGED = "exchanged"  # attribute of the study: the last epoch at which all that was decided was done


def turns(
    scores: Mapping[int, float], rule: Pbt, objective: Objective, seed: int, epoch: float
) -> dict[int, tuple[int, float]]:
    """Who goes on from whom.

    Args:
        scores: of every trial that lives, by number.
        rule: share of them, and factors.
        objective: what the scores are.
        seed: of the sweep.
        epoch: of the exchange.

    Returns:
        For each that gives up, the other trial and the factor on its learning rate. As Ray Tune has it: as many give up
        as are turned to, the smaller half of an odd number at most.
    """
    sign = 1 if objective.mode == "max" else -1
    ranked = sorted(scores, key=lambda number: (sign * scores[number], number))
    count = min(math.ceil(len(ranked) * rule.quantile), len(ranked) // 2)
    rng = random.Random(f"{seed}/{epoch}")
    best = ranked[len(ranked) - count :]
    return {number: (rng.choice(best), rng.choice(rule.factors)) for number in ranked[:count]}


def take_over(run: RunDirectory, donor: RunDirectory, config: RunConfig) -> None:
    """Make a run what it would be had it been the donor's so far, under `config` from now on.

    It is there whole, or not at all, or as it was before.
    """
    checkpoint = newest_checkpoint(donor.checkpoints)
    assert checkpoint is not None, f"{donor.path}: no checkpoint to go on from"

    def fill(partial: Path) -> None:
        copy = RunDirectory(partial)
        shutil.copytree(checkpoint, copy.checkpoints / checkpoint.name)
        shutil.copyfile(donor.metrics_file, copy.metrics_file)
        copy.config_file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    write_directory_atomically(run.path, fill)


class PopulationSearch(StudySearch):
    """Hands out stretches of training.

    Args:
        ledger: of the sweep.
        trials: size of the population.
        places: how many may run at this moment.
        run: run directory of a trial, by number.
        ended: called with each number that came to something.
        rule: of exchanges.
        epochs: of a whole trial.
        seed: of the sweep.
        configured: what a trial with such values trains with.
    """

    def __init__(
        self,
        ledger: Ledger,
        trials: int,
        places: Places,
        run: Callable[[int], RunDirectory],
        ended: Callable[[int], None],
        *,
        rule: Pbt,
        epochs: float,
        seed: int,
        configured: Callable[[Mapping[str, Value]], RunConfig],
    ) -> None:
        super().__init__(ledger, trials, places, run, ended)
        self._rule, self._epochs, self._seed, self._configured = rule, epochs, seed, configured
        ledger.lag = trials  # all are asked for before any has ended
        while len(ledger.trials()) < trials:
            ledger.ask()
        remove_partial(run(0).path.parent)
        self._waiting = self._due()

    def suggest(self, trial_id: str) -> Any:
        """Called by Ray Tune."""
        if len(self._running) >= self._places():
            return None
        if self._hopeless:
            return None if self._running else Searcher.FINISHED
        if not self._ready() and not self._running and not self._later:
            self._waiting = self._due()
            if not self._waiting:
                return Searcher.FINISHED
        if not self._waiting:
            return None
        number = self._waiting.pop(0)
        stop = self._next(self._ledger.member(number).reached)
        values = self._ledger.trained_values(number)
        return {**self._start(trial_id, number, values), "until": stop if stop < self._epochs else None}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Ray Tune."""
        if error or not result or result.get("reached") is None:
            super().on_trial_complete(trial_id, result, error)
            return
        number = self._running.pop(trial_id)
        member = self._ledger.member(number)
        self._ledger.note_member(number, replace(member, reached=result["reached"], score=result["score"]))

    def _next(self, reached: float) -> float:
        """The epoch that a trial trains to."""
        return self._rule.interval * (math.floor(reached / self._rule.interval + 1e-9) + 1)

    def _due(self) -> list[int]:
        """Trials behind the next exchange; where all have come to one, it takes place first."""
        members = {number: self._ledger.member(number) for number in self._ledger.unfinished()}
        if not members:
            return []
        first, last = (pick(member.reached for member in members.values()) for pick in (min, max))
        if first == last and first > 0 and self._exchanged() < first:
            self._exchange(members, first)
        return [number for number, member in members.items() if member.reached == first]

    def _exchanged(self) -> float:
        return float(self._ledger.study.user_attrs.get(EXCHANGED, 0.0))

    def _exchange(self, members: Mapping[int, Member], epoch: float) -> None:
        """Decide who goes on from whom, and copy; after a kill the same again, since nobody has gone on yet."""
        objective = self._ledger.space.curve
        assert objective is not None
        scores = {number: member.score for number, member in members.items() if member.score is not None}
        for number, (other, factor) in turns(scores, self._rule, objective, self._seed, epoch).items():
            member, donor = self._ledger.member(number), self._ledger.member(other)
            scale = (donor.scales[-1][1] if donor.scales else 1.0) * factor
            if not member.turns or member.turns[-1][0] != epoch:
                scales, before = [*donor.scales, (epoch, scale)], [*member.turns, (epoch, other)]
                self._ledger.note_member(number, replace(member, origin=donor.origin, scales=scales, turns=before))
            config = self._configured(self._ledger.trained_values(number))
            run = self._run(number)
            if not run.config_file.is_file() or read_yaml(run.config_file) != json.loads(config.model_dump_json()):
                take_over(run, self._run(other), config)
        self._ledger.study.set_user_attr(EXCHANGED, epoch)
