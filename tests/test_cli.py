"""The commands as a user meets them: help, exit statuses, plans without traces, and how long they take."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from asparagus.cli.launch import plan_request
from asparagus.cli.main import COMMANDS
from asparagus.compose import Request
from asparagus.plan import Plan
from tests.counts import within
from tests.helpers import PLAIN_HYDRA, side_by_side

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
DIGITS = "experiment/digits"
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = ["torch", "ray", "mlflow", "pytorch_lightning", "monai", "sklearn"]

# Runs a command in this process, and says on the last line which of HEAVY it has imported, and how much.
WATCHED = """
import json, sys
before = set(sys.modules)
from asparagus.cli.main import run
try:
    status = run(sys.argv[1], sys.argv[2:])
except SystemExit as end:
    status = end.code
loaded = {name.partition(".")[0] for name in sys.modules}
modules = len(set(sys.modules) - before)
print(json.dumps({"status": status, "heavy": sorted(loaded & set(HEAVY)), "modules": modules}))
""".replace("HEAVY", repr(HEAVY))

HELP_S, HELP_RATIO = 0.25, 8
DRY_RUN_S, DRY_RUN_RATIO = 0.8, 6


def everything_under(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_help_lists_every_command(asp):
    done = asp("asp", "--help")
    assert done.returncode == 0
    listed = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed.keys() == COMMANDS.keys()
    assert all(about in listed[name] for name, (_, about) in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, asp):
    done = asp("asp", name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: asp" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_also_installed_under_its_own_name(name):
    assert f"asp-{name}" in SCRIPTS, "asp --help says that it is"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_console_script_is_installed_and_has_help(script, asp):
    done = asp(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: asp" in done.stdout


@pytest.mark.parametrize("stage", ["pretrain", "train_seg", "train_cls", "finetune_seg", "linear_probe"])
def test_an_alias_is_launch_with_that_config(stage, asp):
    alias = asp(f"asp_{stage}", "--cfg", "job", "seed=7")
    assert alias.returncode == 0, alias.stderr
    assert alias.stdout == asp("asp-launch", stage, "--cfg", "job", "seed=7").stdout
    assert yaml.safe_load(alias.stdout)["stage"] == stage


@pytest.mark.parametrize(("typed", "hint"), [("nonsense", "Known: "), ("luanch", "Did you mean 'launch'?")])
def test_an_unknown_command_ends_with_2_and_a_hint(typed, hint, asp):
    done = asp("asp", typed)
    assert (done.returncode, done.stdout) == (2, "")
    assert repr(typed) in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_is_one_message_on_standard_error(asp):
    done = asp("asp-launch", DIGITS, "optim.lrr=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: optim.lrr")
    assert "Traceback" not in done.stderr


def test_cfg_prints_the_config_as_yaml_and_creates_nothing(asp, home):
    before = everything_under(home)
    done = asp("asp-launch", "--cfg", "job", DIGITS)
    assert (done.returncode, done.stderr) == (0, "")
    config = yaml.safe_load(done.stdout)
    assert (config["stage"], config["task"], config["trainer"]["max_epochs"]) == ("train_cls", "Task001_Digits", 5)
    assert everything_under(home) == before


def test_a_dry_run_prints_the_plan_and_creates_nothing(asp, home):
    before = everything_under(home)
    done = asp("asp-launch", DIGITS, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == plan_request(Request(DIGITS)).describe() + "\n"
    assert everything_under(home) == before


def test_a_dry_run_as_json_is_one_object_that_rebuilds_the_plan(asp, home):
    before = everything_under(home)
    done = asp("asp-launch", DIGITS, "resources=two_workers", "site.cpus_per_node=8", "--dry-run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    planned = plan_request(Request(DIGITS, ("resources=two_workers", "site.cpus_per_node=8")))
    assert Plan.from_dict(json.loads(done.stdout)) == planned
    assert everything_under(home) == before


def test_options_may_stand_anywhere(asp):
    first = asp("asp-launch", "--dry-run", DIGITS, "seed=7")
    last = asp("asp-launch", DIGITS, "seed=7", "--dry-run")
    named = asp("asp-launch", "seed=7", "-cn", DIGITS, "--dry-run")
    assert first.returncode == 0, first.stderr
    assert first.stdout == last.stdout == named.stdout


@pytest.mark.parametrize(
    "words",
    [["--help"], [DIGITS, "--dry-run"], [DIGITS, "--dry-run", "--json"], [DIGITS, "--cfg", "job"], [DIGITS, "x=1"]],
    ids=" ".join,
)
def test_the_client_side_of_launch_loads_nothing_heavy(words, home):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "launch", *words], cwd=home, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    modules = found.pop("modules")
    assert found == {"status": 2 if "x=1" in words else 0, "heavy": []}
    if words[-1] in ("--help", "--dry-run"):
        within(f"modules imported by asp-launch {words[-1]}", modules)


def test_help_takes_a_blink(home):
    ours, python = side_by_side([str(BIN / "asp-launch"), "--help"], [sys.executable, "-c", "pass"], home)
    assert ours <= max(HELP_S, HELP_RATIO * python), f"{ours:.2f} s; python alone {python:.2f} s"


def test_a_dry_run_takes_less_than_a_second(home):
    ours, hydra = side_by_side(
        [str(BIN / "asp-launch"), DIGITS, "--dry-run"], [sys.executable, "-c", PLAIN_HYDRA], home
    )
    assert ours <= max(DRY_RUN_S, DRY_RUN_RATIO * hydra), f"{ours:.2f} s; Hydra alone {hydra:.2f} s"


@pytest.mark.parametrize("words", [["runs"], ["runs", "--json"], ["lineage", "1"]], ids=" ".join)
def test_an_empty_record_says_what_to_do_next(words, asp, home):
    before = everything_under(home)
    done = asp("asp", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(home / "results" / "mlflow.db") in done.stderr
    assert "asp-launch experiment/digits" in done.stderr
    assert everything_under(home) == before


def test_splitting_an_unknown_task_names_the_known_ones(asp):
    done = asp("asp-split", "-t", "Nope", "--fn", "split_80_20")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'Nope'" in done.stderr
    assert "Known there: Task001_Digits." in done.stderr


def test_an_unknown_split_function_names_the_known_ones(asp):
    done = asp("asp-split", "-t", "Task001_Digits", "--fn", "split_80_21")
    assert done.returncode == 2
    assert "Did you mean 'split_80_20'?" in done.stderr


def test_splitting_again_changes_nothing(asp, data_root):
    file = data_root / "Task001_Digits" / "split_80_20.json"
    before = file.read_bytes()
    done = asp("asp-split", "-t", "Task001_Digits", "--fn", "split_80_20")
    assert (done.returncode, done.stdout.strip()) == (0, str(file))
    assert file.read_bytes() == before


def test_making_an_unknown_task_names_those_that_can_be_made(asp, data_root):
    before = everything_under(data_root)
    done = asp("asp", "data", "make", "Nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'Nope'" in done.stderr
    assert "Task001_Digits" in done.stderr
    assert everything_under(data_root) == before
