"""What the documents tell a reader to type works, what they link to is there, what they show is what is printed."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, name_of, seal
from asparagus.cli.main import COMMANDS, run
from asparagus.data import MAKERS
from asparagus.data.digits import make_digits
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.record.numbers import claim
from asparagus.record.run_folder import create
from asparagus.spec import Spec
from tests.volumes import write_data

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "DECISIONS.md", "launch/README.md"),
    *("docs/failures.md", "docs/coming-from.md", "docs/submit.md", "docs/clusters.md", "docs/security.md"),
    *("docs/training.md", "docs/archives.md", "docs/semi-supervised.md", "docs/data.md", "docs/bio-imaging.md"),
    "docs/loading.md",
]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SHIPPED = sorted(path for path in ROOT.glob("configs/**/*.yaml") if "# asp-launch" in path.read_text())


def typed(text: str) -> list[str]:
    """Return the asp commands of a page: indented, in a block after `$ `, or in a config's first lines."""
    lines = re.findall(r"^(?:    |\$ |# )(asp[-_ ].*?)(?: +#.*)?$", text, flags=re.MULTILINE)
    return [command.strip() for line in lines for command in line.split(" ; ")]


COMMAND_LINES = sorted(
    {command for page in [ROOT / page for page in PAGES] + SHIPPED for command in typed(page.read_text())}
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    """A home in which each documented command has what it speaks of: the tasks, and a pretrained run 1."""
    home = tmp_path_factory.mktemp("home")
    for task in MAKERS:
        if task == "Task001_Digits":
            make_digits(home / "data", cases=40)
        else:
            make_synthetic(task, home / "data", cases=10, size=16)
        make_split(home / "data", task, "split_80_20")
    write_data(home / "data", {"jrc_a": {"crop1": ["nuc", "er"]}, "jrc_b": {"crop2": ["nuc", "er"]}})
    models = home / "models"
    assert claim(models, about={"stage": "pretrain", "task": "Task998_LauritSyn"}) == 1
    folder = create(models, Spec("pretrain", "Task998_LauritSyn"), 1, "{}")
    writing = folder.checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"weights")
    digest = digest_of(writing / STATE)
    metrics = {"val/loss": 1.0}
    seal(writing, Manifest(name_of(4, 25), 4, 25, metrics, digest, 7, monitor="val/loss", mode="min"))
    (home / "examples").symlink_to(ROOT / "examples")
    (home / "constraints.txt").symlink_to(ROOT / "constraints.txt")
    (home / "my_experiment.yaml").write_text("defaults: [experiment/digits, _self_]\n")
    return home


def test_there_are_commands_to_check():
    assert len(COMMAND_LINES) > 15


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_documented_command_is_one(line, everything, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_HOME", str(everything))
    monkeypatch.chdir(everything)
    if "config.yaml" in line:
        pytest.skip("a place in a run folder, not a file here")
    program, *words = shlex.split(line)
    if program == "asp":
        program, *words = words
        assert program in COMMANDS
    else:
        assert program in SCRIPTS
    name = re.sub(r"^asp[-_]", "", program)
    if name.startswith("test_"):  # asp_test_cls is asp test
        name = "test"
    if name.startswith("eval_box_"):  # asp_eval_box_run is asp eval-box run
        name = "eval-box"
    if name not in COMMANDS:  # asp_pretrain is asp-launch pretrain
        name, words = "launch", [name, *words]
    if name == "launch" and "optim.lrr=1e-3" not in line:
        assert run("launch", [*words, "--dry-run"]) == 0, capsys.readouterr().err
    elif name != "launch":
        with pytest.raises(SystemExit) as end:
            run(name, ["--help"])
        assert end.value.code == 0


def test_the_error_that_the_readme_shows_is_the_one_that_is_printed(home, capsys):
    shown = re.search(
        r"\$ asp-launch (experiment/digits optim\.lrr.*)\n((?:.*\n)*?)```", (ROOT / "README.md").read_text()
    )
    assert shown
    assert run("launch", shlex.split(shown[1])) == 2
    printed = capsys.readouterr().err
    for line in shown[2].splitlines():
        assert line.removesuffix("...").strip() in printed


@pytest.mark.parametrize("page", PAGES)
def test_links_and_make_targets_are_there(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert ((ROOT / page).parent / link).exists(), link
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for target in re.findall(r"(?:`|    )make ([a-z-]+)", text):
        assert target in targets, target


def test_each_row_of_the_table_of_failures_is_true_by_a_test_that_there_is():
    rows = re.findall(
        r"^\| (?!what )([^|]+)\|.*\|([^|]*)\|$", (ROOT / "docs/failures.md").read_text(), flags=re.MULTILINE
    )
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(rows) > 20
    for what, proof in rows:
        assert f"def {proof.strip().strip('`')}(" in tests, what
