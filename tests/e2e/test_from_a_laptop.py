"""A laptop and a cluster: submit, follow, leave, come back from another laptop, stop, go on, finetune."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from asparagus.journal import JournalReader
from tests.cluster import Head, head
from tests.conftest import ASP
from tests.laptop import URL, Laptop, can_have_one, laptop

ROOT = Path(__file__).parents[2]
SECRET = "correct-horse-battery-staple"
RUN = "models/Task001_Digits/train_cls/run_id={}"
GUARD = f"""
import os
import pytorch_lightning as pl


class Guard(pl.Callback):
    def __init__(self, key):
        assert key == "{SECRET[:7]}" + "{SECRET[7:]}", key

    def on_train_start(self, trainer, module):
        open(os.path.join(trainer.default_root_dir, "seen.txt"), "w").write(os.environ["PLAIN"])
"""
SLOW = "+callbacks.slow={_target_: tests.fakes.Slow, seconds: 0.1}"
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Client:
    """A directory in which somebody types commands."""

    home: Path
    address: str
    machine: Laptop | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command, options = self._command(words)
        return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, **options)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command, options = self._command(words)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, start_new_session=True, **pipes, **options)

    def _command(self, words):
        self.home.mkdir(exist_ok=True)
        command = [str(ASP / words[0]), *words[1:]]
        named = {"ASPARAGUS_HOME": str(self.home / "asparagus"), "PYTHONPATH": str(ROOT)}
        own = {**os.environ, **named, "RAY_API_SERVER_ADDRESS": self.address, **self.variables}
        inside = self.machine.command(command) if self.machine else command
        return inside, {"cwd": self.home, "env": own}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, data_root) -> Iterator[Head]:
    """A cluster whose environment says where its folders are."""
    environment = {"ASPARAGUS_DATA": str(data_root), "PYTHONPATH": str(ROOT)}
    with head(tmp_path_factory.mktemp("cluster"), environment=environment) as found:
        yield found


@pytest.fixture
def client(tmp_path, cluster) -> Client:
    return Client(tmp_path / "laptop", cluster.url)


def last(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def files_with(text: str, *folders: Path) -> list[str]:
    """Return the files that hold a text, packed ones included."""
    found = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    found = [file for file in found if file.parent.name != "__pycache__"]  # of the test's own code, which knows it
    return [str(file) for file in found if text.encode() in file.read_bytes()]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.3)


def epochs(folder: Path) -> int:
    return sum(event["kind"] == "epoch" for event in JournalReader(folder / "journal.jsonl").read())


def test_a_submitted_run_is_followed_to_its_end_and_its_values_are_nobody_elses(cluster, client):
    client.home.mkdir()
    (client.home / "lab_submit.py").write_text(GUARD)
    (client.home / ".env").write_text(f"LAB_API_KEY={SECRET}\nPLAIN=as it is\n")
    guard = "+callbacks.guard={_target_: lab_submit.Guard, key: '${secret:LAB_API_KEY}'}"
    done = client.run("asp-launch", "experiment/digits", "trainer.max_epochs=2", guard, "--submit", "--json")
    outcome = last(done)
    folder = Path(outcome["folder"])
    assert (outcome["state"], folder) == ("finished", cluster.home / RUN.format(outcome["run_id"]))
    assert outcome["metrics"]["val/accuracy"] > 0.5
    assert re.search(r"^epoch   2  step     46  val/accuracy", done.stderr, re.MULTILINE)
    assert (folder / "seen.txt").read_text() == "as it is"  # on the worker
    assert json.loads((folder / "record.json").read_text())["command"][:2] == ["asp-launch", "experiment/digits"]
    assert not (client.home / "asparagus" / "models").exists()

    session = Path("/tmp/ray") / cluster.asked("/api/version")["session_name"]
    assert files_with(SECRET, session, cluster.home) == []
    assert files_with("lab_submit.Guard", session, cluster.home)  # where it would be found
    assert SECRET not in json.dumps(cluster.asked("/api/jobs/")) + done.stdout + done.stderr

    (job,) = [job for job in listed_by(client) if outcome["run_id"] in job["runs"]]
    assert (job["experiment"], job["exit_status"], job["folder"]) == ("experiment/digits", 0, str(folder))
    assert job["job_id"] in done.stderr


def test_a_run_on_this_machine_is_stopped_by_its_number_and_goes_on(home, asp, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = [str(ASP / "asp-launch"), "experiment/digits", SLOW]
    process = subprocess.Popen(words, cwd=home, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: epochs(home / RUN.format(1)) >= 1, "no epoch")
    assert asp("asp", "stop", "1").returncode == 0
    assert process.wait(timeout=60) == 130
    assert json.loads((home / RUN.format(1) / "run.json").read_text())["state"] == "interrupted"
    assert "interrupted" in process.stderr.read()
    assert "epoch   1" in asp("asp", "logs", "1").stdout or (home / RUN.format(1) / "train_cls.log").is_file()
    missing = asp("asp", "logs", "1", "--rank", "3", "--attempt", "2")
    assert missing.returncode == 2
    assert "there is no such log" in missing.stderr


@pytest.fixture(params=["two_directories", "two_machines"])
def clients(request, tmp_path, cluster) -> Iterator[tuple[Client, Client]]:
    """Two people's laptops: directories, or machines that reach nothing but the port of the cluster's dashboard."""
    names = ("first", "second")
    if request.param == "two_directories":
        yield tuple(Client(tmp_path / name, cluster.url) for name in names)
        return
    if not can_have_one():
        pytest.skip("network namespaces need root")
    hidden = [cluster.home, Path("/tmp/ray")]
    with ExitStack() as stack:
        machines = [stack.enter_context(laptop(tmp_path / name, cluster.port, hidden=hidden)) for name in names]
        yield tuple(Client(machine.home, URL, machine) for machine in machines)


@pytest.mark.slow
def test_a_job_is_left_found_again_stopped_gone_on_with_and_built_upon_from_two_laptops(cluster, clients):
    first, second = clients
    seed = 41 if first.machine else 42
    words = ("asp-launch", "experiment/digits", SLOW, "trainer.max_epochs=12", f"seed={seed}", "--submit", "--json")
    process = first.start(*words)
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("epoch   2"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(timeout=30) == 130
    rest = process.stderr.read()
    job_id = re.search(r"asp-\d{8}-\d{6}-\w+", "".join(said))[0]
    run_id = int(re.search(r"###RUN-ID=(\d+)###", "".join(said))[1])
    assert f"job {job_id} goes on" in rest
    assert f"asp logs {job_id} -f --address {first.address}" in rest

    folder = cluster.home / RUN.format(run_id)
    before = epochs(folder)
    wait_for(lambda: epochs(folder) > before, "it ended with the one who followed it")
    (listed,) = [job for job in listed_by(second) if job["job_id"] == job_id]
    assert (listed["status"], listed["runs"]) == ("RUNNING", [run_id])

    follower = second.start("asp", "logs", str(run_id), "-f")
    assert any(line.startswith("epoch   2") for line in follower.stdout)  # what was said before, too
    stopped = second.run("asp", "stop", str(run_id))
    assert stopped.returncode == 0, stopped.stderr
    assert follower.wait(timeout=60) == 130
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    again = second.run("asp", "stop", job_id)
    assert (again.returncode, "is over already: stopped" in again.stderr) == (0, True)

    ended = first.run(*words)
    assert last(ended)["run_id"] == run_id
    assert last(ended)["state"] == "finished"
    starts = [event["epoch"] for event in JournalReader(folder / "journal.jsonl").read() if event["kind"] == "start"]
    assert len(starts) == 2
    assert starts[1] >= 2

    settings = ("task=Task001_Digits", "model=mlp", "data=images", f"init_from=run:{run_id}/last")
    child = last(second.run("asp-launch", "finetune_cls", *settings, "trainer.max_epochs=1", "--submit", "--json"))
    assert child["init_from"]["run_id"] == run_id
    assert f"{child['run_id']}, " in (folder / "derived_models.log").read_text()


def listed_by(client: Client) -> list[dict]:
    return json.loads(client.run("asp", "runs", "--jobs", "--json").stdout)


@pytest.mark.slow
def test_rays_own_command_does_the_same(cluster, client):
    words = ("experiment/digits", "trainer.max_epochs=2", "seed=5")
    ours = last(client.run("asp-launch", *words, "--submit", "--json"))
    command = ("ray", "job", "submit", "--working-dir", ".", "--", "asp-launch", *words, "run.resume=false", "--json")
    plain = client.run(*command)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    theirs = next(json.loads(line) for line in plain.stdout.splitlines() if line.startswith('{"run_id"'))
    assert theirs["run_id"] > ours["run_id"]
    assert theirs["metrics"] == ours["metrics"]
    assert Path(theirs["folder"]).parent == Path(ours["folder"]).parent
    assert theirs["run_id"] in {run for job in listed_by(client) for run in job["runs"]}


@pytest.mark.slow
def test_what_only_the_cluster_can_see_is_wrong_before_anything_is_trained(cluster, client):
    done = client.run("asp-launch", "train_cls", "task=Task777_Nowhere", "--submit")
    assert done.returncode == 2
    assert "Task777_Nowhere" in done.stderr
    done = client.run("asp-launch", "experiment/digits", "+callbacks.boom={_target_: tests.fakes.Boom}", "--submit")
    assert done.returncode == 3, done.stderr
    assert "failed: ValueError: boom" in done.stderr
    nobody = client.run("asp", "logs", "asp-20200101-000000-abcdef")
    assert nobody.returncode == 2
    assert "there is none of that name" in nobody.stderr


@pytest.mark.slow
def test_sweeps_and_pipelines_are_submitted_with_configs_that_only_the_laptop_has(cluster, client):
    own = client.home / "own"
    (own / "experiment").mkdir(parents=True)
    (client.home / ".gitignore").write_text("own/\n")
    (own / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [/experiment/digits, _self_]\ntrainer: {max_epochs: 1}\nseed: 77\n"
    )
    (own / "experiment" / "chain.yaml").write_text(
        "# @package _global_\npipeline:\n  one: {config: experiment/mine}\n"
        "  two:\n    config: finetune_cls\n"
        "    overrides: {task: Task001_Digits, model: mlp, data: images, trainer.max_epochs: 1}\n"
    )
    words = ("-cd", "own", "--submit", "--json")
    swept = last(client.run("asp-launch", "experiment/mine", "-m", "optim.lr=1e-3,1e-2", *words))
    assert sorted(trial["params"]["optim.lr"] for trial in swept["trials"]) == [1e-3, 1e-2]
    chained = last(client.run("asp-launch", "experiment/chain", *words))
    assert list(chained["stages"]) == ["one", "two"]
    assert chained["init_from"]["run_id"] == chained["stages"]["one"]["run_id"]


@pytest.mark.slow
def test_the_log_of_one_worker_is_fetched_from_the_cluster(cluster, client):
    outcome = last(
        client.run("asp-launch", "experiment/digits", "trainer.max_epochs=1", "seed=6", "--submit", "--json")
    )
    file = Path(outcome["folder"]) / "logs/attempt=7/rank=0.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("said by rank 0\n")
    shown = client.run("asp", "logs", str(outcome["run_id"]), "--rank", "0", "--attempt", "7")
    assert (shown.returncode, shown.stdout) == (0, "said by rank 0\n"), shown.stderr
    newest = client.run("asp", "logs", str(outcome["run_id"]), "--rank", "0")
    assert newest.stdout == "said by rank 0\n"
    nothing = client.run("asp", "logs", str(outcome["run_id"]), "--rank", "9")
    assert nothing.returncode == 2
    assert "has no log of rank 9 of any attempt" in nothing.stderr
    assert "asp-look" not in json.dumps(cluster.asked("/api/jobs/"))


@pytest.mark.slow
def test_a_cluster_with_a_token_lets_in_who_has_it(tmp_path, data_root):
    environment = {"ASPARAGUS_DATA": str(data_root), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    words = ("asp-launch", "experiment/digits", "trainer.max_epochs=1", "--submit", "--json")
    lonely = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    with head(tmp_path / "cluster", environment=environment) as guarded:
        nobody = Client(tmp_path / "laptop", guarded.url, variables={**lonely, "RAY_AUTH_MODE": "disabled"}).run(*words)
        stale = Client(tmp_path / "laptop", guarded.url, variables={**lonely, "RAY_AUTH_TOKEN": "b" * 64}).run(*words)
        known = Client(tmp_path / "laptop", guarded.url, variables={**lonely, "RAY_AUTH_TOKEN": "a" * 64}).run(*words)
    assert nobody.returncode == 2
    assert "lets nobody in without its token" in nobody.stderr
    assert stale.returncode == 2
    assert "does not take the token" in stale.stderr
    assert last(known)["state"] == "finished"


@pytest.mark.slow
def test_values_that_nobody_fetches_are_gone_after_a_while(tmp_path):
    from asparagus.submit.cargo import sealed_name
    from asparagus.submit.jobs import Cluster

    short = {"RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": "3"}  # else ten minutes
    with head(tmp_path / "cluster", environment=short) as found:
        cluster, name = Cluster(found.url), sealed_name()
        cluster.leave(name, {"LAB_API_KEY": SECRET})
        store = "import os; from ray._raylet import GcsClient; store = GcsClient(address=os.environ['RAY_ADDRESS'])"
        ask = f"print(store.internal_kv_get(b'gcs://{name}', namespace=None) and 'there' or 'gone')"
        numbers = itertools.count()

        def seen() -> str:
            lines: list[str] = []
            number = next(numbers)
            cluster.look(f'{sys.executable} -c "{store}; {ask}"', f"look-{number}")
            cluster.follow(f"look-{number}", lines.append)
            return lines[-1]

        wait_for(lambda: seen() == "gone", "it stays", 90)
