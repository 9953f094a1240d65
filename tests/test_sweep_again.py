"""`sweep.resume=N`: goes on with that one, extends it, or says why not; nothing is started for that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asparagus.compose import Request
from asparagus.driver.desk import Desk
from asparagus.driver.sweep_again import begun_before
from asparagus.driver.sweep_run import drive_sweep
from asparagus.errors import ConfigError
from asparagus.record.run_folder import FINISHED, INTERRUPTED, RunFolder, mark
from asparagus.record.sweeps import REQUEST, SWEEP
from asparagus.secrets import Sealed
from asparagus.sweeps import plan_sweep
from tests.conftest import ASP
from tests.helpers import living_in

SPACE = "optim.lr=tag(log,interval(1e-3,1e-1))"
WORDS = (SPACE, "sweep.trials=2", "sweep.sampler=random")


def planned(*words):
    return plan_sweep(Request("experiment/digits", words, ()))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, data_root) -> Iterator[RunFolder]:
    """The sweep of `WORDS`, number 1, finished, with one trial, run 2; its home is where everybody is meanwhile."""
    home = tmp_path_factory.mktemp("home")
    with living_in(home, data_root), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(sys.argv))
        plan, planner = planned(*WORDS)
        places = str(home / "results"), str(home / "models")
        desk = Desk(planner, plan.last.spec.site.tracking_uri, *places, Sealed({}), str(home), ["asp-launch"])
        folder = Path(desk.open(plan.parent.to_dict())["folder"])
        (folder / REQUEST).write_text(json.dumps(plan.to_dict(), default=str))
        desk.begin(0, 0, {"optim.lr": 0.01})
        desk.end(2, FINISHED, {"val/accuracy": 0.9})
        desk.close(FINISHED, {})
        yield RunFolder(folder, SWEEP)


def refused(*words) -> str:
    plan, planner = planned(*words)
    with pytest.raises(ConfigError) as error:
        drive_sweep(plan, planner, lambda _: None)  # before any Ray: this test is not allowed one
    return str(error.value)


@pytest.mark.parametrize(("state", "trials"), [(FINISHED, 2), (FINISHED, 5), (INTERRUPTED, 5)])
def test_the_same_search_is_gone_on_with_by_its_number_however_much_of_it_is_asked(sweep, state, trials):
    plan, _ = planned(SPACE, "sweep.sampler=random", f"sweep.trials={trials}", "sweep.resume=1")
    mark(sweep, state)
    found = begun_before(plan)
    mark(sweep, FINISHED)
    assert (found.run_id, found.finished) == (1, state == FINISHED)


@pytest.mark.usefixtures("sweep")
def test_without_a_number_another_search_is_another_sweep():
    assert begun_before(planned(*WORDS)[0]).run_id == 1
    assert begun_before(planned(SPACE, "sweep.trials=2", "sweep.sampler=tpe")[0]) is None
    assert begun_before(planned(*WORDS, "sweep.resume=false")[0]) is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("optim.lr=tag(log,interval(1e-4,1e-1))", *WORDS[1:]),
            "optim.lr was interval(0.001, 0.1, log=True), and is interval(0.0001, 0.1, log=True) now",
        ),
        ((*WORDS, "data.batch_size=32,64"), "data.batch_size was not searched, and is one of 32, 64 now"),
        ((SPACE, "sweep.trials=2", "sweep.sampler=tpe"), "sweep.sampler was random, and is tpe now"),
        ((*WORDS, "sweep.seed=1"), "sweep.seed was 12345, and is 1 now"),
        (
            (*WORDS, "sweep.scheduler={name: asha, grace_period: 2}"),
            "sweep.scheduler was none, and is name=asha, grace_period=2 now",
        ),
        (
            (*WORDS, "sweep.metric=val/loss", "sweep.mode=min"),
            "sweep.metric was val/accuracy, and is val/loss now; sweep.mode was max, and is min now",
        ),
        ((*WORDS, "trainer.max_epochs=7"), "trainer.max_epochs was 5, and is 7 now"),
    ],
    ids=["interval", "dimension", "sampler", "seed", "scheduler", "metric", "training"],
)
@pytest.mark.usefixtures("sweep")
def test_another_search_is_refused_with_the_difference_and_nothing_else(words, told):
    said = refused(*words, "sweep.resume=1")
    assert said.startswith("sweep.resume: sweep 1 is another search than the one that is asked now: ")
    assert told in said
    assert said.count(" was ") == told.count(" was ")
    assert "sweep.resume=false" in said
    assert "sweep.from=1" in said


@pytest.mark.usefixtures("sweep")
def test_a_number_that_is_no_sweeps_is_refused_by_what_it_is():
    assert refused(*WORDS, "sweep.resume=2") == (
        "sweep.resume: 2 is a run of train_cls, and no sweep. It is a trial of sweep 1: sweep.resume=1"
    )
    said = refused(*WORDS, "sweep.resume=77")
    assert said.startswith("sweep.resume: 77 is no sweep here: run 77: there is no such run under ")
    assert "The newest here: 1, 2." in said


def test_a_sweep_whose_request_is_lost_is_still_known_by_its_identity(sweep):
    kept = (sweep.path / REQUEST).rename(sweep.path / "kept")
    assert begun_before(planned(*WORDS, "sweep.resume=1")[0]).run_id == 1
    assert "what was asked of it is not there any more" in refused(*WORDS, "sweep.seed=1", "sweep.resume=1")
    kept.rename(sweep.path / REQUEST)


@pytest.mark.e2e
@pytest.mark.usefixtures("sweep")
def test_the_command_says_so_with_status_two():
    command = [str(ASP / "asp-launch"), "experiment/digits", "-m", *WORDS, "sweep.seed=1", "sweep.resume=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "sweep.seed was 12345, and is 1 now" in done.stderr
    assert "Traceback" not in done.stderr
