"""Every file on the shelf, broken on purpose in one place at a time: the launch is refused, and the place is named.

The breaks are made by rule from the files themselves: a new file, or a new key, is broken as well. Keys are misspelt,
and values given a wrong type, in a copy of the file that a `-cd` folder holds: file and line have to be named. Targets,
their arguments and options of groups are typed on the command line: the override has to be named.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from asparagus.cli.main import run
from asparagus.data import MAKERS
from asparagus.data.split import make_split

ROOT = Path(__file__).parent.parent
SHELVES = {ROOT / "configs": "**/*.yaml", ROOT / "launch": "site/*.yaml"}
"""Where experiments find their files; what brings machines up (`launch/up`) is read by others."""
NONSENSE = "nonsense"
DIGITS = ("experiment/digits",)
SEG = ("train_seg", "task=Task997_LauritSynSeg")
PRETRAIN = ("pretrain", "task=Task998_LauritSyn")
PARENT = "init_from=file:weights.pt"
ROOMY = ("site.nodes=2", "site.cpus_per_node=64", "site.gpus_per_node=8")
OWN = ("task=Task001_Digits", "model.module._target_=broken_module.Own")
LOADER = "{dataset: {name: cases, task: Task001_Digits, dimensions: 2D}}"
CASES = ("data._target_=asparagus.data.modules.CaseDataModule", "data.kind=cls")

LAUNCHED: dict[str, tuple[str, ...]] = {
    "pretrain": PRETRAIN,
    "train_seg": SEG,
    "train_cls": ("train_cls", "task=Task996_LauritSynCls"),
    "train_reg": ("train_reg", "task=Task995_LauritSynReg"),
    "finetune_reg": ("finetune_reg", "task=Task995_LauritSynReg", PARENT),
    "finetune_seg": ("finetune_seg", "task=Task997_LauritSynSeg", PARENT),
    "finetune_cls": ("finetune_cls", "task=Task996_LauritSynCls", PARENT),
    "linear_probe": ("linear_probe", "task=Task996_LauritSynCls", PARENT),
    "train": ("train", *OWN, *CASES),
    "finetune": ("finetune", *OWN, *CASES, PARENT),
    "core/base": DIGITS,
    "experiment/laurit_finetune_seg": ("experiment/laurit_finetune_seg", PARENT),
    "experiment/laurit_finetune_reg": ("experiment/laurit_finetune_reg", PARENT),
    "experiment/laurit_finetune_cls": ("experiment/laurit_finetune_cls", PARENT),
    "experiment/coming_from_hydra_lightning": ("train_cls", "experiment=coming_from_hydra_lightning"),
    **{
        f"experiment/asparagus_{stage}": (stage, f"experiment=asparagus_{stage}", f"task={task}", *parent)
        for stage, task, *parent in (
            ("pretrain", "Task998_LauritSyn"),
            ("train_seg", "Task997_LauritSynSeg"),
            ("train_cls", "Task996_LauritSynCls"),
            ("finetune_seg", "Task997_LauritSynSeg", PARENT),
            ("finetune_cls", "Task996_LauritSynCls", PARENT),
        )
    },
    "data/images": ("train_cls", "task=Task001_Digits", "model=mlp", "data=images"),
    "data/volumes": SEG,
    "data/loaders": (*DIGITS, "data=loaders", "data.batch_size=2", f"data.train={LOADER}"),
    "model/unet": PRETRAIN,
    **{f"model/{name}": (*SEG, f"model={name}") for name in ("residual_unet", "segresnet", "unetr", "swin_unetr")},
    "model/resnet": ("train_cls", "task=Task996_LauritSynCls", "model=resnet"),
    "model/vit": ("train_cls", "task=Task996_LauritSynCls", "model=vit"),
    "model/unet_b_lw_dec": (*PRETRAIN, "model=unet_b_lw_dec", "+plugins=seg_Task997"),
    "plugins/seg_Task997": (*PRETRAIN, "model=unet_b_lw_dec", "+plugins=seg_Task997"),
    "sweep/hparams_search": (*DIGITS, "-m", "sweep=hparams_search", "optim.lr=1e-3,1e-2", "sweep.metric=val/accuracy"),
}
"""The words that launch a file, or have it take part; those that are left out are options chosen for the digits."""
NOT_HERE = {
    "hardware/osx": "trainer.accelerator: mps",
    "logger/wandb": "needs wandb",
}
"""What is refused on some machines as it is, and why."""
BY_ITSELF = {
    "data/crops": "needs volumes to list; tests/seeds/test_cellmap_crops.py and test_datasplit.py launch and break it",
    "experiment/semi_digits": "its heads and loaders are sections that only building can judge; test_semi.py breaks it",
    **dict.fromkeys(
        ("base", "imagewoof", "sesemi_config", "learner/classifier"),
        "SESEMI's spellings; tests/seeds/test_sesemi_base.py launches and breaks them",
    ),
}
"""Files that are broken elsewhere, and why."""
FREE = {
    "logger.csv": "loggers are named freely",
    "logger.tensorboard": "likewise",
    "logger.wandb": "likewise",
    "plugins.online_segmentation": "callbacks are named freely",
    "model.plugin_seg_net": "networks of plugins are named freely; the plugin that refers to it is refused",
    "model.plugin_seg_train_n_last_params": "likewise",
    "logger.wandb.job_type": "WandbLogger hands what it does not know on to wandb",
    "logger.wandb.group": "likewise",
    "logger.wandb.tags": "likewise",
    "logger.wandb.project": "misspelt, it is one of those",
    "logger.wandb.name": "likewise",
    "logger.wandb.id": "likewise",
    "logger.wandb.offline": "likewise",
    "logger.wandb.prefix": "likewise",
    "logger.wandb.log_model": "likewise",
}
"""Keys that may be spelled otherwise."""
UNTYPED = {
    "model.features": "a variable: what refers to it is refused",
    "epochs": "a variable",
    "network": "a variable",
    "logger.wandb.job_type": "handed on to wandb",
    "logger.wandb.group": "likewise",
    "logger.wandb.tags": "likewise",
    "logger.wandb.log_model": "a word or a truth value; a list is wandb's to refuse",
}
"""Keys whose value may be of any type."""


@dataclass(frozen=True)
class Key:
    """A key of a file, and where it stands."""

    name: str
    full: str
    """Dotted, as it is composed."""
    line: int
    value: yaml.Node
    place: int
    """The line that is named for it: its own, or that of the list it stands in."""


@dataclass(frozen=True)
class Break:
    """One mutation."""

    what: str
    file: str
    """`optim/adam`: relative to its shelf, without `.yaml`."""
    words: tuple[str, ...]
    said: tuple[str, ...]
    """What the message has to hold."""
    text: str | None = field(default=None, repr=False)
    """The file's text with the break in it; None where the break is typed."""


def files() -> dict[str, Path]:
    found = [(shelf, file) for shelf, pattern in SHELVES.items() for file in sorted(shelf.glob(pattern))]
    ours = {str(file.relative_to(shelf).with_suffix("")): file for shelf, file in found}
    ours = {name: file for name, file in ours.items() if name not in BY_ITSELF}
    # A pipeline's or a box's keys are names of its user's own: test_pipeline.py and test_eval_box.py break them.
    return {name: file for name, file in ours.items() if not re.search("\n(pipeline|eval_box):", file.read_text())}


FILES = files()
ORDINARY = {file: path for file, path in FILES.items() if yaml.safe_load(path.read_text()) is not None}


def launch_of(file: str) -> tuple[str, ...]:
    group, _, option = file.rpartition("/")
    if file in LAUNCHED:
        return LAUNCHED[file]
    if group in ("", "experiment"):
        return (file,)
    if group == "sweep":
        return (*DIGITS, "-m", f"sweep={option}", "optim.lr=1e-3,1e-2")
    roomy = ROOMY if group in ("hardware", "resources") else ()
    workers = ("resources=one_worker",) if group == "site" and option != "local" else ()
    return (*DIGITS, f"{group}={option}", *roomy, *workers)


def keys(file: str) -> Iterator[Key]:
    group = file.rpartition("/")[0]
    is_global = "@package _global_" in FILES[file].read_text() or not group
    node = yaml.compose(FILES[file].read_text(), Loader=yaml.SafeLoader)
    for key in _keys(node, "" if is_global else f"{group}.", None):
        if not re.match(rf"({group}\.)?defaults(\.|$)", key.full):
            yield key


def _keys(node: yaml.Node, prefix: str, within: int | None) -> Iterator[Key]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _keys(item, prefix, within)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        line = key.start_mark.line + 1
        full = f"{prefix}{key.value}"
        yield Key(key.value, full, line, value, within or line)
        inside = line if isinstance(value, yaml.SequenceNode) else within
        yield from _keys(value, f"{full}.", inside)


def broken_line(file: str, line: int, old: str, new: str) -> str:
    lines = FILES[file].read_text().splitlines(keepends=True)
    assert old in lines[line - 1], (file, line, old)
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    return "".join(lines)


def misspelt(word: str, turn: int) -> str:
    """Drop or double the letter in the middle, in turn."""
    middle = next(place for place in range(len(word) // 2, len(word)) if word[place].isalpha())
    return word[:middle] + word[middle + 1 :] if turn % 2 and len(word) > 2 else word[: middle + 1] + word[middle:]


def misspelt_keys() -> Iterator[Break]:
    """A key at each nesting level of each file: the first of its level that no other file has shown yet."""
    seen: set[str] = set()
    for file in ORDINARY:
        levels: dict[str, list[Key]] = {}
        for key in keys(file):
            if key.full not in FREE:
                levels.setdefault(key.full.rpartition(".")[0], []).append(key)
        for turn, found in enumerate(levels.values()):
            for key in ([key for key in found if key.full not in seen] or found)[:1]:
                seen.add(key.full)
                wrong = misspelt(key.name, turn)
                text = broken_line(file, key.line, f"{key.name}:", f"{wrong}:")
                yield Break("misspelt", file, launch_of(file), (wrong, f"[mine/{file}.yaml:{key.place}]"), text)


def wrong_values() -> Iterator[Break]:
    """Each value once, with a word where no word belongs, or a list where none does."""
    seen: set[str] = set()
    for file in ORDINARY:
        for key in keys(file):
            is_leaf = not isinstance(key.value, yaml.MappingNode) and key.name != "_target_"
            has_sections = any(isinstance(item, yaml.MappingNode) for item in getattr(key.value, "value", ()))
            given_elsewhere = getattr(key.value, "value", "") == "???" or f"{key.full}=" in " ".join(launch_of(file))
            if not is_leaf or has_sections or given_elsewhere or key.full in seen or key.full in UNTYPED:
                continue
            seen.add(key.full)
            tag = key.value.tag.rpartition(":")[2]
            wrong = NONSENSE if tag in ("int", "float", "bool", "seq") else f"[{NONSENSE}]"
            text = re.sub(rf"({key.name}:)[^#\n]*", rf"\1 {wrong} ", FILES[file].read_text().splitlines()[key.line - 1])
            lines = FILES[file].read_text().splitlines()
            lines[key.line - 1] = text
            place = f"[mine/{file}.yaml:{key.place}]"
            named = () if file.startswith("hardware/") else (key.name,)  # those are told as what they become
            yield Break("wrong type", file, launch_of(file), (NONSENSE, place, *named), "\n".join(lines) + "\n")


def typed_values() -> Iterator[Break]:
    """The first value of a file of each group again, typed."""
    for file in {file.rpartition("/")[0]: file for file in ORDINARY}.values():
        for key in keys(file):
            if isinstance(key.value, yaml.ScalarNode) and key.name != "_target_" and key.full not in UNTYPED:
                override = f"{key.full}={{{NONSENSE}: 1}}"
                if "[" not in key.full and key.place == key.line:
                    yield Break("typed", file, (*launch_of(file), override), (NONSENSE, f"[command line: {override}]"))
                    break


def wrong_targets() -> Iterator[Break]:
    """Each target: one that is not there, and an argument that it does not take."""
    for file in ORDINARY:
        for key in keys(file):
            section = key.full.rpartition(".")[0]
            if key.name != "_target_" or key.place != key.line:
                continue
            path = "asparagus.models.mlp.MLP" if "${" in key.value.value else key.value.value
            target = f"{section}._target_={path}s"
            yield Break("target", file, (*launch_of(file), target), (f"{section}._target_", f"{path}s", target))
            if section in FREE and "wandb" in section:
                continue
            argument = f"{section}.{NONSENSE}=1"
            yield Break(
                "argument",
                file,
                (*launch_of(file), argument),
                (f"{section}.{NONSENSE}: ", f"[command line: {argument}]"),
            )


def wrong_options() -> Iterator[Break]:
    """Each option of each group, misspelt."""
    for turn, file in enumerate(FILES):
        group, _, option = file.rpartition("/")
        if group in ("", "core"):
            continue
        config = "train_cls" if group == "experiment" else DIGITS[0]
        wrong = f"{group}={misspelt(option, turn)}"
        yield Break(
            "option",
            file,
            (config, wrong),
            (f"{group}: {misspelt(option, turn)!r}", option, f"[command line: {wrong}]"),
        )


def unknown_keys() -> Iterator[Break]:
    """A key more at the end of each file, where nothing reads it."""
    for file, path in FILES.items():
        group = file.rpartition("/")[0]
        is_global = "@package _global_" in path.read_text() or not group
        section = "" if is_global else f"{group}."
        if group in ("logger", "plugins"):
            continue  # a logger by that name: see the targets
        line = len(path.read_text().splitlines()) + 1
        text = path.read_text().rstrip("\n") + f"\n{NONSENSE}_key: 1\n"
        yield Break("unknown", file, launch_of(file), (f"{section}{NONSENSE}_key", f"[mine/{file}.yaml:{line}]"), text)


BREAKS = [
    made
    for rule in (misspelt_keys, wrong_values, typed_values, wrong_targets, wrong_options, unknown_keys)
    for made in rule()
]


@pytest.fixture(scope="module")
def every_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks that asparagus brings, ten cases each, split."""
    root = tmp_path_factory.mktemp("every_task")
    for name, maker in MAKERS.items():
        module, _, function = maker.rpartition(".")
        getattr(importlib.import_module(module), function)(root, cases=10)
        make_split(root, name, "split_80_20")
    return root


@pytest.fixture
def shelf(home: Path, every_task: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with every task, a file of weights and a module of one's own in it."""
    monkeypatch.setenv("ASPARAGUS_DATA", str(every_task))
    monkeypatch.syspath_prepend(str(home))
    (home / "weights.pt").write_bytes(b"PK")  # as files of torch.save begin
    own = "import pytorch_lightning as pl\n\n\nclass Own(pl.LightningModule):\n    def __init__(self, optim): ...\n"
    (home / "broken_module.py").write_text(own)
    return home


def started_nothing(home: Path) -> bool:
    ray = sys.modules.get("ray")
    return not (home / "models").exists() and not (home / "results").exists() and not (ray and ray.is_initialized())


def test_there_are_breaks_of_every_kind_for_every_file():
    touched = {made.file for made in BREAKS}
    assert touched | {"core/base"} == set(FILES)
    assert {made.what for made in BREAKS} == {
        "misspelt",
        "wrong type",
        "typed",
        "target",
        "argument",
        "option",
        "unknown",
    }
    assert len(BREAKS) >= 200
    assert set(LAUNCHED) <= set(FILES)
    assert set(NOT_HERE) <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_unbroken_it_is_launched(file, shelf, capsys):
    status = run("launch", [*launch_of(file), "--dry-run"])
    said = capsys.readouterr()
    if file in NOT_HERE and status == 2:
        assert NOT_HERE[file] in said.err
        assert len(said.err.strip().splitlines()) == 1
        return
    assert (status, said.err) == (0, "")


SAMPLED = 6
"""One break in so many is tried each time, all of them by `make test-slow`."""


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(
            made, id=f"{made.what}: {made.file}: {made.said[0]}", marks=[pytest.mark.slow] if turn % SAMPLED else []
        )
        for turn, made in enumerate(BREAKS)
    ],
)
def test_a_broken_config_is_refused_and_the_place_is_named(made, shelf, capsys):
    words = list(made.words)
    if made.text is not None:
        copy = shelf / "mine" / f"{made.file}.yaml"
        copy.parent.mkdir(parents=True)
        copy.write_text(made.text)
        words += ["-cd", "mine"]
    assert run("launch", words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    told = re.sub(r" <- [^\]]*\]", "]", said.err)  # without the places that a value refers to
    for part in made.said:
        assert part in told or part in said.err.replace(" <- ", "] ["), said.err  # a variable: the place of either
    assert started_nothing(shelf)
