"""Which plots there are of a sweep, of what trials each is, and what it lacks where it cannot be drawn. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator

from asparagus.sweep.moment import Moment, in_time, is_numeric, meet, objective, rounded
from asparagus.sweep.study import ENOUGH, TOP, TOP_TRIALS
from asparagus.sweep.trial_table import INHERITED, outcome, ranked

IN_CONTOUR, IN_SLICE = 4, 12
"""So many parameters are drawn against each other, and one beside the other: those that matter most."""
MOST_LINES, MOST_BARS = 500, 1000
"""More of them hide each other."""
MOST_AXES = 3
TWO = 2
HEIGHT = 480
NO_RESULT = "no trial has finished with a value yet"
NOTHING_SEARCHED = "no parameter is searched"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plot:
    """One plot before it is drawn."""

    name: str
    title: str
    about: str
    function: str
    """Of `optuna.visualization`; its twin for images has the same name."""
    of: Moment
    lacks: str = ""
    """Why it cannot be drawn."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    ringed: Sequence[tuple[int, float]] = ()
    """Points of trials that were taken over from another sweep."""
    height: int = HEIGHT
    """Of the page's, in pixels."""
    inches: tuple[float, float] | None = None
    """Of the image."""


def plots(moment: Moment) -> Iterator[Plot]:
    """Yield all of them, those that cannot be drawn too."""
    several = len(moment.metrics) > 1
    if several:
        yield _pareto(moment)
    for place, metric in enumerate(moment.metrics):
        one = objective(moment, place)
        mark, of_metric = (f"-{place + 1}", f" of {metric}") if several else ("", "")
        weights = _importances(one)
        yield _history(one, mark, of_metric)
        yield _importance(one, mark, of_metric, weights)
        yield _slice(one, mark, of_metric, weights)
        yield _contour(one, mark, of_metric, weights)
    yield _parallel(moment)
    yield _intermediate(moment)
    yield _timeline(moment)


def _pareto(moment: Moment) -> Plot:
    count = len(moment.metrics)
    too_many = f"{count} metrics would need as many axes" if count > MOST_AXES else ""
    about = "Each point is a trial; of the red ones none is beaten in all metrics by another."
    lacks = too_many or ("" if moment.results else NO_RESULT)
    return Plot("pareto", "Pareto front", about, "plot_pareto_front", moment, lacks)


def _history(moment: Moment, mark: str, of_metric: str) -> Plot:
    ringed = [(trial.number, trial.values[0]) for trial in moment.results if outcome(trial) == INHERITED]
    about = "Each point is a trial, the line is the best so far."
    about += f" The {len(ringed)} with a ring were taken over from another sweep." if ringed else ""
    return Plot(
        f"history{mark}",
        f"Optimisation history{of_metric}",
        about,
        "plot_optimization_history",
        moment,
        "" if moment.results else NO_RESULT,
        {"target_name": moment.metrics[0]},
        ringed,
    )


def _importance(moment: Moment, mark: str, of_metric: str, weights: Mapping[str, float]) -> Plot:
    among = f"the best {round(_quantile(moment) * len(moment.results))} of {len(moment.results)}"
    return Plot(
        f"importance{mark}",
        f"Importance of the parameters{of_metric.replace(' of ', ' for ', 1)}",
        f"How much each decides whether a trial is among {among} (PED-ANOVA); all of them together are 1.",
        "plot_param_importances",
        moment,
        _lacks_importance(moment, weights),
        {"evaluator": PedAnovaImportanceEvaluator(target_quantile=_quantile(moment))} if weights else {},
        height=200 + 30 * len(weights),
    )


def _lacks_importance(moment: Moment, weights: Mapping[str, float]) -> str:
    results, names = moment.results, _parameters(moment)
    if not results:
        return NO_RESULT
    if len(names) < TWO:
        return f"{names[0]} is the only parameter" if names else NOTHING_SEARCHED
    if len(results) < ENOUGH:
        return f"it can be told from {ENOUGH} finished trials on; there are {len(results)}"
    if len({trial.values[0] for trial in results}) == 1:
        return f"all {len(results)} values are the same"
    return "" if weights else f"{len(results)} finished trials do not tell which matters"


def _slice(moment: Moment, mark: str, of_metric: str, weights: Mapping[str, float]) -> Plot:
    names = _parameters(moment)
    shown = _most_important(names, weights, IN_SLICE)
    about = "The metric over each parameter by itself; later trials are darker."
    about += f" Shown are the {len(shown)} of {len(names)} parameters that matter most." if shown != names else ""
    arguments = {"target_name": moment.metrics[0], "params": shown}
    lacks = _lacks_parameters(moment)
    return Plot(f"slice{mark}", f"Slices{of_metric}", about, "plot_slice", moment, lacks, arguments)


def _contour(moment: Moment, mark: str, of_metric: str, weights: Mapping[str, float]) -> Plot:
    names = [name for name in _parameters(moment) if _varies(moment, name)]
    shown = _most_important(names, weights, IN_CONTOUR)
    about = "The metric over two parameters at a time, the space between the trials filled in."
    about += f" Shown are the {len(shown)} of {len(names)} numeric parameters that matter most." * (shown != names)
    lacks = "" if moment.results else NO_RESULT
    if not lacks and len(shown) < TWO:
        lacks = f"it needs two parameters that are numbers and were varied; there is {names[0] if names else 'none'}"
    if not lacks and not meet(moment, shown):
        lacks = f"no trial has two of {', '.join(shown)}"
    side = 1 if len(shown) <= TWO else len(shown)
    return Plot(
        f"contour{mark}",
        f"Contours{of_metric}",
        about,
        "plot_contour",
        moment if lacks else rounded(moment, shown),
        lacks,
        {"target_name": moment.metrics[0], "params": shown},
        height=HEIGHT if side == 1 else 240 * side,
        inches=None if side == 1 else (3.4 * side, 2.6 * side),
    )


def _parallel(moment: Moment) -> Plot:
    best = ranked(moment.of(moment.results))[:MOST_LINES]
    about = "A line is a trial: from what it came to, through its parameters; the darker the better."
    about += f" Shown are the best {MOST_LINES}." if len(moment.results) > MOST_LINES else ""
    return Plot(
        "parallel",
        "Parallel coordinates",
        about,
        "plot_parallel_coordinate",
        moment.of(best),
        _lacks_parameters(moment),
        {"target_name": moment.metrics[0]} if len(moment.metrics) == 1 else {},
        inches=(5 + 1.2 * len(_parameters(moment)), 5),
    )


def _intermediate(moment: Moment) -> Plot:
    told = [trial for trial in moment.get_trials() if trial.intermediate_values]
    about = "What each trial reported on its way; those that end early were stopped."
    about += f" Shown are the last {MOST_LINES}." if len(told) > MOST_LINES else ""
    lacks = "" if told else "no trial has reported a value on its way"
    if len(moment.metrics) > 1:
        lacks = "Optuna keeps none where there are several metrics"
    function = "plot_intermediate_values"
    return Plot("intermediate", "Intermediate values", about, function, moment.of(told[-MOST_LINES:]), lacks)


def _timeline(moment: Moment) -> Plot:
    ran = in_time(moment)
    elsewhere = sum(outcome(trial) == INHERITED for trial in moment.get_trials())
    about = "When each trial ran, and how it ended."
    about += f" The {elsewhere} that were taken over from another sweep are not in it." if elsewhere else ""
    about += f" Shown are the last {MOST_BARS}." if len(ran.get_trials()) > MOST_BARS else ""
    lacks = "" if ran.get_trials() else "no trial has started"
    return Plot("timeline", "Timeline", about, "plot_timeline", ran, lacks, {"n_recent_trials": MOST_BARS})


def _parameters(moment: Moment) -> list[str]:
    return sorted({name for trial in moment.results for name in trial.params})


def _lacks_parameters(moment: Moment) -> str:
    if not moment.results:
        return NO_RESULT
    return "" if _parameters(moment) else NOTHING_SEARCHED


def _varies(moment: Moment, name: str) -> bool:
    """Tell whether a parameter is a number and has more than one value."""
    trials = [trial for trial in moment.results if name in trial.params]
    return is_numeric(trials[0].distributions[name]) and len({trial.params[name] for trial in trials}) > 1


def _importances(moment: Moment) -> dict[str, float]:
    """Return how much each parameter matters; nothing where that cannot be told: Optuna calls them equal then."""
    if len(moment.results) < ENOUGH:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_quantile(moment))
    try:
        found = optuna.importance.get_param_importances(moment.of(moment.results), evaluator=evaluator)
    except Exception:  # Optuna's, or of what it computes with: the page tells that it is not known
        log.warning("the importance of the parameters could not be computed", exc_info=True)
        return {}
    return found if len(set(found.values())) > 1 else {}


def _quantile(moment: Moment) -> float:
    """Return how many of the results are taken for the best, as everywhere where importance is told."""
    return max(TOP, TOP_TRIALS / max(len(moment.results), 1))


def _most_important(names: Sequence[str], weights: Mapping[str, float], count: int) -> list[str]:
    return sorted(sorted(names, key=lambda name: -weights.get(name, 0))[:count])
