"""launch/up/slurm.sbatch, run for real with stand-ins of Slurm's commands (tests/slurm/) on the path."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from asparagus.record.run_folder import RunFolder, read_state

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "launch" / "up" / "slurm.sbatch"
BIN = Path(sys.executable).parent
JOB = "7"
WITHIN_S = 60.0


@dataclass
class Allocation:
    """A Slurm job: its folder, its environment, and what Slurm was asked for."""

    folder: Path
    env: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            env=self.env,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        said = said_by(process)
        return process.returncode, said

    @property
    def calls(self) -> str:
        file = self.folder / "calls"
        return file.read_text() if file.exists() else ""


def said_by(process: subprocess.Popen[str], timeout: float = WITHIN_S) -> str:
    """Return what a job said until it had ended, with all that it started."""
    said, _ = process.communicate(timeout=timeout)
    end = time.monotonic() + 5  # what was killed may have had something small under way
    while subprocess.run(["pgrep", "-g", str(process.pid)], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        assert time.monotonic() < end, subprocess.run(["ps", "-eo", "pgid,args"], capture_output=True, check=False)
        time.sleep(0.1)
    return said


def allocation(folder: Path, *, nodes: str = "first,second") -> Allocation:
    folder.mkdir(exist_ok=True)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    slurm = {
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_JOB_NUM_NODES": str(nodes.count(",") + 1),
        "SLURM_CPUS_PER_TASK": "1",
        "FAKE_SLURM": str(folder),
        "ASPARAGUS_JOBS": str(folder / "jobs"),
        "PATH": f"{folder / 'bin'}:{ROOT / 'tests' / 'slurm'}:{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return Allocation(folder, {**ours, **slurm})


PYTHON = f"""#!/bin/bash
if [[ $1 == -m ]]; then  # asparagus.driver.nodes wait NODES SECONDS
    [[ -n ${{FAKE_NEVER:-}} ]] && exit 1
    until [[ $(grep -c '^ray start' "$FAKE_SLURM/calls") == "$4" ]]; do sleep 0.05; done
    exit 0
fi
exec {sys.executable} "$@"
"""
RAY = """#!/bin/bash
token="$(wc -c < "$RAY_AUTH_TOKEN_PATH") $(stat -c %a "$RAY_AUTH_TOKEN_PATH")"
echo "ray $* mode=$RAY_AUTH_MODE token=$token" >> "$FAKE_SLURM/calls"
[[ $1 == start ]] && exec sleep 300
exit 0
"""
LAUNCH = """#!/bin/bash
trap 'echo "leaving" >> "$FAKE_SLURM/calls"; exit 130' TERM
echo "asp-launch $* at $RAY_ADDRESS" >> "$FAKE_SLURM/calls"
env > "$FAKE_SLURM/env"
if [[ -n ${FAKE_LONG:-} ]]; then for ((i = 0; i < 600; i++)); do sleep 0.1; done; fi
exit "${FAKE_STATUS:-0}"
"""


@pytest.fixture
def job(tmp_path) -> Allocation:
    """An allocation in which Ray and asp-launch are stand-ins, too: what the script itself does."""
    (tmp_path / "bin").mkdir()
    for name, text in {"python": PYTHON, "ray": RAY, "asp-launch": LAUNCH}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return allocation(tmp_path)


def started(job: Allocation, *words: str) -> subprocess.Popen[str]:
    """Start a job whose run takes long; returns when the run has begun."""
    job.env["FAKE_LONG"] = "1"
    process = job.start(*words)
    end = time.monotonic() + WITHIN_S
    while not (job.folder / "env").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def test_head_and_workers_are_started_the_run_is_launched_and_all_ends(job):
    status, said = job.run("experiment/digits", "resources.workers=2")
    assert status == 0, said
    head, worker, launch = (
        next(line for line in job.calls.splitlines() if re.search(mark, line))
        for mark in (r"^ray start --head", r"^ray start --address", r"^asp-launch")
    )
    address = re.search(r"--node-ip-address=(\S+) --port=(\d+)", head)
    assert address
    assert not address[1].startswith("127.")
    assert "0.0.0.0" not in job.calls
    assert f"--address={address[1]}:{address[2]} " in worker
    assert launch == f"asp-launch experiment/digits resources.workers=2 site=slurm at {address[1]}:{address[2]}"
    assert "requeue" not in job.calls
    assert "sbatch" not in job.calls


def test_every_ray_has_the_token_of_this_job_from_a_file_of_ones_own_and_it_goes_with_the_job(job):
    assert job.run("experiment/digits")[0] == 0
    starts = [line for line in job.calls.splitlines() if line.startswith("ray start")]
    assert len(starts) == 2
    assert all(line.endswith("mode=token token=64 600") for line in starts)
    assert all("--include-dashboard=false" in line for line in starts if "--head" in line)
    assert not (job.folder / "jobs" / JOB).exists()
    assert "RAY_AUTH_TOKEN=" not in (job.folder / "env").read_text()


@pytest.mark.parametrize("status", [2, 3])
def test_an_error_ends_the_job_with_its_status_and_is_not_queued_again(job, status):
    job.env["FAKE_STATUS"] = str(status)
    assert job.run("experiment/digits")[0] == status
    assert "requeue" not in job.calls


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_near_the_limit_or_preempted_the_run_is_asked_to_leave_and_the_job_queued_again(job, number):
    process = started(job, "experiment/digits")
    process.send_signal(number)
    said = said_by(process)
    assert "leaving" in job.calls
    assert f"scontrol requeue {JOB}" in job.calls, said
    assert "sbatch" not in job.calls


def test_where_a_job_may_not_be_requeued_a_new_one_waits_for_its_end(job):
    job.env["FAKE_REQUEUE_STATUS"] = "1"
    process = started(job, "experiment/digits", "optim.lr=0.1")
    process.send_signal(signal.SIGUSR1)
    said_by(process)
    assert f"sbatch --dependency=afterany:{JOB} --nodes=2 {SCRIPT} experiment/digits optim.lr=0.1" in job.calls


def test_a_cancelled_job_is_not_queued_again(job):
    job.env["FAKE_STATE"] = "CANCELLED"
    process = started(job, "experiment/digits")
    process.send_signal(signal.SIGTERM)
    said_by(process)
    assert "requeue" not in job.calls
    assert "sbatch" not in job.calls


def test_a_job_is_not_queued_again_for_ever(job):
    job.env |= {"SLURM_RESTART_COUNT": "4", "ASPARAGUS_MAX_RESTARTS": "4"}
    process = started(job, "experiment/digits")
    process.send_signal(signal.SIGUSR1)
    said = said_by(process)
    assert process.returncode == 3
    assert "ASPARAGUS_MAX_RESTARTS" in said
    assert "requeue" not in job.calls


def test_a_run_that_does_not_leave_is_killed_and_queued_again(job):
    (job.folder / "bin" / "asp-launch").write_text(LAUNCH.replace("exit 130", "true"))
    job.env["ASPARAGUS_LEAVE_S"] = "1"
    process = started(job, "experiment/digits")
    process.send_signal(signal.SIGUSR1)
    said = said_by(process)
    assert "is killed" in said
    assert f"scontrol requeue {JOB}" in job.calls


def test_nodes_that_do_not_come_end_the_job_with_what_ray_said(job):
    job.env["FAKE_NEVER"] = "1"
    status, said = job.run("experiment/digits")
    assert status == 3
    assert "did not come up on all nodes" in said
    assert "asp-launch" not in job.calls


@pytest.mark.parametrize(
    ("words", "left_out", "told"), [((), "", "what is to run?"), (("x",), "SLURM_JOB_ID", "no Slurm job")]
)
def test_a_wrong_start_is_told_in_a_line(job, words, left_out, told):
    job.env.pop(left_out, None)
    status, said = job.run(*words)
    assert status == 2
    assert told in said
    assert not job.calls


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_on_two_nodes_leaves_at_the_limit_and_goes_on_in_the_next_job(home, tmp_path):
    job = allocation(tmp_path / "slurm")
    job.env |= {"ASPARAGUS_HOME": str(home), "ASPARAGUS_DATA": os.environ["ASPARAGUS_DATA"]}
    words = ["experiment/digits", "resources.workers=2", "trainer.max_epochs=60", "data.num_workers=0", "--json"]
    first = job.start(*words)
    folder = _first_checkpoint(home, first)
    first.send_signal(signal.SIGUSR1)
    said = said_by(first, 180)
    assert f"scontrol requeue {JOB}" in job.calls, said
    before = read_state(folder)
    assert before["state"] != "finished"
    steps = sorted(int(path.name.partition("step=")[2]) for path in folder.checkpoints.glob("epoch=*"))

    job.env["SLURM_RESTART_COUNT"] = "1"
    second = job.start(*words)
    said = said_by(second, 400)
    assert second.returncode == 0, said
    outcome = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
    assert (outcome["run_id"], outcome["state"]) == (before["run_id"], "finished")
    log = folder.log.read_text()
    assert f"step={steps[-1]}" in said + log
    assert not (job.folder / "jobs" / JOB).exists()


def _first_checkpoint(home: Path, process: subprocess.Popen[str]) -> RunFolder:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        if found := list(home.glob("models/*/*/run_id=*/checkpoints/epoch=*/checkpoint.json")):
            path = found[0].parent.parent.parent
            return RunFolder(path, path.parent.name)
        time.sleep(0.2)
    raise TimeoutError(home)
