"""A sweep as a page: Optuna's own plots and a table of all trials, in one file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from optuna.trial import TrialState

from ovseg_ray.run_directory import write_atomically
from ovseg_ray.tuning.ledger import Ledger, best_first
from ovseg_ray.tuning.live import SIGNS
from ovseg_ray.tuning.space import name_of
from ovseg_ray.tuning.trial import TrialJob

_HERE = Path(__file__).parent
_LEAST = 2  # complete trials that a plot of a search makes sense from


def write_report(path: Path, job: TrialJob, ledger: Ledger) -> None:
    """Write one HTML file that needs nothing beside itself.

    Raises:
        UserError: it cannot be written.
    """
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        title=f"Sweep of {job.base.method}",
        objectives=[f"{o.metric} ({o.mode}imise)" for o in job.space.objectives],
        best=[_row(ledger, trial) for trial in best_first(ledger.study)],
        keys=list(job.space.space),
        metrics=[o.metric for o in job.space.objectives],
        trials=[_row(ledger, trial) for trial in ledger.trials()],
        plots=[(name, note, Markup(plot)) for name, note, plot in _plots(ledger)],  # of numbers and configuration keys
        space=yaml.safe_dump(job.space.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        base=yaml.safe_dump(job.base.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        script=Markup(get_plotlyjs()),
    )
    write_atomically(path, page)


def _row(ledger: Ledger, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    outcome, member = ledger.outcome(trial), ledger.member(trial.number)
    params = ledger.trained_values(trial.number) if member.turns else trial.params
    turned = ", ".join(f"from trial {int(other)} at epoch {epoch:g}" for epoch, other in member.turns)
    return {
        "number": trial.number,
        "state": SIGNS[outcome.state] if outcome else "not finished",
        "note": (outcome.reason if outcome else "") or (turned and f"went on {turned}"),
        "values": [f"{value:.4g}" for value in outcome.values] if outcome and outcome.values else [],
        "epochs": f"{outcome.epochs:.3g}" if outcome else "",
        "seconds": f"{outcome.seconds:.0f}" if outcome else "",
        "params": [_shown(params.get(key)) for key in ledger.space.space],
    }


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else name_of(value)


def _plots(ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    study, objectives = ledger.study, ledger.space.objectives
    plots = optuna.visualization
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _LEAST:
        return
    several = len(objectives) > 1
    for number, objective in enumerate(objectives):
        of = f" of {objective.metric}" if several else ""
        target: dict[str, Any] = (
            {"target": _nth(number), "target_name": objective.metric} if several else {"target_name": objective.metric}
        )
        yield from _plot(f"History{of}", "", plots.plot_optimization_history, study, **target)
        yield from _plot(
            f"Importance of keys{of}",
            "share of the variation that each key explains (Optuna's default evaluator)",
            plots.plot_param_importances, study, **target,
        )  # fmt: skip
        yield from _plot(
            f"Parallel coordinates{of}", "a line is a trial", plots.plot_parallel_coordinate, study, **target
        )
        yield from _plot(f"Each key{of}", "", plots.plot_slice, study, **target)
    if several and len(objectives) <= 3:
        names = [objective.metric for objective in objectives]
        yield from _plot("Pareto front", "", plots.plot_pareto_front, study, target_names=names)
    if ledger.space.curve is not None:
        yield from _plot("Curves", f"{ledger.space.curve.metric} over epochs, one line a trial", _curves, ledger)


def _plot(name: str, note: str, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[tuple[str, str, str]]:
    """The plot, or nothing where Optuna cannot make it of these trials (one value only, too few trials)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure = make(*args, **kwargs)
    except (ValueError, RuntimeError) as error:
        yield name, f"not possible yet: {' '.join(str(error).split())[:160]}", ""
        return
    figure.update_layout(title=None, margin={"l": 60, "r": 30, "t": 30, "b": 50})
    yield name, note, figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})


def _curves(ledger: Ledger) -> Any:
    """Optuna's plot of intermediate values, with epochs on the axis; it knows none with several objectives."""
    single = optuna.create_study(direction="maximize")
    for trial in ledger.trials():
        curve, outcome = ledger.curve(trial.number), ledger.outcome(trial)
        if curve:
            single.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.PRUNED if outcome and outcome.state == "stopped" else TrialState.COMPLETE,
                    value=curve[-1][1],
                    intermediate_values={round(1000 * epoch): value for epoch, value in curve},
                )
            )
    figure = optuna.visualization.plot_intermediate_values(single)
    for line in figure.data:
        line.x = [step / 1000 for step in line.x]
    assert ledger.space.curve is not None
    figure.update_layout(xaxis_title="epoch", yaxis_title=ledger.space.curve.metric)
    return figure


def _nth(number: int) -> Callable[[optuna.trial.FrozenTrial], float]:
    return lambda trial: trial.values[number]
