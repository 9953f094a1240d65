"""How other launchers spell what we call otherwise: read as documented there, turned into our keys here.

Five systems' experiment files are meant to feel at home (docs/coming-from.md). A row says which key of theirs is
which of ours; a function turns a section whose shape differs. What has no counterpart here is a problem that
says where to go.
"""

from __future__ import annotations

import re
from typing import Any

from asparagus.callbacks.steps import FREEZES
from asparagus.compose import sesemi
from asparagus.compose.devices import HARDWARE, devices_to_workers, hardware, run_gpus, without_dp
from asparagus.compose.manager import manager
from asparagus.compose.tree import Tree, copied, get, pop, put

RENAMED: dict[str, str] = {
    # Asparagus
    "run_id": "run.id",
    "resume_training": "run.resume",
    "experiment.task": "task",
    "experiment.stage": "stage",
    "experiment.pretrained_run_id": "pretrained_run_id",
    "experiment.pretrained_checkpoint_name": "pretrained_checkpoint_name",
    "checkpoint_run_id": "pretrained_run_id",
    "load_checkpoint_name": "pretrained_checkpoint_name",
    "plugin": "plugins",
    "data.splits": "data.split",
    "data.train_split": "data.split",
    "max_samples": "trainer.max_samples",
    "steps_per_epoch": "data.iterations_per_epoch",
    # ATOMMIC
    "exp_manager.name": "run.label",
    "exp_manager.resume_if_exists": "run.resume",
    "exp_manager.resume_from_checkpoint": "run.resume_from_checkpoint",
    "exp_manager.checkpoint_callback_params.monitor": "checkpoint.monitor",
    "exp_manager.checkpoint_callback_params.mode": "checkpoint.mode",
    "exp_manager.checkpoint_callback_params.save_top_k": "checkpoint.keep_best",
    "exp_manager.checkpoint_callback_params.every_n_epochs": "checkpoint.every_n_epochs",
    "model.optim": "optim",
    "model.train_ds": "data.train",
    "model.validation_ds": "data.val",
    "model.test_ds": "data.test",
    # hydra_lightning
    "task.run_name": "run.label",
    "task.name": "task",
    "datamodule": "data",
    "module": "model.module",
    # SESEMI
    "run.seed": "seed",
    "run.num_epochs": "trainer.max_epochs",
    "run.num_iterations": "trainer.max_steps",
    "run.batch_size_per_gpu": "data.batch_size",
    "run.data_root": "data.root",
    "run.accelerator": "trainer.strategy",
    "learner": "model.module",
}
"""Key there -> key here. A section moves as a whole, and joins what is there already."""

SAME_THING = ("task", "stage", "pretrained_run_id", "pretrained_checkpoint_name")
"""Keys that nothing on the shelf sets: two different values of them were both meant."""

BUILT_BY_THEMSELVES = ("module", "datamodule")
"""Sections whose inner ones are theirs to build: `_recursive_` is false unless they say otherwise (SEEDS C27)."""

GONE: dict[str, str] = {
    "run.dir": "Runs have their own folders under ASPARAGUS_MODELS.",
    "exp_manager.exp_dir": "Runs have their own folders under ASPARAGUS_MODELS.",
    "exp_manager.explicit_log_dir": "Runs have their own folders under ASPARAGUS_MODELS.",
    "hf_model_id": "Download the weights and give init_from=file:/path/to/weights.",
}
"""Keys without a counterpart, and what to do instead."""

ONE_OF_THESE: tuple[tuple[str, ...], ...] = (
    ("run.num_epochs", "run.num_iterations"),
    ("pretrained_run_id", "checkpoint_run_id", "checkpoint_path", "hf_model_id"),
    ("init_from_ptl_ckpt", "init_from_atommic_model", "init_from_pretrained_model"),
)
"""Keys that exclude each other, named in one problem."""

AUTO = "auto"
"""`optim.args.name`: the params class that belongs to the optimizer's name."""
IN_OPTIM = re.compile(r"^((?:model\.)?optim(?:\.sched)?)\.")
"""What `args.params` may stand in."""
WARM_STARTS: dict[str, str] = {
    "init_from_ptl_ckpt": "",
    "init_from_atommic_model": "asp model import FILE prints what init_from takes.",
    "init_from_pretrained_model": "Give init_from=model:<name>@<alias> (asp model list), or the weights' file:/path.",
}
"""ATOMMIC's warm starts, and what takes their place where the file is no checkpoint."""
AFTER_EACH = -1
"""`trainer.check_val_every_n_epoch` in ATOMMIC's projects: Lightning then validates after each epoch."""
PARENT_KEYS = ("pretrained_run_id", "pretrained_checkpoint_name")
DEFAULT_CHECKPOINT = "last"
TRAINERS = ("pytorch_lightning.Trainer", "lightning.Trainer", "lightning.pytorch.Trainer")
"""What `trainer._target_` may be: there is one Trainer."""


def spelled_our_way(tree: Tree, gpus: int, problems: list[str]) -> Tree:
    """Return the config with every documented spelling turned into ours.

    Args:
        tree: Plain values; left as they are.
        gpus: How many GPUs `-1` (all of them) means here.
        problems: Is added to.
    """
    tree = copied(tree)
    accelerator = get(tree, "run.accelerator")
    _exclusive(tree, problems)
    sesemi.in_our_words(tree, problems)
    for key, advice in GONE.items():
        if pop(tree, key) is not None:
            problems.append(f"{key}: has no counterpart here. {advice}")
    _modes(tree, problems)
    _null_means_so(tree)
    for old, new in RENAMED.items():
        _move(tree, old, new, problems)
    for step in (_names, _own_module, _params_form, _freezing, manager, _parent, _warm_start):
        step(tree, problems)
    for of_trainer in (hardware, run_gpus, _trainer):
        of_trainer(tree, problems)
    devices_to_workers(tree, gpus, problems)
    if accelerator == "dp":
        without_dp(tree)
    return tree


def sources_of(key: str) -> list[str]:
    """Return the documented spellings that set a key of ours: where a problem of it may come from."""
    extra = {
        "init_from": [*PARENT_KEYS, *WARM_STARTS, "checkpoint_path", "run.pretrained_checkpoint_path"],
        "trainer.accelerator": ["run.gpus", "trainer.gpus"],
        "trainer.num_nodes": ["run.num_nodes"],
        "trainer.devices": ["run.gpus", "trainer.gpus"],
        "run.mode": ["mode"],
        "resources.workers": ["trainer.devices", "trainer.num_nodes", "run.gpus", "run.num_nodes", "hardware"],
        "resources.gpus_per_worker": ["trainer.accelerator", "run.gpus", "hardware.accelerator"],
        "callbacks": ["trainer.callbacks"],
        "logger": ["trainer.logger", "exp_manager.create_tensorboard_logger", "exp_manager.create_wandb_logger"],
    }
    grouped = [f"hardware.{name}" for name, ours in HARDWARE.items() if ours == key]
    older = list(older_of(key))
    nested = [IN_OPTIM.sub(r"\1.args.params.", one) for one in (key, *older) if IN_OPTIM.match(one)]
    return [*older, *nested, *extra.get(key, []), *grouped]


def older_of(key: str) -> dict[str, str]:
    """Return the documented keys that are the same as a key of ours, each with what of it moves as a whole."""
    moved = [*RENAMED.items(), *sesemi.HPARAMS.items(), ("model._model", "model.module")]
    if any(f"{key}.".startswith(f"{old}.") for old, _ in moved):  # `task.name` is a spelling, not a part of `task`
        return {}
    return {old + key.removeprefix(new): old for old, new in moved if f"{key}.".startswith(f"{new}.")}


def _exclusive(tree: Tree, problems: list[str]) -> None:
    for group in ONE_OF_THESE:
        given = [key for key in group if get(tree, key) is not None]
        if len(given) > 1:
            problems.append(f"{given[0]}: excludes {', '.join(given[1:])}. Provide only one of: {', '.join(group)}.")


def _move(tree: Tree, old: str, new: str, problems: list[str]) -> None:
    given = pop(tree, old)
    if given is None:
        return
    before = get(tree, new)
    if new in SAME_THING and isinstance(before, str) and before != given:
        problems.append(f"{old}: {given!r} and {new}: {before!r} mean the same key. Give one of them.")
    if old in BUILT_BY_THEMSELVES and isinstance(given, dict):
        given = {"_recursive_": False, **given}
    if old == "model.optim" and isinstance(given, dict) and {"name", "_target_"} & given.keys():
        tree.pop("optim", None)  # another optimizer's settings, or its schedule, were never meant
    put(tree, new, given)


def _modes(tree: Tree, problems: list[str]) -> None:
    """`run.mode: FIT` (SESEMI) and `mode: test` (ATOMMIC), and the checkpoints that go with them."""
    mode = pop(tree, "mode")
    if mode is not None:
        mode = "fit" if str(mode).lower() == "train" else mode
        put(tree, "run.mode", mode)
    if isinstance(mode := get(tree, "run.mode"), str):
        put(tree, "run.mode", mode.lower())
    wanted = pop(tree, "pretrained") is not False
    weights = [pop(tree, key) for key in ("run.pretrained_checkpoint_path", "checkpoint_path")]
    if isinstance(tree.get("checkpoint"), str):
        path = tree.pop("checkpoint")
        weights.append(path if wanted and path != "None" else None)
    for path in filter(None, weights):
        if tree.get("init_from") not in (None, f"file:{path}"):
            problems.append(
                f"init_from: {tree['init_from']!r} and the checkpoint {path!r} both name a parent. Give one."
            )
        tree["init_from"] = f"file:{path}"


def _null_means_so(tree: Tree) -> None:
    """`run.seed: null` asks for a drawn seed, and `run.num_iterations` for no end by epochs (SEEDS D7, D14)."""
    run = tree.get("run")
    if isinstance(run, dict) and run.get("seed", ...) is None:
        tree["seed"] = None
    if get(tree, "run.num_iterations") is not None and get(tree, "run.num_epochs") is None:
        put(tree, "trainer.max_epochs", -1)


def _names(tree: Tree, problems: list[str]) -> None:  # noqa: ARG001 - one of the steps
    """`run.id: baseline` (SESEMI) names a run; numbers are drawn."""
    run = tree.get("run")
    if isinstance(run, dict) and isinstance(run.get("id"), str) and not run["id"].isdigit():
        run["id"], run["name"] = None, run.get("name") or run["id"]


def _own_module(tree: Tree, problems: list[str]) -> None:  # noqa: ARG001 - one of the steps
    """`model.net: MyNet` with `model._model._target_: my.repo.${model.net}` (SEEDS A49)."""
    model = tree.get("model")
    if not isinstance(model, dict):
        return
    if isinstance(model.get("_model"), dict):
        put(tree, "model.module", model.pop("_model"))
        if isinstance(model.get("net"), str):
            model.pop("net")


def _params_form(tree: Tree, problems: list[str]) -> None:
    """`args: {name: auto, params: {...}}` of an optimizer or a schedule, as its params class takes them (SEEDS B10)."""
    for where in ("optim", "optim.sched"):
        section = get(tree, where)
        if not isinstance(section, dict) or "args" not in section:
            continue
        args = section.pop("args")
        params = args.get("params", {}) if isinstance(args, dict) else None
        if not isinstance(params, dict) or args.keys() - {"name", "params"}:
            problems.append(f"{where}.args: {args!r} given, but it is a section: {{name: auto, params: {{...}}}}.")
            continue
        name = section.get("name")
        own = f"{name}Params"
        if str(args.get("name", AUTO)).replace("_", "").lower() not in (AUTO, own.lower()):
            problems.append(
                f"{where}.args.name: {args['name']!r} is not the params class of {where}.name: {name!r}. Give auto, or "
                f"{own}."
            )
        for key, value in params.items():
            if key in section:
                problems.append(f"{where}.args.params.{key}: stands in {where} too. Give it once.")
            section[key] = value


def _freezing(tree: Tree, problems: list[str]) -> None:
    """`model.freeze_updates: {enabled: true, modules: {encoder: 200}}` (SEEDS B22)."""
    for where in ("model.freeze_updates", "freeze_updates"):
        section = pop(tree, where)
        if isinstance(section, dict):
            put(tree, "callbacks.freeze_updates", {"_target_": FREEZES, **section})
        elif section is not None:
            problems.append(f"{where}: {section!r} given, but it is a section: {{modules: {{encoder: 200}}}}.")


def _parent(tree: Tree, problems: list[str]) -> None:
    """`pretrained_run_id` and `pretrained_checkpoint_name` fill `init_from` (SEEDS A29, A30)."""
    run_id, name = (pop(tree, key) for key in PARENT_KEYS)
    if run_id is None and name is not None:
        problems.append(f"pretrained_checkpoint_name: {name!r} needs pretrained_run_id, the run that it belongs to.")
    if run_id is not None:
        meant = f"run:{run_id}/{name or DEFAULT_CHECKPOINT}"
        if tree.get("init_from") not in (None, meant):
            problems.append(
                f"init_from: {tree['init_from']!r} and pretrained_run_id: {run_id!r} both name a parent. Give one."
            )
        tree["init_from"] = meant


def _warm_start(tree: Tree, problems: list[str]) -> None:
    """`init_from_ptl_ckpt: PATH`, or `{encoder: {path, include, exclude}, ...}`, and its kin (SEEDS B.2)."""
    for key, instead in WARM_STARTS.items():
        given = pop(tree, key)
        if given is None:
            continue
        sources = given if isinstance(given, dict) else {"first": {"path": given}}
        wrong = [name for name, part in sources.items() if not isinstance(part, dict) or not part.get("path")]
        if instead or wrong or not sources:
            problems.append(f"{key}: {given!r} given. {instead or 'Give a path, or {name: {path, include, exclude}}.'}")
            continue
        if tree.get("init_from") is not None:
            problems.append(f"init_from: {tree['init_from']!r} and {key} both name a parent. Give one.")
        (_, first), *more = sources.items()
        tree["init_from"] = f"file:{first['path']}"
        put(tree, "transfer", {name: value for name, value in first.items() if name != "path"})
        put(tree, "transfer.more", dict(more))


def _trainer(tree: Tree, problems: list[str]) -> None:
    """Trainer arguments that have a section of their own here: loggers, callbacks."""
    trainer = tree.get("trainer")
    if not isinstance(trainer, dict):
        return
    if (target := trainer.pop("_target_", TRAINERS[0])) not in TRAINERS:
        problems.append(f"trainer._target_: {target!r} given, but the Trainer is Lightning's. Code goes into `script`.")
    for key in ("_convert_", "_recursive_"):
        trainer.pop(key, None)
    if trainer.get("check_val_every_n_epoch") == AFTER_EACH:
        trainer["check_val_every_n_epoch"] = 1
    for section in ("callbacks", "logger"):
        _into_section(tree, section, trainer.pop(section, None), problems)


def _into_section(tree: Tree, section: str, given: Any, problems: list[str]) -> None:
    """Put what the Trainer takes as a list of objects under a section of names."""
    if given in (None, True, False):
        return
    several = [given] if isinstance(given, dict) and "_target_" in given else given
    entries = several.items() if isinstance(several, dict) else enumerate(several if isinstance(several, list) else [])
    if not isinstance(several, (dict, list)):
        problems.append(f"trainer.{section}: {given!r} given. Give sections with a _target_, under {section}.<name>.")
    for name, entry in entries:
        put(tree, f"{section}.{_named(name, entry)}", entry)


def _named(name: Any, entry: Any) -> str:
    """Return the key of a callback that stood in a list: its place and class."""
    target = str(entry.get("_target_", "")) if isinstance(entry, dict) else ""
    return name if isinstance(name, str) else f"{target.rpartition('.')[2] or 'entry'}_{name}"
