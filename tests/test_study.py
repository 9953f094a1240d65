from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from asparagus.errors import ConfigError, RecordError, RequestError
from asparagus.space import Choice, Dimension, Interval, Space, SweepOptions
from asparagus.sweep import storage
from asparagus.sweep.study import Proposal, Study
from tests.test_samplers import BRANCHES, COUNTED, FLAT, asked, loss, opened

KILLS = 10
CROWD = 8
FORK = multiprocessing.get_context("fork")
MANY = Space(
    (
        *(Dimension(f"k{place}", Interval(0.0, 1.0)) for place in range(4)),
        Dimension("optim", Choice(("sgd", "adam"))),
        Dimension("momentum", Interval(0.0, 0.99), {"optim": ("sgd",)}),
        Dimension("betas", Choice(([0.9, 0.99], [0.8, 0.9])), {"optim": ("adam",)}),
    )
)
Where = Callable[..., str]


@pytest.fixture(params=["sqlite", "journal"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    def url(name: str = "study") -> str:
        return {"sqlite": f"sqlite:///{tmp_path}/{name}.db", "journal": f"journal:{tmp_path}/{name}.log"}[request.param]

    return url


def ask(study: Study) -> Proposal:
    proposal = study.ask()
    assert proposal is not None
    return proposal


def finish(study: Study, value: float, **facts: Any) -> int:
    number = ask(study).number
    study.tell(number, "finished", [value], **facts)
    return number


# What is asked and told ----------------------------------------------------------------------------------------------


def test_a_trial_is_asked_reported_told_and_there_again_for_the_next_process(where: Where) -> None:
    study = opened(where(), FLAT)
    proposal = ask(study)
    study.report(proposal.number, 1, 0.5)
    study.report(proposal.number, 2, 0.25)
    study.note(proposal.number, host="here")
    study.tell(proposal.number, "finished", [0.25], run_id=41)
    study.close()
    again = opened(where(), FLAT)
    assert again.counted() == 1
    assert again.resumed() == []
    best = again.best()
    assert best is not None
    assert (best.number, best.params, best.values, best.run_id, best.outcome) == (
        0,
        proposal.values,
        (0.25,),
        41,
        "finished",
    )
    assert again.facts(0) == {"host": "here", "asparagus.run_id": 41, "asparagus.outcome": "finished"}
    assert again.optuna.trials[0].intermediate_values == {1: 0.5, 2: 0.25}


def test_everything_may_be_said_twice_and_the_first_word_counts(where: Where) -> None:
    study = opened(where(), FLAT)
    number = ask(study).number
    for value in (0.5, 0.7):
        study.report(number, 1, value)
    study = opened(where(), FLAT)  # as after a crash
    study.report(number, 1, 0.9)
    for outcome, values in (("finished", [0.5]), ("failed", None), ("finished", [0.1])):
        study.tell(number, outcome, values)
        study.report(number, 2, 0.1)
        study.note(number, late=True)
        study = opened(where(), FLAT)
    trial = study.optuna.trials[0]
    assert (trial.state.name, trial.value, trial.intermediate_values) == ("COMPLETE", 0.5, {1: 0.5})
    assert study.tally() == {"finished": 1}
    assert "late" not in study.facts(number)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("finished", "COMPLETE"),
        ("pruned", "PRUNED"),
        ("capped", "PRUNED"),
        ("diverged", "PRUNED"),
        ("out_of_memory", "PRUNED"),
        ("failed", "FAIL"),
        ("lost", "FAIL"),
    ],
)
def test_each_outcome_is_told_to_optuna_as_what_it_is(outcome: str, state: str, tmp_path: Path) -> None:
    study = opened(tmp_path, FLAT)
    number = ask(study).number
    study.report(number, 3, 0.5)
    study.tell(number, outcome, [0.5], error="why", run_id=3)
    trial = study.optuna.trials[0]
    assert trial.state.name == state
    assert study.facts(number)["asparagus.outcome"] == outcome
    assert study.facts(number)["asparagus.error"] == "why"
    assert study.failures() == (outcome in ("out_of_memory", "failed", "lost"))
    assert study.counted() == 1
    assert (study.best() is not None) == (outcome == "finished")


@pytest.mark.parametrize("values", [[math.nan], [math.inf], [-math.inf], None, []])
def test_a_trial_that_finishes_without_a_number_has_diverged(values: list[float] | None, where: Where) -> None:
    study = opened(where(), FLAT, mode="max")
    finish(study, 0.5)
    number = ask(study).number
    study.report(number, 1, 0.25)
    study.tell(number, "finished", values)
    trial = opened(where(), FLAT, mode="max").optuna.trials[number]
    assert trial.state.name == "PRUNED"
    assert trial.intermediate_values[1] == 0.25
    assert math.isnan(trial.intermediate_values[2])
    assert [one.outcome for one in study.ranking()] == ["finished", "diverged"]


def test_numbers_that_are_none_may_be_reported(where: Where) -> None:
    study = opened(where(), FLAT)
    number = ask(study).number
    for step, value in enumerate((math.inf, -math.inf, math.nan)):
        study.report(number, step, value)
    kept = opened(where(), FLAT).optuna.trials[0].intermediate_values
    assert (kept[0], kept[1], math.isnan(kept[2])) == (math.inf, -math.inf, True)
    study.tell(number, "diverged")
    assert len(study.optuna.trials[0].intermediate_values) == 3


def test_a_stopped_trial_keeps_its_last_value_and_is_never_the_best(where: Where) -> None:
    study = opened(where(), FLAT)
    number = ask(study).number
    study.report(number, 1, 0.001)
    study.tell(number, "pruned")
    assert study.best() is None
    assert study.ranking()[0].values == (0.001,)
    finish(study, 5.0)
    best = study.best()
    assert best is not None
    assert best.values == (5.0,)
    assert [one.values for one in study.ranking()] == [(5.0,), (0.001,)]


def test_trials_are_ranked_by_how_far_they_got_before_how_good_they_looked(tmp_path: Path) -> None:
    study = opened(tmp_path, FLAT, mode="max")
    for steps, value, outcome in ((1, 0.9, "pruned"), (5, 0.1, "pruned"), (5, 0.2, "capped"), (9, 0.8, "diverged")):
        number = ask(study).number
        study.report(number, steps, value)
        study.tell(number, outcome)
    study.tell(ask(study).number, "failed")
    finish(study, 0.3)
    finish(study, 0.4)
    assert [one.number for one in study.ranking()] == [6, 5, 2, 1, 0, 3, 4]
    assert [row.number for row in study.table()][:2] == [6, 5]


def test_of_equal_trials_the_first_is_the_best(tmp_path: Path) -> None:
    study = opened(tmp_path, FLAT)
    for _ in range(3):
        finish(study, 1.0)
    best = study.best()
    assert best is not None
    assert best.number == 0


def test_patience_counts_what_has_ended_since_the_best_did(tmp_path: Path) -> None:
    study = opened(tmp_path, FLAT)
    assert study.without_better() == 0
    study.tell(ask(study).number, "failed")
    assert study.without_better() == 1
    late = ask(study).number
    for value in (3.0, 3.0, 4.0):
        finish(study, value)
    assert study.without_better() == 2
    study.tell(late, "finished", [1.0])  # asked first, and over last
    assert study.without_better() == 0


def test_several_metrics_have_a_front(where: Where) -> None:
    study = opened(where(), FLAT, mode=["min", "max"], metric=["val/loss", "val/acc"])
    for values in ([1.0, 0.5], [2.0, 0.9], [3.0, 0.8], [0.5, 0.1], [1.0, 0.5], [1.0, 0.4]):
        study.tell(ask(study).number, "finished", values)
    study.tell(ask(study).number, "finished", [0.1, math.nan])
    assert [one.number for one in study.front()] == [3, 0, 4, 1]
    assert [one.number for one in study.ranking()] == [3, 0, 4, 1, 5, 2, 6]
    assert {trial.number for trial in study.optuna.best_trials} == {one.number for one in study.front()}
    assert study.without_better() == 2


def test_what_matters_is_known_after_enough_trials_even_for_branches(tmp_path: Path) -> None:
    study = opened(tmp_path, BRANCHES, sampler="random")
    for number in range(40):
        proposal = ask(study)
        assert study.importance() == {} or number > 7
        study.tell(proposal.number, "finished", [abs(math.log10(proposal.values["lr"]) + 3)])
    assert next(iter(study.importance())) == "lr"
    assert {*study.importance()} == {"lr", "wd", "optim", "momentum", "beta", "warm"}
    flat = opened(tmp_path, FLAT, name="all the same")
    for _ in range(10):
        finish(flat, 1.0)
    assert flat.importance() == {}


# Points --------------------------------------------------------------------------------------------------------------


def test_plain_values_of_every_kind_come_back_as_they_were(where: Where) -> None:
    kinds = {
        "mixed": (None, True, 1.5, 2, "text", [1, 2], {"a": {"b": [None]}}, []),
        "alike": (1, 1.0, True, "1", "true"),
        "texts": ("[1]", [1], "null", None),
    }
    space = Space(tuple(Dimension(key, Choice(values)) for key, values in kinds.items()))
    first = {key: values[0] for key, values in kinds.items()}
    points = [{**first, key: value} for key, values in kinds.items() for value in values]
    study = opened(where(), space, points=tuple(points))
    texts = [*dict.fromkeys(map(repr, points))]  # repr tells 1, 1.0 and True apart
    assert [repr(ask(study).values) for _ in texts] == texts
    assert [repr(one.values) for one in opened(where(), space).resumed()] == texts


def test_numbers_stay_on_their_steps_as_people_write_them(tmp_path: Path) -> None:
    space = Space(
        (
            Dimension("x", Interval(0.1, 1.05, step=0.1)),
            Dimension("n", Interval(1.0, 8.0, step=3.0, integer=True)),
            Dimension("m", Interval(2, 512, log=True, integer=True)),
        )
    )
    points = asked(opened(tmp_path, space, sampler="random"), 40)
    assert {point["x"] for point in points} <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}
    assert {point["n"] for point in points} == {1, 4, 7}
    assert all(isinstance(point["n"], int) and isinstance(point["m"], int) for point in points)


def test_a_key_may_have_a_domain_for_each_branch(tmp_path: Path) -> None:
    space = Space(
        (
            Dimension("optim", Choice(("sgd", "adam"))),
            Dimension("lr", Interval(0.1, 1.0), {"optim": ("sgd",)}),
            Dimension("lr", Choice((1e-4, 1e-3)), {"optim": ("adam",)}),
        )
    )
    for sampler in ("tpe", "random"):
        points = asked(opened(tmp_path, space, sampler=sampler, name=sampler), 16)
        assert {point["optim"] for point in points} == {"sgd", "adam"}
        for point in points:
            assert point["lr"] in (1e-4, 1e-3) if point["optim"] == "adam" else 0.1 <= point["lr"] <= 1.0


def test_points_are_tried_first_in_their_order_and_once_over_restarts(where: Where) -> None:
    points = ({"x": 1.5, "n": 3}, {"n": 8}, {"x": 0.25})
    study = opened(where(), FLAT, points=points)
    assert ask(study).values == points[0]
    study = opened(where(), FLAT, points=points)
    assert ask(study).values["n"] == 8
    study = opened(where(), FLAT, points=(*points, {"x": -2, "n": 1}))
    assert ask(study).values["x"] == 0.25
    assert ask(study).values == {"x": -2.0, "n": 1}
    assert len(study.resumed()) == 4
    ask(study)
    assert len(study.optuna.trials) == 5


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"z": 1}, "sweep.points: z is not searched. These are: lr, wd, optim, momentum, beta, warm."),
        ({"wd": 2.0}, "sweep.points: wd: 2.0 is not between 0.0 and 1.0."),
        ({"wd": "low"}, "'low' is not a number"),
        ({"optim": "lion"}, "optim: 'lion' is none of"),
        ({"optim": "adam", "momentum": 0.5}, "momentum is not there beside the other values"),
        ({"optim": "adam", "beta": 0.99, "warm": 1.5}, "warm: 1.5 is not on a step of 1 from 1"),
    ],
)
def test_a_point_outside_of_the_space_is_refused(point: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        opened(tmp_path, BRANCHES, points=(point,))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("domain", "says"),
    [
        (Interval(2.0, 1.0), "the interval from 2.0 to 1.0 is empty"),
        (Interval(0.0, 1.0, log=True), "k: "),
        (Interval(0.2, 0.8, integer=True), "no whole number"),
        (Choice(()), "k: "),
        (Choice((1, [2], 1)), "one of them is there twice"),
    ],
)
def test_an_impossible_dimension_is_refused_by_name(domain: Interval | Choice, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        opened(tmp_path, Space((Dimension("k", domain),)))
    assert str(error.value).startswith("sweep.space: k: ")
    assert says in str(error.value)


def test_points_that_break_a_constraint_are_neither_trained_nor_counted(where: Where) -> None:
    space = dataclasses.replace(FLAT, constraints=("x * n <= 4", "x >= 0"))
    study = opened(where(), space, sampler="random")
    points = asked(study, 8)
    assert all(point["x"] * point["n"] <= 4 and point["x"] >= 0 for point in points)
    assert study.counted() == len(study.ranking()) == 8
    refused = study.tally()["infeasible"]
    assert refused > 0
    assert study.failures() == 0
    assert [trial.state.name for trial in study.optuna.trials].count("FAIL") == refused
    again = opened(where(), space, sampler="random")
    assert (again.counted(), again.tally()) == (8, study.tally())


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_that_insists_on_what_is_not_allowed_is_passed_over(sampler: str, tmp_path: Path) -> None:
    """The better, the more surely forbidden: less than 1 in 10 of the space is left."""
    space = dataclasses.replace(FLAT, constraints=("x >= 1.6",))
    study = opened(tmp_path, space, sampler={"name": sampler, "n_startup_trials": 5})
    points = asked(study, 7)
    assert len(points) == 7
    assert all(point["x"] >= 1.6 for point in points)


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_space_without_a_point_is_refused_by_its_constraints(sampler: str, tmp_path: Path) -> None:
    study = opened(tmp_path, dataclasses.replace(COUNTED, constraints=("depth > 9",)), sampler=sampler)
    with pytest.raises(ConfigError, match="contradictory or nearly empty") as error:
        study.ask()
    assert "depth > 9" in str(error.value)
    assert study.resumed() == []


# The same search again -----------------------------------------------------------------------------------------------


def test_another_space_under_the_same_name_is_refused_and_nothing_changes(where: Where) -> None:
    finish(opened(where(), FLAT), 1.0)
    other = Space(
        (
            Dimension("x", Interval(-2.0, 3.0)),
            Dimension("n", Interval(1, 8, integer=True)),
            Dimension("model", Choice(("mlp", "unet"))),
        ),
        ("x < 1",),
    )
    with pytest.raises(ConfigError) as error:
        opened(where(), other, points=({"x": 0.5},))
    assert "the study 'sweep-7' has another space" in str(error.value)
    assert "x was interval(-2.0, 2.0), and is interval(-2.0, 3.0) now" in str(error.value)
    assert "model was not searched, and is one of mlp, unet now" in str(error.value)
    assert "the constraints were none, and are x < 1 now" in str(error.value)
    study = opened(where(), FLAT)
    assert len(study.optuna.trials) == study.counted() == 1
    assert finish(study, 2.0) == 1
    opened(where(), other, name="another sweep")


def test_the_same_space_in_another_order_is_the_same(where: Where) -> None:
    one, other = (dataclasses.replace(FLAT, constraints=order) for order in (("x < 1", "n > 1"), ("n > 1", "x < 1")))
    finish(opened(where(), one), 1.0)
    turned = dataclasses.replace(other, dimensions=other.dimensions[::-1])
    assert opened(where(), turned).counted() == 1


def test_another_mode_is_refused(where: Where) -> None:
    opened(where(), FLAT)
    with pytest.raises(ConfigError, match="begun with min, and max is asked now"):
        opened(where(), FLAT, mode="max")
    with pytest.raises(ConfigError, match="begun with min, and min, max is asked now"):
        opened(where(), FLAT, mode=["min", "max"])
    with pytest.raises(ConfigError, match="'best' is not known"):
        opened(where(), FLAT, mode="best")


def test_a_study_that_is_no_sweeps_is_left_alone(where: Where, tmp_path: Path) -> None:
    opened(where(), FLAT, name="ours").close()
    kept = optuna.storages.get_storage(where()) if where().startswith("sqlite") else storage.open_storage(where())
    theirs = optuna.create_study(storage=kept, study_name="theirs")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigError, match="'theirs' is not one of a sweep"):
        opened(where(), FLAT, name="theirs")


def test_a_process_killed_before_it_had_written_the_space_is_no_harm(where: Where) -> None:
    optuna.create_study(storage=storage.open_storage(where()), study_name="sweep-7", directions=["minimize"])
    finish(opened(where(), FLAT), 1.0)
    assert opened(where(), FLAT).counted() == 1


def test_sampler_seed_and_trials_may_change_when_a_sweep_goes_on(where: Where) -> None:
    asked(opened(where(), FLAT, sampler="random", trials=3), 3)
    study = opened(where(), FLAT, sampler="tpe", seed=1, trials=6)
    asked(study, 3)
    assert study.counted() == 6


def test_a_trial_that_was_cut_off_while_it_was_asked_is_completed(where: Where) -> None:
    study = opened(where(), BRANCHES, sampler="random")
    study.optuna.ask()
    half = study.optuna.ask()
    lr = half.suggest_float("lr", 1e-5, 1e-1, log=True)
    proposals = opened(where(), BRANCHES, sampler="tpe").resumed()
    assert [one.number for one in proposals] == [0, 1]
    assert proposals[1].values["lr"] == lr
    for one in proposals:
        assert [*one.values] == [dimension.key for dimension in BRANCHES.dimensions if dimension.exists(one.values)]
    assert opened(where(), BRANCHES, sampler="random").resumed() == proposals


def test_a_point_of_a_grid_that_was_cut_off_while_it_was_asked_is_completed_to_one_that_is_new(where: Where) -> None:
    study = opened(where(), COUNTED, sampler="grid")
    first = asked(study, 1)
    study.optuna.ask().suggest_categorical("depth", (2, 3, 4))
    study.optuna.ask()
    again = opened(where(), COUNTED, sampler="grid")
    halves = [one.values for one in again.resumed()]
    rest = asked(again, 99)
    assert len({json.dumps(point) for point in first + halves + rest}) == 18
    assert len(first + halves + rest) == 18


def test_what_a_killed_process_had_not_refused_yet_is_refused(where: Where) -> None:
    space = dataclasses.replace(FLAT, constraints=("x > 0",))
    study = opened(where(), space)
    for x in (-1.0, 1.0):
        study.optuna.enqueue_trial({"x": x, "n": 1})
        trial = study.optuna.ask()
        trial.suggest_float("x", -2.0, 2.0)
    again = opened(where(), space)
    assert [one.number for one in again.resumed()] == [1]
    assert again.tally() == {"infeasible": 1}


def _ask_on(url: str, line: Connection) -> None:
    study = opened(url, MANY, sampler="random")
    for one in study.resumed():
        study.tell(one.number, "finished", [1.0])
        line.send(("told", one.number, one.values))
    while (proposal := study.ask()) is not None:
        line.send(("asked", proposal.number, proposal.values))
        study.report(proposal.number, 1, 0.5)
        if proposal.number % 3:
            study.tell(proposal.number, "finished", [loss(proposal.values["k0"] and {"k": 1.0})])
            line.send(("told", proposal.number, proposal.values))


def test_a_process_killed_at_any_moment_loses_no_trial(where: Where) -> None:
    chance, told, heard = random.Random(3), set(), {}
    for _ in range(KILLS):
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=_ask_on, args=(where(), theirs))
        process.start()
        theirs.close()
        lines = [ours.recv() for _ in range(chance.randint(1, 6))]
        time.sleep(chance.uniform(0.0, 0.05))
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with suppress(EOFError):
            while True:
                lines.append(ours.recv())
        for kind, number, values in lines:
            told |= {number} if kind == "told" else set()
            assert heard.setdefault(number, values) == values
        began = time.monotonic()
        study = opened(where(), MANY, sampler="random")
        resumed = study.resumed()
        assert time.monotonic() - began < 20  # Optuna's own lock of a journal is held for 30 s by who died
        running = {one.number for one in resumed}
        assert not running & told
        assert {*heard} <= running | {one.number for one in study.ranking()}
        assert study.counted() + len(running) == len(study.optuna.trials)
        for one in resumed:
            assert heard.get(one.number, one.values) == one.values
            assert [*one.values] == [dimension.key for dimension in MANY.dimensions if dimension.exists(one.values)]
        study.close()
    assert len(heard) > KILLS
    study = opened(where(), MANY)
    for one in study.resumed():
        study.tell(one.number, "finished", [1.0])
    assert study.running() == 0
    assert [one.number for one in sorted(study.ranking(), key=lambda one: one.number)] == [*range(study.counted())]


def test_half_a_line_that_a_killed_process_left_in_a_journal_is_taken_away(tmp_path: Path) -> None:
    finish(opened(tmp_path, FLAT), 1.0)
    file = tmp_path / "study.log"
    whole = file.read_bytes()
    for half in (b'{"op_code":4,"worker_id":"x","stu', b'{"op_code":8,"x":"' + b"x" * 200_000):
        file.write_bytes(whole + half)
        study = opened(tmp_path, FLAT)
        finish(study, 2.0)
        assert opened(tmp_path, FLAT).counted() == 2
        assert file.read_bytes().startswith(whole)


# Storages ------------------------------------------------------------------------------------------------------------


def _one_of_a_crowd(url: str, start: Any, line: Any) -> None:
    try:
        start.wait()
        study = opened(url, FLAT, sampler="random", seed=os.getpid(), concurrency=CROWD)
        for _ in range(5):
            proposal = ask(study)
            for step in range(3):
                study.report(proposal.number, step, 0.5)
            study.tell(proposal.number, "finished", [loss(proposal.values)])
        line.put(None)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test says it
        line.put(f"{type(error).__name__}: {error}")


def test_eight_processes_open_a_new_study_and_work_in_it_at_once(where: Where) -> None:
    start, line = FORK.Barrier(CROWD), FORK.Queue()
    crowd = [FORK.Process(target=_one_of_a_crowd, args=(where(), start, line)) for _ in range(CROWD)]
    for process in crowd:
        process.start()
    said = [line.get(timeout=120) for _ in crowd]
    for process in crowd:
        process.join()
    assert said == [None] * CROWD
    study = opened(where(), FLAT)
    assert study.counted() == 5 * CROWD
    assert [trial.number for trial in study.optuna.trials] == [*range(5 * CROWD)]
    assert all(len(trial.intermediate_values) == 3 for trial in study.optuna.trials)


def test_another_process_sees_the_study_with_plain_optuna_while_it_runs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = opened(url, FLAT)
    number = ask(study).number
    for step in (1, 2):
        study.report(number, step, 1 / step)
    study.tell(number, "pruned", run_id=9)
    ask(study)
    code = """
import json, sys, optuna
study = optuna.load_study(study_name="sweep-7", storage=sys.argv[1])
pruned, running = study.trials
print(json.dumps([pruned.state.name, pruned.value, pruned.intermediate_values, pruned.user_attrs, running.state.name]))
"""
    said = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(said.stdout.splitlines()[-1]) == [
        "PRUNED",
        0.5,
        {"1": 1.0, "2": 0.5},
        {"asparagus.run_id": 9, "asparagus.outcome": "pruned"},
        "RUNNING",
    ]


def test_the_dashboard_shows_a_study_while_it_runs(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    url = f"sqlite:///{tmp_path}/study.db"
    study = opened(url, FLAT, metric="val/dice", mode="max")
    number = ask(study).number
    study.report(number, 1, 0.5)
    study.tell(number, "pruned")
    ask(study)
    app = dashboard.wsgi(url)

    def get(path: str) -> Any:
        environ: dict[str, Any] = {"PATH_INFO": path}
        setup_testing_defaults(environ)
        return json.loads(b"".join(app(environ, lambda *_: None)))

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "sweep-7"
    detail = get(f"/api/studies/{summary['study_id']}")
    assert [trial["state"] for trial in detail["trials"]] == ["Pruned", "Running"]
    assert [(one["step"], one["value"]) for one in detail["trials"][0]["intermediate_values"]] == [(1, 0.5)]
    assert study.optuna.metric_names == ["val/dice"]


def test_a_study_on_a_disk_of_this_machine_waits_for_no_disk_and_one_on_a_network_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mode(name: str) -> str:
        opened(f"sqlite:///{tmp_path}/{name}.db", FLAT).close()
        with sqlite3.connect(tmp_path / f"{name}.db") as file:
            return str(file.execute("PRAGMA journal_mode").fetchone()[0])

    mounts = tmp_path / "mounts"
    monkeypatch.setattr(storage, "MOUNTS", mounts)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path.parent} nfs4 rw 0 0\n")
    assert mode("far") == "delete"
    mounts.write_text("/dev/sda / ext4 rw 0 0\n")
    assert mode("near") == "wal"
    assert mode("far") == "wal"


def test_a_storage_that_is_not_a_studys_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    theirs = tmp_path / "mlflow.db"
    with sqlite3.connect(theirs) as file:
        file.execute("CREATE TABLE alembic_version (version_num TEXT)")
        file.execute("INSERT INTO alembic_version VALUES ('abc')")
        file.execute("CREATE TABLE experiments (name TEXT)")
    (tmp_path / "notes.txt").write_text("my notes")
    (tmp_path / "notes.db").write_text("my notes, which are no database")
    for url, says in (
        (f"sqlite:///{theirs}", "the database of another program"),
        (f"sqlite:///{tmp_path}/notes.db", "file is not a database"),
        (f"journal:{tmp_path}/notes.txt", "is no journal of Optuna's"),
    ):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(RecordError) as error:
            opened(url, FLAT)
        assert says in str(error.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("study.db", "sweep.storage: study.db is no URL of a study: write sqlite:////a/folder/study.db"),
        ("mongodb://u:hunter2@host/x", "sweep.storage: mongodb://u:***@host/x is no URL of a study"),
        ("postgresql+psycopg2://u:hunter2@127.0.0.1:1/x", "u:***@127.0.0.1:1/x cannot be opened"),
        ("sqlite://", "is lost with its process"),
        ("sqlite:////nowhere/at/all/study.db", "sqlite:////nowhere/at/all/study.db cannot be opened: unable to open"),
        ("journal:", "names no file"),
        ("journal:/nowhere/at/all/study.log", "cannot be opened: [Errno 2] No such file or directory"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(url: str, says: str) -> None:
    with pytest.raises(RequestError) as error:
        opened(url, FLAT)
    assert says in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_with_braces_and_blanks_holds_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "a {b} 100%"
    folder.mkdir()
    for url in (f"sqlite:///{folder}/study.db", f"journal:{folder}/study.log"):
        finish(opened(url, FLAT), 1.0)
        assert opened(url, FLAT).counted() == 1
    assert (folder / "study.db").is_file()


# Learning from an earlier sweep --------------------------------------------------------------------------------------


def earlier(url: str, space: Space, **options: Any) -> Study:
    study = opened(url, space, name="sweep-3", sampler="random", **options)
    for number in range(12):
        proposal = ask(study)
        study.report(number, 1, 0.5)
        end = {0: "pruned", 1: "failed", 2: "diverged"}.get(number, "finished")
        study.tell(number, end, [loss(proposal.values)], run_id=100 + number)
    return study


def test_trials_of_an_earlier_sweep_are_taken_over_once_marked_and_not_counted(where: Where) -> None:
    before = earlier(where("before"), BRANCHES)
    study = opened(where(), BRANCHES)
    for _ in range(2):
        told = study.inherit(where("before"), "sweep-3")
        assert (told.taken, told.skipped) == (11, 0)
        study = opened(where(), BRANCHES)
    assert len(study.optuna.trials) == 11
    assert study.tally() == {"inherited": 11}
    assert study.counted() == 0
    assert study.best() is None
    assert study.ranking() == study.front() == []
    assert study.without_better() == 0
    for mine, theirs in zip(study.optuna.trials, [t for t in before.optuna.trials if t.number != 1], strict=True):
        assert mine.params == theirs.params
        assert mine.state == theirs.state
        assert mine.values == theirs.values
        assert [*mine.intermediate_values] == [*theirs.intermediate_values]
        assert mine.user_attrs["asparagus.run_id"] == theirs.user_attrs["asparagus.run_id"]
        assert mine.user_attrs["asparagus.outcome"] == "inherited"
        assert mine.user_attrs["asparagus.origin"] == f"sweep-3:{theirs.number}"
    assert ask(study).number == 11


def test_only_trials_that_lie_in_the_space_are_taken_over(where: Where) -> None:
    before = earlier(where("before"), BRANCHES)
    narrow = {"lr": Interval(1e-3, 1e-1, log=True), "optim": Choice(("adam", "lion"))}
    space = Space(
        tuple(dataclasses.replace(one, domain=narrow.get(one.key, one.domain)) for one in BRANCHES.dimensions)
    )
    fits = [one for one in before.ranking() if one.params["lr"] >= 1e-3 and one.params["optim"] == "adam"]
    fits = [one for one in fits if one.outcome != "failed"]
    study = opened(where(), space)
    told = study.inherit(where("before"), "sweep-3")
    assert 0 < told.taken == len(fits) < 11
    assert told.skipped == 11 - told.taken
    assert {trial.user_attrs["asparagus.run_id"] for trial in study.optuna.trials} == {one.run_id for one in fits}
    wider = Space((*BRANCHES.dimensions, Dimension("new", Choice((1, 2)))))
    assert opened(where("wider"), wider).inherit(where("before"), "sweep-3").taken == 0


def test_what_a_sweep_inherited_is_passed_on_and_nothing_twice(where: Where) -> None:
    earlier(where("first"), FLAT)
    second = opened(where("second"), FLAT, name="sweep-5")
    second.inherit(where("first"), "sweep-3")
    finish(second, 1.0)
    third = opened(where("third"), FLAT)
    assert third.inherit(where("second"), "sweep-5").taken == 12
    assert third.inherit(where("first"), "sweep-3").taken == 11
    assert len(third.optuna.trials) == 12


def test_inherited_trials_teach_the_sampler(tmp_path: Path) -> None:
    before = opened(f"journal:{tmp_path}/before.log", FLAT, name="sweep-3", sampler="random")
    for _ in range(40):
        proposal = ask(before)
        before.tell(proposal.number, "finished", [abs(proposal.values["x"] - 1.5)])
    taught, ignorant = (opened(f"journal:{tmp_path}/{name}.log", FLAT, sampler="tpe") for name in "ab")
    taught.inherit(f"journal:{tmp_path}/before.log", "sweep-3")
    near, far = (
        statistics.mean(abs(point["x"] - 1.5) for point in asked(study, 8, tell=False)) for study in (taught, ignorant)
    )
    assert near < far / 2


def test_a_sweep_of_another_metric_teaches_nothing(where: Where, tmp_path: Path) -> None:
    earlier(where("before"), FLAT)
    study = opened(where(), FLAT, mode="max", metric="val/acc")
    with pytest.raises(ConfigError, match=r"compared val/loss \(min\), and this sweep compares val/acc \(max\)"):
        study.inherit(where("before"), "sweep-3")
    with pytest.raises(RecordError, match=r"has no study 'sweep-4'\. Did you mean 'sweep-3'\?"):
        study.inherit(where("before"), "sweep-4")
    with pytest.raises(RecordError, match="the file does not exist"):
        study.inherit(where("nowhere"), "sweep-3")
    assert len(study.optuna.trials) == 0
    assert not [path for path in tmp_path.iterdir() if "nowhere" in path.name]


# A thousand trials ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_trials_take_no_longer_each_at_the_end_than_at_the_beginning(where: Where) -> None:
    study = opened(where(), FLAT, sampler="random")
    took = []
    for _ in range(1000):
        began = time.process_time()
        proposal = ask(study)
        for step in range(5):
            study.report(proposal.number, step, 0.5)
        study.tell(proposal.number, "finished", [loss(proposal.values)])
        study.counted()
        study.without_better()
        took.append(time.process_time() - began)
    first, last = statistics.median(took[:100]), statistics.median(took[-100:])
    assert last < 3 * first, (first, last)
    assert study.counted() == 1000


def test_options_are_plain(tmp_path: Path) -> None:
    """What a sweep keeps of its request opens the same study again."""
    options = SweepOptions(mode="min", metric="val/loss", sampler={"name": "tpe", "n_startup_trials": 3})
    for _ in range(2):
        kept = SweepOptions(**json.loads(json.dumps(options.to_dict())))
        space = Space.from_dict(json.loads(json.dumps(BRANCHES.to_dict())))
        study = Study.open(f"journal:{tmp_path}/study.log", "sweep-7", space, kept, concurrency=2)
        ask(study)
    assert len(study.resumed()) == 2
