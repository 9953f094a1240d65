"""A process that is a rank: what it says lands in its log, whatever says it; and one that is stopped is looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from mlflow.entities import Metric, RunData

from asparagus.attempts import log_of, stack_of, system_of
from asparagus.driver.watch import end_silent, wish
from asparagus.record.system_metrics import SystemReader, reached

TALKS = """
import logging, os, sys
from asparagus.worker import here
here.HERE.secrets = {"API_KEY"}
logging.getLogger().addHandler(logging.StreamHandler())
here.begin(sys.argv[1], 3, 7)
print("printed", os.environ["API_KEY"])
sys.stderr.write("to standard error\\n")
os.write(2, b"from below Python\\n")
os.system("echo from a child")
logging.getLogger().warning("logged")
here.dump_stacks(sys.argv[2])
os.kill(os.getpid(), {signal})
print("still here, to leave because of", here.HERE.leave)
"""


def talk(folder, number) -> subprocess.CompletedProcess[str]:
    code = TALKS.replace("{signal}", str(int(number)))
    environment = {**os.environ, "API_KEY": "hunter22hunter"}
    command = [sys.executable, "-c", code, str(folder), str(stack_of(folder, 3, 7))]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_all_that_a_rank_says_is_in_its_log_and_no_secret(tmp_path):
    done = talk(tmp_path, signal.SIGTERM)
    assert (done.stdout, done.stderr) == ("", "")
    said = log_of(tmp_path, 3, 7).read_text()
    for line in ("printed ***", "to standard error", "from below Python", "from a child"):
        assert line in said
    assert "hunter22hunter" not in said
    assert "still here, to leave because of a SIGTERM to rank 7" in said
    assert "most recent call first" in stack_of(tmp_path, 3, 7).read_text()


def test_a_rank_that_crashes_leaves_its_stack_in_its_log(tmp_path):
    done = talk(tmp_path, signal.SIGSEGV)
    assert done.returncode == -signal.SIGSEGV
    said = log_of(tmp_path, 3, 7).read_text()
    assert "Fatal Python error: Segmentation fault" in said
    assert "still here" not in said


def test_a_stopped_process_is_described_and_ended(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # the signal has arrived: a busy machine takes its time
    end_silent(process.pid, str(tmp_path / "stack.txt"))
    assert process.wait(timeout=10) in (-signal.SIGKILL, -signal.SIGUSR2)
    told = (tmp_path / "stack.txt").read_text()
    assert f"process {process.pid} did not answer" in told
    assert "State:\tT (stopped)" in told


def test_somebody_who_wishes_a_run_to_leave_is_heard(tmp_path):
    assert wish(tmp_path) == ""
    (tmp_path / "leave").write_text("asp stop\n")
    assert wish(tmp_path) == "asp stop"
    (tmp_path / "leave").write_text("")
    assert wish(tmp_path)


def measured(folder, attempt, node, *lines) -> None:
    path = system_of(folder, attempt, node or 0)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        for when, value in lines:
            told = {"time": when, "node": node, "values": {"cpu_utilization_percentage": value}}
            file.write(json.dumps(told) + "\n")


def test_what_nodes_were_busy_with_is_told_once_by_seconds_since_the_start(tmp_path):
    measured(tmp_path, 1, None, (1010.0, 50.0), (1020.5, 60.0))
    reader = SystemReader(tmp_path, started=1000.0)
    assert [(one.key, one.value, one.step) for one in reader.read()] == [
        ("system/cpu_utilization_percentage", 50.0, 10),
        ("system/cpu_utilization_percentage", 60.0, 20),
    ]
    with system_of(tmp_path, 1, 0).open("a") as file:
        file.write('{"time": 1030, "no')  # a worker was killed in the middle of a line
    assert reader.read() == []
    measured(tmp_path, 2, 1, (1040.0, 70.0))
    assert [(one.key, one.step) for one in reader.read()] == [("system/node_1/cpu_utilization_percentage", 40)]


def test_a_run_that_goes_on_tells_only_what_its_store_has_not(tmp_path):
    measured(tmp_path, 1, None, (1010.0, 50.0), (1020.0, 60.0))
    known = [Metric("system/cpu_utilization_percentage", 50.0, 1010000, 10), Metric("train/loss", 1.0, 1, 400)]
    known = RunData(metrics=known)
    assert reached(known) == 10
    assert [one.step for one in SystemReader(tmp_path, 1000.0, reached(known)).read()] == [20]
