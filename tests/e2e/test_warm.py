"""A local Ray that stays up between launches: shared, replaced when it is dead, and gone in time."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from asparagus.cli.main import run
from asparagus.doctor import look_around, services
from asparagus.driver.warm import Head, Place, end, in_use, shared, standing
from asparagus.driver.warm_head import IDLE
from asparagus.errors import PlanError
from asparagus.spec import Site

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]

WARM = Site("local-warm", cpus_per_node=1, gpus_per_node=0, idle_minutes=30)
WITHIN_S = 120.0


@pytest.fixture
def place(home) -> Iterator[Place]:
    """Where it lies in this test's home; what is left of it is ended."""
    yield Place.of()
    end()


def use(site: Site) -> Head | None:
    with shared(site) as head:
        return head


def family(head: Head) -> list[psutil.Process]:
    keeper = psutil.Process(head.process)
    return [keeper, *keeper.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=WITHIN_S)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def listening(processes: list[psutil.Process]) -> set[str]:
    found = [row for process in processes for row in process.net_connections(kind="inet") if row.status == "LISTEN"]
    return {row.laddr.ip.removeprefix("::ffff:") for row in found}


def ready(head: Head) -> list[int]:
    """Wait for a worker process that waits for a launch, and has imported torch; return all there are."""
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        idle = [process for process in family(head) if process.cmdline()[:1] == [IDLE]]
        if idle and all("libtorch" in Path(f"/proc/{process.pid}/maps").read_text() for process in idle):
            return [process.pid for process in idle]
        time.sleep(0.2)
    raise AssertionError("no worker process was made ready")


def test_launches_share_one_until_it_is_killed_or_ended(place, capsys):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(use, [WARM, WARM])
    assert first == second == standing(place), "two at once start one"
    with shared(WARM) as again:
        assert again == first
        assert in_use(place)
        with shared(dataclasses.replace(WARM, cpus_per_node=2)) as other:
            assert other is None, "one that does not fit is not taken from others"
        assert run("stop", ["--ray"]) == 2
        assert "in use by a launch" in capsys.readouterr().err
    assert listening(family(first)) == {"127.0.0.1"}
    assert (place.path.stat().st_mode & 0o777, place.token.stat().st_mode & 0o777) == (0o700, 0o600)
    told = [finding for finding in services.ray(look_around()) if finding.what == "local ray"]
    assert f"process {first.process}" in told[0].found

    before = family(first)
    os.kill(first.process, signal.SIGKILL)
    assert gone(before), "Ray goes with the process that keeps it up"
    third = use(WARM)
    assert third is not None
    assert third.process != first.process
    before = family(third)
    assert run("stop", ["--ray"]) == 0
    assert standing(place) is None
    assert gone(before)


def test_it_is_ended_when_it_does_not_start_and_that_is_said_in_one_line(place, monkeypatch, capsys):
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(PlanError, match=r"site=local-warm: its Ray did not start: .*ray.log.*site=local\."):
        use(WARM)
    assert standing(place) is None
    assert run("stop", ["--ray"]) == 0
    assert "no Ray of site=local-warm is up" in capsys.readouterr().err


@pytest.mark.slow
def test_one_that_nobody_uses_ends_by_itself_and_one_that_does_not_answer_is_replaced(place):
    first = use(WARM)
    assert first is not None
    store = next(process for process in family(first) if process.name() == "gcs_server")
    store.suspend()
    second = use(dataclasses.replace(WARM, idle_minutes=0.05))
    assert second is not None
    assert second.process != first.process
    assert gone(family(second))
    assert standing(place) is None


@pytest.mark.slow
def test_the_second_launch_finds_ray_and_a_worker_process_ready(place, asp, monkeypatch):
    words = ("experiment/digits", "run.resume=false", "resources=one_worker", "site=local-warm", "trainer.max_epochs=1")
    monkeypatch.setenv("OF_THIS_LAUNCH", "first")
    done = asp("asp-launch", *words)
    assert done.returncode == 0, done.stderr
    assert "Ray stays up until 30 min after the last launch; asp stop --ray ends it" in done.stderr
    first = standing(place)
    assert first is not None
    waiting = ready(first)
    assert len(waiting) == 1

    own = place.path.parent.parent / "own_callback.py"
    own.write_text(
        "import os\nimport pytorch_lightning as pl\n\n\nclass Tell(pl.Callback):\n"
        "    def on_fit_end(self, trainer, pl_module):\n"
        "        print('told', os.getpid(), os.environ['OF_THIS_LAUNCH'], os.environ['OMP_NUM_THREADS'])\n"
    )
    monkeypatch.setenv("OF_THIS_LAUNCH", "second")
    done = asp("asp-launch", *words, "+callbacks.tell._target_=own_callback.Tell", "--json")
    assert done.returncode == 0, done.stderr
    assert standing(place) == first
    log = next(place.path.parent.parent.glob("models/*/*/run_id=2/train_cls.log")).read_text()
    assert f"told {waiting[0]} second 1" in log, "the process that was ready, with the code and the environment of now"
