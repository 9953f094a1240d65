"""Where the time of a run goes: told by its processes, joined attempt by attempt, shown by `asp show N --timing`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytorch_lightning.demos.boring_classes import BoringModel

import asparagus
from asparagus.cli.main import run
from asparagus.errors import RecordError, RunError
from asparagus.journal import Journal, JournalReader
from asparagus.record.numbers import claim, enter
from asparagus.record.run_folder import RunFolder, create, write_json
from asparagus.record.run_folder import hold as train
from asparagus.record.sweeps import SWEEP
from asparagus.record.timing import attempts_of, timing_of, timing_of_sweep
from asparagus.record.timing_page import page
from asparagus.spec import Paths, Spec
from asparagus.stopwatch import END, LAUNCH, PLACING, TIMING, TRAINING, Phase, Stopwatch, age_of_process
from asparagus.worker.beat import Beat
from tests.helpers import quiet_trainer

DIGITS = "experiment/digits"


def told(by: str, began: float, ended: float, attempt: int = 1, **phases: float) -> dict[str, object]:
    """Return what one process tells of a span; what it did not name is `steps`."""
    left = ended - began - sum(phases.values())
    told = {"by": by, "attempt": attempt, "began": began, "ended": ended}
    return {"kind": TIMING, **told, "phases": {**phases, **({"steps": left} if left else {})}}


def a_run(home: Path, *events: dict[str, object], stage: str = "train_cls") -> tuple[int, RunFolder]:
    models = home / "models"
    run_id = claim(models, about={"stage": stage, "task": "Task9_X"})
    folder = create(models, Spec(stage, "Task9_X", paths=Paths(models=str(models))), run_id, "{}")
    journal = Journal(folder.journal)
    for event in events:
        journal.append(str(event["kind"]), **{key: value for key, value in event.items() if key != "kind"})
    journal.close()
    return run_id, folder


def test_laps_add_up_to_what_has_passed_and_are_told_once():
    began, watch = time.monotonic(), Stopwatch()
    for phase in (Phase.DATA, Phase.STEPS, Phase.DATA):
        time.sleep(0.01)
        watch.lap(phase)
    passed = time.monotonic() - began
    first = watch.tell()
    assert set(first["phases"]) == {"data", "steps"}
    assert sum(first["phases"].values()) == pytest.approx(passed, abs=5e-3)
    assert first["ended"] - first["began"] == pytest.approx(passed, abs=5e-3)
    watch.lap(Phase.END)
    second = watch.tell()
    assert second["began"] == first["ended"]
    assert set(second["phases"]) == {"end"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_process_knows_its_age():
    code = "import time; time.sleep(0.3); from asparagus.stopwatch import age_of_process; print(age_of_process())"
    began = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.3 <= age <= time.monotonic() - began + 0.02
    assert age_of_process() > age


def test_what_lies_between_two_processes_is_booked_and_attempts_are_told_apart():
    events = [
        told(LAUNCH, 100, 110, compose=4.0, ray=6.0),
        told(PLACING, 112, 115, workers=3.0),
        told(TRAINING, 115, 120, imports=4.0),
        told(TRAINING, 120, 130, validation=2.0),
        told(PLACING, 141, 143, attempt=2, workers=2.0),  # one of the workers was killed
        told(TRAINING, 143, 150, attempt=2),
        told(END, 151, 154, end=3.0),
        told(LAUNCH, 900, 905, attempt=2, compose=5.0),  # and the next day it went on
        told(TRAINING, 906, 910, attempt=3),
    ]
    first, again, resumed = attempts_of(events)
    assert (first.number, first.launch, first.began, first.ended) == (1, 1, 100, 130)
    assert first.phases == {"compose": 4, "ray": 6, "workers": 5, "imports": 4, "steps": 9, "validation": 2}
    assert (again.number, again.launch, again.seconds) == (2, 1, 154 - 130)
    assert again.phases == {"lost": 11, "workers": 2, "steps": 7, "end": 4}
    assert (resumed.number, resumed.launch, resumed.began, resumed.seconds) == (3, 2, 900, 10)
    waited = attempts_of(events, Phase.SWEEP)[1]
    assert waited.phases["sweep"] == 11


def test_clocks_that_disagree_make_no_time_negative():
    attempt = attempts_of([told(LAUNCH, 100, 110), told(TRAINING, 108, 120)])[0]
    assert min(attempt.phases.values()) > 0


def test_a_launch_without_a_training_is_shown_as_one(home, capsys):
    run_id, _ = a_run(home, told(LAUNCH, 100, 110, compose=10.0), told(END, 130, 131, end=1.0))
    assert run("show", [str(run_id), "--timing"]) == 0
    assert f"run {run_id}, no training began, launch 1: 31.0 s" in capsys.readouterr().out


def test_a_run_of_before_says_so_and_what_to_do(home, capsys):
    run_id, folder = a_run(home, {"kind": "epoch", "epoch": 0})
    assert run("show", [str(run_id), "--timing"]) == 2
    said = capsys.readouterr().err
    assert f"{folder.journal} does not tell" in said
    assert f"asp rerun {run_id}" in said


def test_a_run_that_still_goes_shows_what_is_known_so_far(home, capsys):
    run_id, folder = a_run(home, told(LAUNCH, 100, 110, compose=10.0))
    taken = train(folder)
    try:
        assert run("show", [str(run_id), "--timing"]) == 0
        assert "still going" in capsys.readouterr().out
        assert run("show", [str(run_id), "--timing", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["is_running"] is True
        (folder.journal).write_text("")
        assert run("show", [str(run_id), "--timing"]) == 2
        assert "only just begun" in capsys.readouterr().err
    finally:
        taken.release()


def test_a_run_that_is_not_here_says_that_it_is_not(home, capsys):
    assert run("show", ["77", "--timing"]) == 2
    assert "run 77: there is no such run" in capsys.readouterr().err


def test_a_sweep_shows_the_sum_and_the_median_over_its_runs(home, capsys):
    sweep_id, _ = a_run(home, stage=SWEEP)
    for number, seconds in enumerate((1.0, 2.0, 6.0)):
        run_id, folder = a_run(home, told(LAUNCH, 0, 1, record=1.0), told(TRAINING, 1, 1 + seconds))
        write_json(folder.record, {"sweep_id": sweep_id})
        enter(home / "models", run_id, {"trial": f"{sweep_id}/{number}", "stage": "train_cls", "task": "Task9_X"})
    assert run("show", [str(sweep_id), "--timing", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["runs"], shown["runs_without_timing"], shown["seconds"]) == (3, 0, 12)
    assert shown["phases"]["steps"] == {"seconds": 9, "share": 0.75, "median_seconds": 2}
    assert run("show", [str(sweep_id), "--timing"]) == 0
    assert "3 runs, 12.0 s in all" in capsys.readouterr().out


def test_a_sweep_of_which_nothing_is_known_says_so(home):
    sweep_id, _ = a_run(home, stage=SWEEP)
    with pytest.raises(RecordError, match="none of its 0 runs tells"):
        timing_of_sweep(home / "models", sweep_id)


def test_the_page_draws_each_attempt_and_escapes_what_it_is_told():
    drawn = page("7", attempts_of([told(LAUNCH, 0, 4, **{"<b>": 4.0}), told(TRAINING, 4, 8), told(TRAINING, 9, 10, 2)]))
    assert drawn.count("<h2>") == 2
    assert "&lt;b&gt;" in drawn
    assert "width:100.0%" in drawn


def test_steps_cost_no_line_and_an_epoch_at_most_one(tmp_path):
    journal = Journal(tmp_path / "j")
    trainer = quiet_trainer(max_epochs=3, limit_val_batches=2, callbacks=[Beat(journal)])
    trainer.fit(BoringModel())
    accounts = [event for event in JournalReader(tmp_path / "j").read() if event["kind"] == TIMING]
    assert 1 <= len(accounts) <= 1 + 3
    assert accounts[0]["phases"].keys() >= {"data", "first step"}
    assert "steps" not in accounts[0]["phases"]
    assert trainer.global_step > 100


def test_in_process_the_phases_are_the_whole_wall_time_and_a_resumed_run_has_two_attempts(home, capsys):
    words = [
        "trainer.max_epochs=2",
        f"+callbacks.fuse={{_target_: tests.fakes.Fuse, mark: {home / 'blown'}, epoch: 1}}",
    ]
    passed = []
    for ends in ("broken", "whole"):
        began = time.monotonic()
        try:
            outcome = asparagus.launch(DIGITS, words)
        except RunError:
            assert ends == "broken"
        passed.append(time.monotonic() - began)
    assert run("show", [str(outcome.run_id), "--timing", "--json"]) == 0
    attempts = json.loads(capsys.readouterr().out)["attempts"]
    assert [(one["attempt"], one["launch"]) for one in attempts] == [(1, 1), (2, 2)]
    for one, seconds in zip(attempts, passed, strict=True):
        assert one["seconds"] == pytest.approx(seconds, rel=0.03, abs=0.1)
        assert sum(phase["share"] for phase in one["phases"].values()) == pytest.approx(1)
        expected = {
            "compose",
            "check",
            "record",
            "data",
            "model",
            "first step",
            "steps",
            "loading",
            "validation",
            "end",
        }
        assert expected <= one["phases"].keys()
    assert "lost" in attempts[0]["phases"]
    assert "lost" not in attempts[1]["phases"]
    assert "checkpoints" in attempts[1]["phases"]
    folder = Path(outcome.folder)
    assert "attempt 2, launch 2" in (folder / "plots" / "timing.html").read_text()
    lines = [event for event in JournalReader(folder / "journal.jsonl").read() if event["kind"] == TIMING]
    assert len(lines) <= 2 * (2 + 1 + 1 + 2)  # of two launches: both ends, the first step, the rest, two epochs
    assert timing_of(RunFolder(folder, "train_cls"), outcome.run_id).is_running is False
