"""A disk that is full, for real: a file size limit in a child process, and a file system of a few megabytes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import STATE, WRITING, digest_of, manifests, name_of, newest_whole
from asparagus.checkpoint.full_disk import full_disk, is_full
from asparagus.journal import JournalReader
from tests.conftest import ASP

LIMITED = """
import resource, signal, sys
from pathlib import Path

from asparagus.api import plan_of
from asparagus.errors import RunError
from asparagus.spec import Assignment
from asparagus.worker.ranks import InProcess
from asparagus.worker.work import work

folder, tight = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write then fails with EFBIG, as it does with ENOSPC on a full disk


class Limited(InProcess):
    def commit(self, checkpoint, metrics):
        path = {"checkpoint": checkpoint / "checkpoint.ckpt", "journal": folder / "journal.jsonl"}.get(tight)
        if path is not None:
            room = path.stat().st_size + (-1000 if tight == "checkpoint" else 10)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))


plan = plan_of("experiment/digits", ["trainer.max_epochs=3", "trainer.log_every_n_steps=1"])
try:
    print(work(Assignment(plan.spec, 7, str(folder)), Limited())["epoch"])
except RunError as error:
    print(f"error: {error}")
"""
IN_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=4m tmpfs "$ASPARAGUS_HOME/models"
dd if=/dev/zero of="$ASPARAGUS_HOME/models/ballast" bs=1k count=$1 status=none
set +e
{launch}; echo "status $?"
find "$ASPARAGUS_HOME/models" -name '.writing-*'
rm "$ASPARAGUS_HOME/models/ballast"
{launch}; echo "status $?"
"""


def test_what_is_full_is_recognised_wherever_it_was_raised_from():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert is_full(OSError(number, "x"))
    wrapped = RuntimeError("basic_ios::clear")
    wrapped.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_full(wrapped)
    assert is_full(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1856 vs 1814"))
    assert not is_full(OSError(errno.EACCES, "x"))
    assert not is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_full(None)


def test_torchs_own_words_for_it_are_known(tmp_path):
    """What `torch.save` raises for a path, in the version that is installed; it has no number."""
    code = (
        "import resource, signal, sys, torch; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from asparagus.checkpoint.full_disk import is_full\n"
        "try: torch.save(torch.zeros(9999), sys.argv[1])\n"
        "except Exception as error: print(is_full(error))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "has no more room for you: your quota there is used up"),
        (errno.EFBIG, "takes no file of that size"),
    ],
)
def test_the_error_says_which_disk_what_is_kept_and_what_to_do(tmp_path, number, why):
    said = str(full_disk(OSError(number, "x"), tmp_path, 7))
    assert said.startswith(f"run 7 stopped: the disk of {tmp_path} {why}")
    assert "B free)" in said or "B free; " in said
    assert "No checkpoint was written yet." in said
    assert "Free some room (asp gc shows what can go) and run the same command again: it begins again." in said


def limited(folder: Path, tight: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), tight], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Logging error" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("tight", ["checkpoint", "journal"])
def test_a_file_that_does_not_fit_ends_the_run_cleanly_and_the_same_command_goes_on(home, tight):
    folder = home / "run"
    folder.mkdir()
    said = limited(folder, tight)
    checkpoints = folder / "checkpoints"
    first = checkpoints / name_of(0, 23)
    assert said.startswith(f"error: run 7 stopped: the disk of {folder} takes no file of that size")
    assert "Kept, and whole: epoch=0-step=23." in said
    assert f"run the same command again: it goes on from {first}." in said
    assert newest_whole(checkpoints) == first
    assert list(checkpoints.glob(f"{WRITING}*")) == []
    before = digest_of(first / STATE)

    assert limited(folder, "nothing").strip() == "3"
    assert digest_of(first / STATE) == before if first.exists() else True
    events = JournalReader(folder / "journal.jsonl").read()
    assert [event["epoch"] for event in events if event["kind"] == "start"] == [0, 1]
    assert manifests(checkpoints)[-1].epoch == 2


def may_mount(folder: Path) -> bool:
    try:
        done = subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("ballast", "kept"), [(3660, "Kept, and whole: epoch=0-step=23."), (4052, "No checkpoint was written yet.")]
)
def test_a_full_disk_ends_the_run_cleanly_and_the_same_command_goes_on(home, ballast, kept):
    """With room for one checkpoint, and with so little that not even how it ended can be written."""
    (home / "models").mkdir()
    if not may_mount(home / "models"):
        pytest.skip("this process may not mount a file system of its own")
    launch = f"{ASP}/asp-launch experiment/digits trainer.max_epochs=3 --json"
    script = IN_A_SMALL_DISK.format(launch=launch)
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script, "bash", str(ballast)],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "ASPARAGUS_HOME": str(home)},
        check=False,
    )
    assert "status 3\n" in done.stdout, done.stderr
    assert WRITING not in done.stdout
    assert "run 1 stopped: the disk of" in done.stderr
    assert "is full" in done.stderr
    assert kept in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.endswith("status 0\n"), done.stderr
    outcome = json.loads(done.stdout.splitlines()[-2])
    assert (outcome["run_id"], outcome["state"]) == (1, "finished")
    assert ("going on at epoch 1" in done.stderr) == ("epoch=0" in kept)
