"""A study in its storage: made, found again, and compared with what is asked now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from asparagus.errors import ConfigError, RecordError, did_you_mean
from asparagus.secrets import without_passwords
from asparagus.space import Space, Values
from asparagus.sweep.parameters import Parameters, text_of

SPACE = "asparagus.space"
"""Attribute of a study: the space, as JSON."""


def of_this_search(
    storage: BaseStorage, name: str, parameters: Parameters, directions: list[StudyDirection]
) -> optuna.Study:
    """Load a study, or make it.

    Raises:
        ConfigError: It is another search's.
    """
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    if study.directions != directions:
        raise ConfigError(
            f"sweep.mode: the study {name!r} was begun with {_modes(study.directions)}, and "
            f"{_modes(directions)} is asked now. sweep.resume=false begins another."
        )
    asked, kept = text_of(parameters.space.to_dict()), study.user_attrs.get(SPACE)
    if kept is None and study.get_trials(deepcopy=False):
        raise ConfigError(f"sweep.storage: the study {name!r} is not one of a sweep. Name another storage.")
    if kept is None:
        study.set_user_attr(SPACE, asked)
    elif said := difference(json.loads(kept), json.loads(asked)):
        raise ConfigError(
            f"sweep.space: the study {name!r} has another space: {said}. Go on with that one, or begin another sweep: "
            "sweep.resume=false."
        )
    return study


def existing(storage: BaseStorage, url: str, name: str) -> optuna.Study:
    """Load a study that has to be there.

    Raises:
        RecordError: It is not.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = optuna.get_all_study_names(storage)
        near, where = did_you_mean(name, names), without_passwords(url)
        raise RecordError(f"sweep.from: {where} has no study {name!r}. {near} It has: {', '.join(names)}.") from None


def spelling(study: optuna.Study) -> Callable[[Mapping[str, Any]], Values]:
    """Return what spells the points of a study; Optuna's own values, where it is not a sweep's."""
    kept = study.user_attrs.get(SPACE)
    return dict if kept is None else Parameters(Space.from_dict(json.loads(kept))).values


def must_compare_alike(study: optuna.Study, other: optuna.Study) -> None:
    """Look whether what came of another study's trials means anything to this one.

    Raises:
        ConfigError: It does not: other metrics, or other modes.
    """
    names, others = study.metric_names, other.metric_names
    if study.directions != other.directions or (names and others and names != others):
        mine, theirs = (_compared(one) for one in (study, other))
        raise ConfigError(
            f"sweep.from: {other.study_name!r} compared {theirs}, and this sweep compares {mine}: nothing can be "
            "learned from it. Leave sweep.from out."
        )


def _compared(study: optuna.Study) -> str:
    modes = [_modes([direction]) for direction in study.directions]
    names = study.metric_names or ["a metric"] * len(modes)
    return ", ".join(f"{name} ({mode})" for name, mode in zip(names, modes, strict=True))


def _modes(directions: list[StudyDirection]) -> str:
    return ", ".join("max" if direction is StudyDirection.MAXIMIZE else "min" for direction in directions)


def difference(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say in what two spaces differ, as plain values; the order of their keys means nothing."""
    before, now = ({text_of([one["key"], one["when"]]): one for one in space["dimensions"]} for space in (kept, asked))
    said = []
    for place in dict.fromkeys([*before, *now]):
        mine, theirs = before.get(place), now.get(place)
        if mine != theirs:
            key = (mine or theirs or {})["key"]
            said.append(f"{key} was {_domain(mine)}, and is {_domain(theirs)} now")
    if {*kept["constraints"]} != {*asked["constraints"]}:
        was, now_ = ("; ".join(space["constraints"]) or "none" for space in (kept, asked))
        said.append(f"the constraints were {was}, and are {now_} now")
    return ", ".join(said)


def _domain(dimension: Mapping[str, Any] | None) -> str:
    if dimension is None:
        return "not searched"
    domain = dimension["domain"]
    if "values" in domain:
        return f"one of {', '.join(map(str, domain['values']))}"
    extra = [f"{name}={domain[name]}" for name in ("step", "log", "integer") if domain[name]]
    return f"interval({', '.join([str(domain['low']), str(domain['high']), *extra])})"
