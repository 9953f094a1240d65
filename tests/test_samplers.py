from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asparagus.compose.constraints import holds
from asparagus.errors import ConfigError
from asparagus.space import Choice, Dimension, Interval, Space, SweepOptions, Values, sampler_named
from asparagus.sweep.samplers import SAMPLERS
from asparagus.sweep.study import Proposal, Study

EVERY = sorted(SAMPLERS)
SEVERAL = sorted({*SAMPLERS} - {"cmaes"})
GRIDS = ("grid", "brute_force")

FLAT = Space((Dimension("x", Interval(-2.0, 2.0)), Dimension("n", Interval(1, 8, integer=True))))
COUNTED = Space(
    (
        Dimension("depth", Choice((2, 3, 4))),
        Dimension("model", Choice(("mlp", "unet"))),
        Dimension("lr", Interval(0.1, 0.3, step=0.1)),
    )
)
BRANCHES = Space(
    (
        Dimension("lr", Interval(1e-5, 1e-1, log=True)),
        Dimension("wd", Interval(0.0, 1.0)),
        Dimension("optim", Choice(("sgd", "adam"))),
        Dimension("momentum", Interval(0.0, 0.99), {"optim": ("sgd",)}),
        Dimension("beta", Choice((0.9, 0.99)), {"optim": ("adam",)}),
        Dimension("warm", Interval(1, 5, integer=True), {"optim": ("adam",), "beta": (0.99,)}),
    )
)
COUNTED_BRANCHES = Space(
    (
        Dimension("optim", Choice(("sgd", "adam"))),
        Dimension("momentum", Choice((0.0, 0.9)), {"optim": ("sgd",)}),
        Dimension("beta", Choice((0.9, 0.95, 0.99)), {"optim": ("adam",)}),
        Dimension("warm", Choice((1, 2)), {"optim": ("adam",), "beta": (0.99,)}),
    )
)
POINTS_OF_BRANCHES = 2 + 2 + 2
"""sgd with two momenta, adam with two betas, and with the third at two lengths of warming up."""


def opened(where: Path | str, space: Space, *, concurrency: int = 1, name: str = "sweep-7", **options: Any) -> Study:
    url = f"journal:{where / 'study.log'}" if isinstance(where, Path) else where
    options = {"mode": "min", "metric": "val/loss", **options}
    return Study.open(url, name, space, SweepOptions(**options), concurrency=concurrency, holds=holds)


def loss(values: Values) -> float:
    numbers = (value for value in values.values() if isinstance(value, int | float))
    return sum(value**2 for value in numbers) + len(values)


def asked(study: Study, most: int, *, tell: bool = True) -> list[Values]:
    found = []
    while len(found) < most and (proposal := study.ask()) is not None:
        found.append(proposal.values)
        if tell:
            study.tell(proposal.number, "finished", [loss(proposal.values)] * study.objectives)
    return found


def as_set(points: list[Values]) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(point.items()) for point in points}


def options_for(sampler: str) -> dict[str, Any]:
    arguments = {"nsga2": {"population_size": 4}, "nsga3": {"population_size": 4}, "gp": {"n_startup_trials": 10}}
    return {"sampler": {"name": sampler, **arguments.get(sampler, {})}, "trials": 12}


@pytest.fixture
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Optuna says nothing, and warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("sampler", EVERY)
def test_every_sampler_runs_a_study_of_twelve_trials(sampler: str, tmp_path: Path) -> None:
    space = COUNTED if sampler in GRIDS else FLAT
    study = opened(tmp_path, space, **options_for(sampler))
    for _ in range(12):
        proposal = study.ask()
        assert proposal is not None
        assert {*proposal.values} == {dimension.key for dimension in space.dimensions}
        study.report(proposal.number, 1, math.nan if proposal.number == 3 else loss(proposal.values))
        end = {3: "diverged", 4: "pruned", 5: "failed"}.get(proposal.number, "finished")
        study.tell(proposal.number, end, [loss(proposal.values)])
    assert study.counted() == 12
    assert study.tally() == {"finished": 9, "diverged": 1, "pruned": 1, "failed": 1}
    assert study.running() == 0
    best = study.best()
    assert best is not None
    assert best.values[0] == min(one.values[0] for one in study.ranking() if one.outcome == "finished")


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("sampler", EVERY)
def test_every_sampler_searches_a_space_with_conditions(sampler: str, tmp_path: Path) -> None:
    space = COUNTED_BRANCHES if sampler in GRIDS else BRANCHES
    study = opened(tmp_path, space, **options_for(sampler))
    points = asked(study, 12)
    assert len(points) == (POINTS_OF_BRANCHES if sampler in GRIDS else 12)
    for point in points:
        there = [dimension.key for dimension in space.dimensions if dimension.exists(point)]
        assert [*point] == there
    assert {point["optim"] for point in points} == {"sgd", "adam"}


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("sampler", SEVERAL)
def test_every_sampler_but_cmaes_searches_by_several_metrics(sampler: str, tmp_path: Path) -> None:
    space = COUNTED if sampler in GRIDS else BRANCHES
    study = opened(tmp_path, space, mode=["min", "max"], metric=["val/loss", "val/acc"], **options_for(sampler))
    for number in range(12):
        proposal = study.ask()
        assert proposal is not None
        study.report(number, 1, 0.5)
        end = {3: "diverged", 4: "pruned"}.get(number, "finished")
        study.tell(number, end, [loss(proposal.values), float(number)])
    assert study.counted() == 12
    assert 11 in [one.number for one in study.front()]


@pytest.mark.parametrize("sampler", EVERY)
def test_every_sampler_learns_from_an_earlier_sweep(sampler: str, tmp_path: Path) -> None:
    space = COUNTED if sampler in GRIDS else FLAT
    (tmp_path / "before").mkdir()
    asked(opened(tmp_path / "before", space, sampler="random"), 8)
    study = opened(tmp_path, space, **options_for(sampler))
    assert study.inherit(f"journal:{tmp_path / 'before' / 'study.log'}", "sweep-7").taken == 8
    assert len(asked(study, 4)) == 4
    assert study.counted() == 4


@pytest.mark.parametrize("sampler", EVERY)
def test_no_sampler_repeats_itself_after_a_restart(sampler: str, tmp_path: Path) -> None:
    space = COUNTED if sampler in GRIDS else FLAT
    before = asked(opened(tmp_path, space, sampler=sampler, trials=12), 6)
    after = asked(opened(tmp_path, space, sampler=sampler, trials=12), 6)
    assert len(as_set(before + after)) == 12


def test_c25_tpe_with_one_seed_proposes_the_same_twenty_points_twice(tmp_path: Path) -> None:
    space = Space(
        (
            Dimension("data.batch_size", Choice((32, 64, 128))),
            Dimension("optim.lr", Interval(0.0001, 0.2, log=True)),
            Dimension("optim.momentum", Interval(0.0, 0.9)),
        )
    )
    sampler = {"name": "tpe", "n_startup_trials": 10, "n_ei_candidates": 24}
    found = []
    for place in ("one", "other", "of another seed"):
        (tmp_path / place).mkdir()
        seed = 12345 if place != "of another seed" else 1
        study = opened(tmp_path / place, space, seed=seed, mode="max", metric="val/acc", sampler=sampler, trials=20)
        found.append(asked(study, 20))
    assert len(found[0]) == 20
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_tpe_stays_away_from_what_did_not_fit_into_memory(tmp_path: Path) -> None:
    """The larger the better, up to where memory ends: proposals beyond that get rare."""
    space = Space(
        (
            Dimension("data.batch_size", Choice((8, 16, 32, 64, 128, 256))),
            Dimension("model.depth", Interval(2, 8, integer=True)),
            Dimension("optim.lr", Interval(1e-5, 1e-1, log=True)),
        )
    )
    beyond = []
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        study = opened(tmp_path / str(seed), space, sampler="tpe", seed=seed, trials=60)
        for number in range(60):
            values = ask_one(study)
            size = values["data.batch_size"] * values["model.depth"]
            too_large = size > 400
            loss_of_it = 1 / size + abs(math.log10(values["optim.lr"]) + 3)
            study.tell(number, *(("out_of_memory",) if too_large else ("finished", [loss_of_it])))
            beyond += [too_large] if number >= 20 else []
        best = study.best()
        assert best is not None
        assert best.outcome == "finished"
        assert [one.outcome for one in study.ranking()][-1] == "out_of_memory"
        assert study.failures() == study.tally()["out_of_memory"]
    assert len(beyond) == 160
    assert sum(beyond) <= 20  # 13; told as failures, which TPE does not look at, 40


def ask_one(study: Study) -> Values:
    proposal = study.ask()
    assert proposal is not None
    return proposal.values


def test_a_seed_among_the_samplers_arguments_is_taken_as_in_hydras_optuna_sweeper(tmp_path: Path) -> None:
    given = {"_target_": "optuna.samplers.TPESampler", "seed": 5}
    found = []
    for place, options in (("one", {"sampler": given}), ("other", {"sampler": "tpe", "seed": 5})):
        (tmp_path / place).mkdir()
        found.append(asked(opened(tmp_path / place, FLAT, **options), 3))
    assert found[0] == found[1]


def test_a_grid_goes_in_the_order_of_the_space(tmp_path: Path) -> None:
    points = asked(opened(tmp_path, COUNTED, sampler="grid"), 99)
    assert len(points) == 18
    assert points[:4] == [
        {"depth": 2, "model": "mlp", "lr": 0.1},
        {"depth": 2, "model": "mlp", "lr": 0.2},
        {"depth": 2, "model": "mlp", "lr": 0.3},
        {"depth": 2, "model": "unet", "lr": 0.1},
    ]


def test_a_part_of_a_grid_is_scattered_over_it_and_the_rest_is_left_for_later(tmp_path: Path) -> None:
    part = asked(opened(tmp_path, COUNTED, sampler="grid", trials=9), 9)
    assert {point["depth"] for point in part} == {2, 3, 4}
    rest = asked(opened(tmp_path, COUNTED, sampler="grid", trials=18), 99)
    assert len(part) == len(rest) == 9
    assert len(as_set(part + rest)) == 18


@pytest.mark.parametrize("sampler", GRIDS)
@pytest.mark.parametrize(("space", "size"), [(COUNTED, 18), (COUNTED_BRANCHES, POINTS_OF_BRANCHES)])
def test_each_point_of_a_grid_is_proposed_once_with_two_in_flight_and_restarts(
    sampler: str, space: Space, size: int, tmp_path: Path
) -> None:
    points: list[Values] = []
    flying: list[Proposal] = []
    for _ in range(size):  # a restart after every point, with one or two that nobody has told the end of
        study = opened(tmp_path, space, sampler=sampler, concurrency=2)
        assert study.resumed() == flying
        while len(flying) < 2 and (proposal := study.ask()) is not None:
            flying.append(proposal)
            points.append(proposal.values)
        study.tell(flying.pop(0).number, "finished", [1.0])
    study = opened(tmp_path, space, sampler=sampler)
    assert study.resumed() == flying == []
    assert study.ask() is None
    assert study.ask() is None
    assert len(points) == len(as_set(points)) == study.counted() == size


def test_points_that_were_asked_for_first_are_not_repeated_by_a_grid(tmp_path: Path) -> None:
    points = ({"depth": 4, "model": "unet", "lr": 0.3}, {"depth": 3})
    found = asked(opened(tmp_path, COUNTED, sampler="grid", points=points), 99)
    assert found[0] == points[0]
    assert found[1] == {"depth": 3, "model": "mlp", "lr": 0.1}
    assert len(found) == len(as_set(found)) == 18


def test_a_grid_leaves_out_the_points_that_break_a_constraint(tmp_path: Path) -> None:
    space = dataclasses.replace(COUNTED, constraints=("depth * lr <= 0.65",))
    study = opened(tmp_path, space, sampler="grid")
    points = asked(study, 99)
    assert all(point["depth"] * point["lr"] <= 0.65 for point in points)
    assert len(points) == 2 * (3 + 2 + 1)
    assert study.tally() == {"finished": 12}


def test_a_big_grid_is_not_listed_before_it_begins(tmp_path: Path) -> None:
    space = Space(tuple(Dimension(f"k{place}", Interval(1, 1000, integer=True)) for place in range(5)))
    for sampler, trials in (("grid", None), ("grid", 5), ("brute_force", None)):
        study = opened(tmp_path, space, sampler=sampler, trials=trials, name=f"{sampler}-{trials}")
        assert len(as_set(asked(study, 5))) == 5


def test_everything_is_tried_by_default_where_it_can_be_counted(tmp_path: Path) -> None:
    assert len(asked(opened(tmp_path, COUNTED), 99)) == 18
    assert len(asked(opened(tmp_path, FLAT, name="other"), 20)) == 20


def test_tpe_stays_away_from_what_diverged_late_even_where_nothing_was_finished(tmp_path: Path) -> None:
    study = opened(tmp_path, FLAT, sampler={"name": "tpe", "n_startup_trials": 12})
    for _ in range(12):  # the scheduler stops what is good after 3 epochs; what is bad diverges after 9
        proposal = study.ask()
        assert proposal is not None
        bad = proposal.values["x"] > 0
        for step in range(1, 10 if bad else 4):
            study.report(proposal.number, step, 1.0 / step)
        study.tell(proposal.number, "diverged" if bad else "pruned")
    points = asked(study, 12, tell=False)
    assert sum(point["x"] > 0 for point in points) <= 2


def test_cmaes_says_once_what_it_draws_at_random(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asparagus"):
        asked(opened(tmp_path, BRANCHES, sampler="cmaes"), 1)
        opened(tmp_path, BRANCHES, sampler="cmaes")
    assert [line.message for line in caplog.records] == [
        "sweep.sampler: cmaes cannot steer optim, momentum, beta, warm: drawn at random"
    ]


def test_nsga2_says_when_all_trials_are_its_first_generation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asparagus"):
        opened(tmp_path, FLAT, sampler="nsga2", trials=20)
    assert "all 20 trials are nsga2's first generation" in caplog.text
    assert "{name: nsga2, population_size: 5}" in caplog.text


@pytest.mark.parametrize(
    ("written", "name"),
    [("TPE", "tpe"), ("cma-es", "cmaes"), ("optuna.samplers.NSGAIISampler", "nsga2"), ("brute-force", "brute_force")],
)
def test_samplers_are_known_by_their_other_spellings(written: str, name: str) -> None:
    assert sampler_named(written) == (name, {})


@pytest.mark.parametrize(
    ("sampler", "space", "says"),
    [
        ("tep", FLAT, "sweep.sampler: 'tep' is not known. Did you mean 'tpe'?"),
        ({"n_startup_trials": 3}, FLAT, "it has no name"),
        ({"name": "tpe", "n_startup": 3}, FLAT, "sweep.sampler.n_startup: tpe does not take it. Did you mean 'n_start"),
        ({"name": "random", "multivariate": True}, FLAT, "random does not take it. It takes: seed"),
        ({"name": "grid", "shuffle": True}, COUNTED, "grid does not take it"),
        ({"name": "tpe", "n_startup_trials": "five"}, FLAT, "sweep.sampler.n_startup_trials: 'five' is not int"),
        ({"name": "tpe", "multivariate": 3}, FLAT, "3 is not bool or None"),
        ({"name": "tpe", "seed": "x"}, FLAT, "sweep.sampler.seed: 'x' is not a whole number"),
        ({"name": "tpe", "gamma": "sqrt"}, FLAT, "tpe does not take it"),
        ({"name": "nsga2", "population_size": 1}, FLAT, "sweep.sampler: nsga2 refuses"),
        ({"name": "qmc", "qmc_type": "sobel"}, FLAT, "sweep.sampler: qmc refuses"),
        ("grid", FLAT, "grid trains every point, and those of x cannot be counted"),
        ("cmaes", COUNTED_BRANCHES, "cmaes moves at least 2 numbers at once, and this space has 0"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused_before_anything_is_written(
    sampler: Any, space: Space, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        opened(tmp_path, space, sampler=sampler)
    assert says in str(error.value)
    assert [*tmp_path.iterdir()] == []


def test_cmaes_refuses_several_metrics(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cmaes compares one metric, and here are 2"):
        opened(tmp_path, FLAT, sampler="cmaes", mode=["min", "max"])


def test_an_empty_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is empty"):
        opened(tmp_path, Space(()))
