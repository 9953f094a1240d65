"""What the documents tell a reader to type works, what they link to is there, what they show is what is printed."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import command_reference
import config_reference
import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from asparagus.api import plan_of
from asparagus.checkpoint.folder import STATE, WRITING, Manifest, digest_of, name_of, seal
from asparagus.cli.launch import parser
from asparagus.cli.main import COMMANDS, run
from asparagus.compose import Request
from asparagus.data import MAKERS
from asparagus.data.digits import make_digits
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from asparagus.errors import AsparagusError
from asparagus.record.numbers import claim
from asparagus.record.run_folder import create
from asparagus.spec import Spec
from tests.volumes import write_data

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "DECISIONS.md", "launch/README.md"),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))),
]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SHIPPED = sorted(path for path in ROOT.glob("configs/*/*.yaml") if path.parent.name != "experiment")
"""Config groups whose files may begin with a command; experiments are planned in test_experiments.py."""
BEHIND = dict(command_reference.commands())
"""What is typed, and the function that does it."""

FENCED = re.compile(r"^```\w*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n)+", flags=re.MULTILINE)
COMMAND = re.compile(r"^(?: *|\$ |# |ray job submit .* -- )(asp[-_ ].*?)(?: +#.*)?$", flags=re.MULTILINE)
NAMED = re.compile(r"^(?:# @package .*\n)?# ([\w/]+\.(?:py|yaml))(?::.*)?\n")
"""The first line of a block that is a file."""

ONLY_PARSED = {
    "...": "a part of a line",
    "optim.lrr": "shows an error, and has a test of its own",
    "init_from=model:": "names a model that the reader has promoted",
    "=/path/to": "the reader's file",
}
"""What a launch has in it that cannot be composed and checked here, and why; its options are looked at all the same."""


def blocks(text: str) -> Iterator[str]:
    """Yield the code blocks of a page, as they are typed."""
    yield from (block.replace("\\\n", " ") for block in FENCED.findall(text))
    yield from INDENTED.findall(FENCED.sub("", text))


def typed(text: str) -> list[str]:
    """Return the asp commands of a block; without what says only how much is done, since none is carried out here."""
    lines = [line for found in COMMAND.findall(text) for line in found.split(" ; ")]
    return [re.sub(r" --(dry-run|json|no-wait)\b", "", line).strip() for line in lines]


COMMAND_LINES = sorted(
    {line for page in PAGES for block in blocks((ROOT / page).read_text()) for line in typed(block)}
    | {line for path in SHIPPED for line in typed(path.read_text())}
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    """A home in which each documented command has what it speaks of: the tasks, and two pretrained runs."""
    home = tmp_path_factory.mktemp("home")
    for task in MAKERS:
        if task == "Task001_Digits":
            make_digits(home / "data", cases=40)
        else:
            make_synthetic(task, home / "data", cases=10, size=16)
        make_split(home / "data", task, "split_80_20")
    write_data(home / "data", {"jrc_a": {"crop1": ["nuc", "er"]}, "jrc_b": {"crop2": ["nuc", "er"]}})
    for run_id in (1, 2):
        pretrained(home / "models", run_id)
    write_what_the_pages_speak_of(home)
    return home


def pretrained(models: Path, run_id: int) -> None:
    """Put a pretrained run there; what its weights are does not matter here."""
    assert claim(models, about={"stage": "pretrain", "task": "Task998_LauritSyn"}) == run_id
    folder = create(models, Spec("pretrain", "Task998_LauritSyn"), run_id, "{}")
    writing = folder.checkpoints / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"weights")
    digest = digest_of(writing / STATE)
    metrics = {"val/loss": 1.0}
    seal(writing, Manifest(name_of(4, 25), 4, 25, metrics, digest, 7, monitor="val/loss", mode="min"))


def write_what_the_pages_speak_of(home: Path) -> None:
    """Write the files that pages show with their names, and those that they take for granted."""
    for page in PAGES:
        for block in FENCED.findall((ROOT / page).read_text()):
            if name := NAMED.match(block):
                file = home / ("configs" if name[1].startswith(("experiment/", "site/")) else "") / name[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block)
    (home / "examples").symlink_to(ROOT / "examples")
    (home / "constraints.txt").symlink_to(ROOT / "constraints.txt")
    (home / "my_experiment.yaml").write_text("defaults: [experiment/digits, _self_]\n")
    (home / "configs/custom.yaml").write_text("defaults: [base]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASPARAGUS_HOME", str(home))
        saved = plan_of(Request("experiment/digits", ())).spec
    (home / "path").mkdir()
    (home / "path/config.yaml").write_text(yaml.safe_dump(saved.to_dict()))


def test_there_are_commands_to_check():
    assert len(COMMAND_LINES) > 120
    assert all(any(part in line for line in COMMAND_LINES) for part in ONLY_PARSED), "an exception that is none"


def test_every_documented_command_is_parsed(capsys):
    wrong = {}
    for line in COMMAND_LINES:
        try:
            must_be_parsed(*what_is_meant(*split(line)))
        except (SystemExit, AssertionError, KeyError, AsparagusError) as error:
            wrong[line] = error, capsys.readouterr().err
    assert wrong == {}


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_documented_command_is_one(line, everything, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_HOME", str(everything))
    monkeypatch.chdir(everything)
    name, words = what_is_meant(*split(line))
    if name != "asp-launch" or any(part in line for part in ONLY_PARSED):
        must_be_parsed(name, words)
    else:
        assert run("launch", [*words, "--dry-run"]) == 0, capsys.readouterr().err


def split(line: str) -> tuple[str, list[str]]:
    """Return the program of a line, which has to be installed, and its words."""
    program, *words = shlex.split(line)
    assert program == "asp" or program in SCRIPTS, f"{program} is not installed"
    return program, words


def what_is_meant(program: str, words: list[str]) -> tuple[str, list[str]]:
    """Return the command that a line stands for: asp_test_cls is asp test, asp_pretrain asp-launch pretrain."""
    if program == "asp":
        assert words[0] in COMMANDS, f"asp has no {words[0]}"
        program, *words = (f"asp-{words[0]}", *words[1:])
    name = re.sub(r"^asp[-_]", "", program)
    if name.startswith(("test_", "eval_box_")):
        name, words = ("test", words) if name.startswith("test_") else ("eval-box", [name.split("_")[2], *words])
    if name == "data" and words:
        return f"asp data {words[0]}", words[1:]
    if name == "launch" or name not in COMMANDS:
        return "asp-launch", words if name == "launch" else [name, *words]
    return f"asp {name}", words


def must_be_parsed(name: str, words: list[str]) -> None:
    """Have the command's own parser look at a line; what it hands on is for asp-launch."""
    found = command_reference.parsed(BEHIND[name], words)
    if isinstance(found, tuple):
        parser().parse_intermixed_args(found[1])


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


def test_the_reference_has_every_command_and_every_option():
    page = command_reference.page()
    missing = []
    for name, function in BEHIND.items():
        assert re.search(rf"^##+ {name}$", page, flags=re.MULTILINE)
        actions = command_reference.parser_of(function)._actions
        missing += [(name, action.dest) for action in actions if not action.help and not action.choices]
    assert missing == []
    assert all(f"`{script}`" in page for script in SCRIPTS if script.startswith("asp_"))
    assert "| `--multirun`, `-m` | a sweep: key=1,2,3" in page


def test_the_reference_says_of_every_key_what_it_does():
    said = dict(config_reference.described())
    assert [key for key, about in said.items() if len(about) < 5] == []
    assert "| `checkpoint.keep_best` | `int` | `1` |" in config_reference.typed_keys()
    assert "| `seed` | `int` | `42` |" in config_reference.typed_keys()
    assert [row for row in config_reference.sweep_keys().splitlines() if row.endswith("|  |")] == []


def test_every_variable_of_ours_is_explained():
    files = [*ROOT.glob("asparagus/**/*.py"), *ROOT.glob("launch/up/*.sbatch")]
    read = {name for file in files for name in re.findall(r"\bASPARAGUS_[A-Z]+(?:_[A-Z]+)*\b", file.read_text())}
    assert len(read) > 10
    assert read <= set(re.findall(r"`(ASPARAGUS_\w+)`", (ROOT / "docs/configuration.md").read_text()))


def test_a_link_that_leads_nowhere_is_refused(tmp_path, caplog):
    links = ["nowhere.md", "#nowhere", "index.md#nothing", "/absolute.md"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Here\n\n" + " ".join(f"[there]({link})" for link in links))
    places = {"docs_dir": str(tmp_path / "docs"), "site_dir": str(tmp_path / "site")}
    config = load_config(str(ROOT / "mkdocs.yml"), **places, hooks=[])
    config.nav = None
    with pytest.raises(Abort):
        build(config)
    assert [link for link in links if f"'{link}'" not in caplog.text] == []
