"""Shell completion: what TAB offers, by value; and that bash, zsh and fish put it where the cursor is."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from asparagus.cli.completion import OPTIONS, PROGRAMS, SCRIPTS, candidates, completion, split
from asparagus.cli.main import COMMANDS
from asparagus.compose import known_configs, search_folders
from asparagus.data import MAKERS
from asparagus.optim import OPTIMIZERS, SCHEDULES
from asparagus.spec import MODES
from asparagus.stages import STAGES
from tests.helpers import PLAIN_HYDRA, side_by_side

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
INSTALLED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = ["torch", "ray", "mlflow", "pytorch_lightning", "monai", "numpy", "rich"]
SECONDS, RATIO = 0.5, 3
WATCHED = f"""
import sys
from asparagus.cli.main import run
assert run("completion", ["--line", sys.argv[1]]) == 0
loaded = {{name.partition(".")[0] for name in sys.modules}}
sys.exit(", ".join(sorted(loaded & set({HEAVY!r}))) or 0)
"""
SEG = "asp_train_seg "
DIGITS = "asp-launch experiment/digits "


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


# What TAB offers, all of it.
EXACTLY = {
    "asp ": sorted(COMMANDS),
    "asp --v": ["--version"],
    "asp lau": ["launch"],
    "asp launch --dry": ["--dry-run"],
    "asp-launch experiment/dig": ["experiment/digits"],
    "asp-launch finetune_": ["finetune_cls", "finetune_reg", "finetune_seg"],
    "asp-launch -cn pre": ["pretrain"],
    "asp-launch --config-name=pre": ["--config-name=pretrain"],
    "asp launch experiment/dig": ["experiment/digits"],
    "asp-doctor experiment/dig": ["experiment/digits"],
    "asp-doctor experiment/digits --j": ["--json"],
    "asp-doctor experiment/digits optim.name=sg": ["optim.name=sgd"],
    f"{DIGITS}--cfg ": ["all", "hydra", "job"],
    f"{DIGITS}--cfg=j": ["--cfg=job"],
    f"{DIGITS}-c j": ["job"],
    f"{DIGITS}--info optim.l": ["optim.lr"],
    f"{DIGITS}--dry-run optim.name=sg": ["optim.name=sgd"],
    f"{DIGITS}-p mod": ["model", "model.cls_net"],
    f"{DIGITS}trans": ["transfer."],
    f"{DIGITS}trainer.max_": ["trainer.max_epochs=", "trainer.max_steps=", "trainer.max_time="],
    f"{DIGITS}++trainer.max_e": ["++trainer.max_epochs="],
    f"{DIGITS}transfer.": [
        f"transfer.{key}" for key in ("decoder=", "exclude=", "include=", "more.", "rename.", "strict=")
    ],
    "asp_test_cls 3 --ch": ["--checkpoint"],
    "asp eval-box ": ["collect", "prepare", "run"],
    "asp_eval_box_run --dr": ["--dry-run"],
    f"{DIGITS}mod": ["model.", "model="],
    f"{DIGITS}model.cls_net.h": ["model.cls_net.hidden="],
    f"{DIGITS}+mod": ["+model.", "+model="],
    f"{DIGITS}model=un": ["model=unet", "model=unet_b_lw_dec", "model=unetr"],
    f"{DIGITS}+hardware=1n": ["+hardware=1node8gpus"],
    f"{DIGITS}data@val_data=im": ["data@val_data=images"],
    f"{DIGITS}/model=ml": ["/model=mlp"],
    f"{DIGITS}~optim.s": [],
    f"{SEG}~optim.s": ["~optim.sched", "~optim.sched."],
    f"{DIGITS}~optim.l": ["~optim.lr"],
    f"{DIGITS}~trainer.profiler": [],  # it can be set, and is not there to be taken out
    f"{DIGITS}run.mode=": [f"run.mode={mode}" for mode in sorted(MODES)],
    f"{DIGITS}stage=": [f"stage={stage}" for stage in sorted(STAGES)],
    f"{DIGITS}task=": ["task=Task001_Digits"],
    f"{DIGITS}data.split=": ["data.split=split_80_20"],
    f"{DIGITS}optim.name=": [f"optim.name={name}" for name in sorted(OPTIMIZERS)],
    f"{DIGITS}optim.sched.name=": [f"optim.sched.name={name}" for name in sorted(SCHEDULES)],
    f"{DIGITS}transfer.strict=": ["transfer.strict=False", "transfer.strict=True"],
    f"{DIGITS}trainer.fast_dev_run=": ["trainer.fast_dev_run=False", "trainer.fast_dev_run=True"],
    f"{DIGITS}optim.amsgrad=T": ["optim.amsgrad=True"],
    f"{DIGITS}data.cache=T": ["data.cache=True"],
    f"{DIGITS}trainer.precision=bf": [f"trainer.precision={kind}" for kind in ("bf16", "bf16-mixed", "bf16-true")],
    f"{DIGITS}trainer.max_epochs=": [],
    f"{DIGITS}site.env": ["site.env."],
    f"{SEG}optim.mom": [],
    f"{SEG}optim.name=sgd optim.mom": ["optim.momentum="],
    f"{SEG}model=mlp data=images data.pat": ["data.patch_size="],
    f'{SEG}"trainer.max_e': ["trainer.max_epochs="],
    f"{SEG}'optim.name=sg": ["optim.name=sgd"],
    f"X=1 {SEG}optim.name=sg": ["optim.name=sgd"],
    "/opt/venv/bin/asp_pretrain trainer.max_e": ["trainer.max_epochs="],
    "asp runs --st": ["--stage", "--state"],
    "asp-runs --stage train_": ["train_cls", "train_reg", "train_seg"],
    "asp runs --sort be": ["best"],
    "asp-runs --task ": ["Task001_Digits"],
    "asp_split -t Task001": ["Task001_Digits"],
    "asp-split --fn split_": ["split_40_10_50", "split_80_10_10", "split_80_20"],
    "asp-data ": ["card", "check", "convert", "datasplit", "make", "new-conversion", "register", "update-paths"],
    "asp data check Task001": ["Task001_Digits"],
    "asp data make ": sorted(MAKERS),
    "asp completion ": ["bash", "fish", "zsh"],
    "asp-ui --p": ["--port"],
    "asp nonsense ": [],
    "git checkout ": [],
    "": [],
}
# What must be among it.
AMONG = {
    f"{DIGITS}-": {"--help", "-h", "-cn", "-cd", "--cfg", "--info", "--dry-run", "--check", "--json"},
    DIGITS: {"trainer.", "trainer=", "optim.", "optim=", "site=", "run.", "paths.", "task=", "seed=", "experiment="},
    f"{DIGITS}trainer.": {"trainer.max_epochs=", "trainer.fast_dev_run=", "trainer.gradient_clip_val="},
    f"{DIGITS}optim.": {"optim.lr=", "optim.betas=", "optim.amsgrad=", "optim.name="},
    f"{SEG}optim.sched.": {"optim.sched.name=", "optim.sched.warmup_ratio=", "optim.sched.max_steps="},
    f"{DIGITS}site.": {"site.tracking_uri=", "site.nodes=", "site.env."},
    f"{DIGITS}~": {"~callbacks", "~logger", "~optim", "~optim.", "~model."},
    "asp_train ": {"model.", "data.", "script."},
}


@pytest.mark.parametrize("line", EXACTLY)
def test_what_can_come_next(line, home):
    assert candidates(line) == EXACTLY[line]


@pytest.mark.parametrize("line", AMONG)
def test_what_can_come_next_among_others(line, home):
    assert set(candidates(line)) >= AMONG[line]


@pytest.mark.parametrize(
    "name", ["pretrain", "train", "train_seg", "train_cls", "finetune", "finetune_seg", "finetune_cls"]
)
def test_the_config_of_an_alias_is_implied(name, home):
    assert "trainer." in candidates(f"asp_{name} ")
    assert name in candidates("asp-launch ")


def test_what_the_launcher_fills_in_is_not_offered(home):
    assert not {"optim.params=", "data.root=", "data.rank="} & set(
        candidates(f"{SEG}optim.") + candidates(f"{SEG}data.")
    )


def test_each_config_can_be_completed_to_its_end(home):
    names = known_configs(search_folders())
    assert set(candidates("asp-launch ")) == set(names)
    for name in names:
        assert name in candidates(f"asp-launch {name[:-1]}")
        assert "trainer.max_epochs=" in candidates(f"asp-launch {name} trainer.max_e")


def test_configs_groups_and_keys_of_ones_own(home, monkeypatch):
    for file in ("experiment/mine.yaml", "module/optimizer_spec/fancy.yaml", "model/tiny.yaml"):
        (home / "own" / file).parent.mkdir(parents=True, exist_ok=True)
        (home / "own" / file).write_text("x: 1\n")
    (home / "own/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [/train_cls, _self_]\nnew: {key: true}\n"
    )
    assert candidates("asp-launch -cd own experiment/mi") == ["experiment/mine"]
    assert candidates("asp-launch experiment/mi") == []
    monkeypatch.setenv("ASPARAGUS_CONFIGS", str(home / "own"))
    mine = "asp-launch experiment/mine "
    assert candidates("asp-launch experiment/mi") == ["experiment/mine"]
    assert candidates(f"{mine}model=ti") == ["model=tiny"]
    assert candidates(f"{mine}modu") == ["module/optimizer_spec="]
    assert candidates(f"{mine}+module/optimizer_spec=") == ["+module/optimizer_spec=fancy"]
    assert candidates(f"{mine}new.") == ["new.key="]
    assert candidates(f"{mine}new.key=F") == ["new.key=False"]


def test_files_are_completed_where_they_can_stand(home):
    for file in ("own/exp.yaml", "own/exp.txt", "own/deep/er.yml", "config.py", ".hidden.yaml"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text("defaults: [train_cls, _self_]\nmodel: {mine: 1}\n")
    assert candidates("asp-launch con") == ["config.py"]
    assert candidates("asp-launch ow") == ["own/"]
    assert candidates("asp-launch own/") == ["own/deep/", "own/exp.yaml"]
    assert candidates("asp-launch .h") == [".hidden.yaml"]
    assert candidates("asp-launch own/exp.yaml model.mi") == ["model.mine="]
    assert candidates(f"asp-launch -cd {home}/ow") == [f"{home}/own/"]
    assert candidates(f"{SEG}init_from=file:{home}/own/ex") == [
        f"init_from=file:{home}/own/exp{end}" for end in (".txt", ".yaml")
    ]
    assert candidates("asp getid own/exp.t") == ["own/exp.txt"]


def test_a_config_in_python_is_not_run(home):
    (home / "mine.py").write_text("from pathlib import Path\nPath('was_run').touch()\n")
    assert candidates("asp-launch mine.py trainer.max_e") == ["trainer.max_epochs="]
    assert not (home / "was_run").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("asp-launch a b", (["asp-launch", "a"], "b")),
        ("asp-launch a ", (["asp-launch", "a"], "")),
        ("asp 'a b", (["asp"], "a b")),
        ('asp "a b" c\\ d', (["asp", "a b"], "c d")),
        ("asp \"x='1", (["asp"], "x='1")),
        ("asp a\\", (["asp"], "a")),
        ("", ([], "")),
    ],
)
def test_a_line_is_split_as_a_shell_does(line, expected):
    assert split(line) == expected


@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [
        (f"{SEG}optim.name=sg", "sg", ["sgd"]),
        (f"{SEG}transfer.strict=", "", ["False", "True"]),
        (f"{SEG}init_from=file:/us", "/us", ["/usr/"]),
        (f"{SEG}trainer.max_e", "trainer.max_e", ["trainer.max_epochs="]),
        (f'{SEG}"optim.name=sg', '"optim.name=sg', ["optim.name=sgd"]),
    ],
)
def test_bash_gets_the_part_that_it_replaces(line, word, expected, home):
    assert candidates(line, word) == expected


# Nothing about the prompt may break: not a config, not an environment.
def test_a_broken_override_costs_only_what_it_breaks(home):
    assert candidates(f"{SEG}mod[el=x optim.nonsense..=3 trainer.max_e") == ["trainer.max_epochs="]


def test_a_broken_config_costs_only_its_own_keys(home, capfd):
    (home / "broken.yaml").write_text("a: [1\n")
    assert completion(["--line", "asp-launch broken.yaml trainer.max_e"]) == 0
    assert completion(["--line", "asp-launch not_there trainer.max_e"]) == 0
    assert capfd.readouterr() == ("trainer.max_epochs=\n" * 2, "")


@pytest.mark.parametrize("line", [f"{SEG}task=", f"{SEG}--cfg wrong trainer.", f"{SEG}trainer.", "asp-launch "])
def test_a_failure_says_nothing(line, home, monkeypatch, capfd):
    monkeypatch.setenv("ASPARAGUS_DATA", "")
    assert completion(["--line", line]) == 0
    assert capfd.readouterr() == ("", "")


def test_env_files_are_read(home, monkeypatch):
    for name in ("ASPARAGUS_DATA", "ASPARAGUS_HOME"):
        monkeypatch.delenv(name)
    (home / "other" / "Task007_Mine").mkdir(parents=True)
    (home / "other" / "Task007_Mine" / "dataset.json").write_text("{}")
    (home / ".env").write_text(f"ASPARAGUS_DATA={home}/other\n")
    done = subprocess.run(
        [str(BIN / "asp-completion"), f"--line={SEG}task="], cwd=home, capture_output=True, text=True, check=True
    )
    assert done.stdout == "task=Task007_Mine\n"


@pytest.mark.parametrize("line", ["asp ", "asp-launch ", f"{DIGITS}trainer.max", f"{DIGITS}optim.name=sgd task="])
def test_nothing_heavy_is_imported(line, home):
    done = subprocess.run([sys.executable, "-c", WATCHED, line], cwd=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_tab_is_answered_at_once(home):
    line = [str(BIN / "asp-completion"), f"--line={DIGITS}optim.name=sgd trainer.max_e"]
    ours, hydra = side_by_side(line, [sys.executable, "-c", PLAIN_HYDRA], home)
    assert ours <= max(SECONDS, RATIO * hydra), f"{ours:.2f} s; Hydra alone {hydra:.2f} s"


# The command.
@pytest.mark.parametrize("arguments", [[], ["tcsh"]])
def test_a_shell_has_to_be_named(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        completion(arguments)
    assert end.value.code == 2
    assert re.search("bash.*zsh.*fish", capsys.readouterr().err)


def test_the_help_says_how_each_shell_loads_it(capsys):
    with pytest.raises(SystemExit) as end:
        completion(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    loads = ["source <(asp completion bash)", "source <(asp completion zsh)", "asp completion fish | source"]
    assert all(line in printed for line in loads)
    assert "--line" not in printed


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_completes_everything_that_is_installed(shell, capsys):
    assert completion([shell]) == 0
    script = capsys.readouterr().out
    assert set(INSTALLED) == set(PROGRAMS)
    assert all(program in script.split() for program in PROGRAMS)
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=True).stderr == ""


OF_DATA = ("convert", "register", "check", "update-paths", "datasplit", "make")
SUBCOMMANDS = {"data": OF_DATA, "model": ("promote",), "eval-box": ("run",)}
"""Whose options are those of the command."""


def of_subcommands(name: str) -> list[tuple[str, ...]]:
    return [(name, each) for each in SUBCOMMANDS.get(name, ())] or [(name,)]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_are_those_of_the_help(name, asp):
    helps = (asp("asp", *words, "--help").stdout for words in of_subcommands(name))
    declared = re.findall(r"(?m)^ +(-.+?)(?:  |$)", "".join(helps))
    spellings = [set(re.findall(r"--?[\w-]+", line)) for line in declared]
    offered = set(candidates(f"asp {name} -"))
    assert all(offered & names for names in spellings)
    assert offered <= set().union(*spellings)
    assert name in OPTIONS or name == "launch" or offered == {"-h", "--help"}


# Real shells.
@pytest.fixture
def shell_home(home, monkeypatch) -> Path:
    (home / "my own.yaml").write_text("defaults: [train_cls]\n")
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    return home


def bash_reply(line: str, home: Path, *, then: str = "") -> list[str]:
    """Return what bash is told when TAB is pressed at the end of a line: words are broken as bash breaks them."""
    words = [word for word in re.split(r"\s+|([=:])", line.lstrip()) if word]
    if line.endswith(" "):
        words.append("")
    word = "" if words[-1] in ("=", ":") else words[-1]
    script = f"""
        source <(asp completion bash)
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(line + then)} COMP_POINT={len(line)}
        _asp_complete {shlex.quote(words[0])} {shlex.quote(word)} {shlex.quote(words[-2])}
        (( ${{#COMPREPLY[@]}} )) && printf '%s\\n' "${{COMPREPLY[@]}}"
        complete -p asp asp-launch asp_train_seg >/dev/null
    """
    done = subprocess.run(["bash", "--norc", "-c", script], cwd=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@needs("bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("asp-launch experiment/dig", ["experiment/digits"]),
        (f"{DIGITS}trainer.max_", ["trainer.max_epochs=", "trainer.max_steps=", "trainer.max_time="]),
        (f"{DIGITS}transfer.strict=", ["False", "True"]),
        (f"{DIGITS}optim.name=sg", ["sgd"]),
        (f"{DIGITS}--cfg ", ["all", "hydra", "job"]),
        ("asp completion ", ["bash", "fish", "zsh"]),
        ("asp-launch my", [r"my\ own.yaml"]),
        (f"{BIN}/asp-launch experiment/dig", ["experiment/digits"]),
        ("asp nonsense ", []),
    ],
)
def test_bash_is_told(line, expected, shell_home):
    assert bash_reply(line, shell_home) == expected


@needs("bash")
def test_bash_looks_at_what_is_left_of_the_cursor(shell_home):
    assert bash_reply(f"{SEG}optim.name=sg", shell_home, then="d trainer.max_epochs=3") == ["sgd"]


def typed(command: list[str], lines: list[str], home: Path) -> str:
    """Type lines into an interactive shell on a terminal and return all that it shows."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "PS1": "$ ", "HOME": str(home), "INPUTRC": os.devnull}
    shell = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=home, env=environment, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, "".join(f"{line}\n" for line in [*lines, "exit"]).encode())
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    shell.wait(timeout=60)
    return shown.decode(errors="replace")


TO_START = "\x01"  # C-a: then the line is printed word by word instead of being run
KEYS = {
    "asp-launch experiment/dig\ttrainer.max_e\t5": ["asp-launch", "experiment/digits", "trainer.max_epochs=5"],
    "asp_train_seg transf\tstr\tT\tx": ["asp_train_seg", "transfer.strict=True", "x"],
    "asp lau\texperiment/dig\t--dry\tx": ["asp", "launch", "experiment/digits", "--dry-run", "x"],
    "asp_train_seg optim.name=sg\t+optim.mom\t1": ["asp_train_seg", "optim.name=sgd", "+optim.momentum=1"],
    "asp_train_seg --cfg=jo\tx": ["asp_train_seg", "--cfg=job", "x"],
    "asp-launch my\tx": ["asp-launch", "my own.yaml", "x"],
    "asp_train_seg run.name=a:b optim.l\t1": ["asp_train_seg", "run.name=a:b", "optim.lr=1"],
    f"{BIN}/asp-launch experiment/dig\tx": [f"{BIN}/asp-launch", "experiment/digits", "x"],
}
INTERACTIVE = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs(shell)) for shell in INTERACTIVE])
def test_tab_on_a_terminal(shell, shell_home):
    lines = [f"source <(asp completion {shell})", *(f"{keys}{TO_START}printf '<%s>' " for keys in KEYS)]
    shown = typed(INTERACTIVE[shell], lines, shell_home)
    for keys, words in KEYS.items():
        assert "".join(f"<{word}>" for word in words) in shown, f"{keys!r} in\n{shown}"


@needs("fish")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("asp-launch experiment/dig", ["experiment/digits"]),
        (f"{DIGITS}trainer.max_", ["trainer.max_epochs=", "trainer.max_steps=", "trainer.max_time="]),
        (f"{DIGITS}transfer.strict=", ["transfer.strict=False", "transfer.strict=True"]),
        (f"{DIGITS}+optim.name=sg", ["+optim.name=sgd"]),
        (f"{DIGITS}~optim.l", ["~optim.lr"]),
        (f"{DIGITS}--dry", ["--dry-run"]),
        (f"{DIGITS}--cfg=", ["--cfg=all", "--cfg=hydra", "--cfg=job"]),
        ("true; asp completion ", ["bash", "fish", "zsh"]),
        ("asp-launch my", ["my own.yaml"]),
        (f"{BIN}/asp-launch experiment/dig", ["experiment/digits"]),
    ],
)
def test_fish_offers(line, expected, shell_home):
    script = f"asp completion fish | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(["fish", "-c", script], cwd=shell_home, capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")
