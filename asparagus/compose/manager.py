"""ATOMMIC's `exp_manager`: what it adds to a training becomes our sections, the rest says what to use (SEEDS B.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asparagus.compose.tree import Tree, put
from asparagus.errors import one_of

LOGGERS = {
    "create_tensorboard_logger": ("tensorboard", {"_target_": "pytorch_lightning.loggers.TensorBoardLogger"}),
    "create_wandb_logger": ("wandb", {"_target_": "pytorch_lightning.loggers.WandbLogger"}),
}
EMA = "pytorch_lightning.callbacks.EMAWeightAveraging"
OF_EMA = ("enable", "enabled", "decay", "every_n_steps", "cpu_offload", "validate_original_weights")
EARLY_STOPPING = "pytorch_lightning.callbacks.EarlyStopping"
STOPPING = {"monitor": "val/loss", "mode": "min", "min_delta": 0.001, "patience": 10}
"""What ATOMMIC's early stopping is, unless told otherwise."""

Answers = Mapping[str, tuple[tuple[Any, ...], str]]
"""Key -> values that ask for what is so here anyway, and what to do for any other."""

ANSWERS: Answers = {
    "version": ((), "Runs are numbered. run.name=... gives one a name that no other may have."),
    "use_datetime_version": ((False,), "Runs are numbered, and the record knows when each began. Leave it out."),
    "resume_past_end": (
        (False,),
        "A finished run is shown. run.resume_from_checkpoint=PATH starts another one from its whole state.",
    ),
    "resume_ignore_no_checkpoint": ((True, False), ""),
    "create_checkpoint_callback": (
        (True,),
        "The last one is always kept; checkpoint.keep_best=0 keeps no other.",
    ),
    "create_preemption_callback": (
        (True,),
        "A SIGTERM always leaves a checkpoint; failures.grace_s is how long it may take.",
    ),
    "files_to_copy": (
        ((), []),
        "The config, the commit and what differs from it are kept with every run. Commit the files, or leave it out.",
    ),
    "log_step_timing": ((False,), "trainer.profiler=simple measures each part of a step. Leave it out."),
    "disable_validation_on_resume": ((True,), "What goes on is validated at the end of its epoch. Leave it out."),
    "seconds_to_sleep": ((0, 5), "Workers wait for each other here. Leave it out."),
    "summary_writer_kwargs": (({},), "Give them below logger.tensorboard."),
}
OF_CHECKPOINTS: Answers = {
    "save_last": ((True,), "The last checkpoint is always kept."),
    "filename": ((), "Checkpoints are called epoch=E-step=S, and each has its metrics beside it. Leave it out."),
    "dirpath": ((), "Checkpoints lie in their run's folder, under ASPARAGUS_MODELS. Leave it out."),
    "prefix": ((), "Checkpoints are called epoch=E-step=S. Leave it out."),
    "postfix": ((), "asp model export RUN FILE writes the archive, under any name."),
    "always_save_atommic": ((False,), "asp model export RUN FILE writes the archive, when it is wanted."),
    "save_atommic_on_train_end": ((False,), "asp model export RUN FILE writes the archive, when it is wanted."),
    "save_best_model": (
        (False,),
        "asp model export RUN FILE --checkpoint best writes the archive.",
    ),
    "every_n_train_steps": ((), "Checkpoints are written after epochs: checkpoint.every_n_epochs."),
    "save_weights_only": ((False,), "A run goes on from its checkpoints, so they hold the whole state."),
}
MOVED = ("name", "exp_dir", "explicit_log_dir", "resume_if_exists", "resume_from_checkpoint")
"""Keys that are gone by now: `RENAMED` and `GONE` knew them."""
OURS = ("ema", "create_early_stopping_callback", "early_stopping_callback_params", "max_time_per_run")
SECTION = "checkpoint_callback_params"
KNOWN = (*MOVED, *LOGGERS, "wandb_logger_kwargs", *OURS, SECTION, *ANSWERS)
OF_SECTION = ("monitor", "mode", "save_top_k", "every_n_epochs", *OF_CHECKPOINTS)


def manager(tree: Tree, problems: list[str]) -> None:
    """Take `exp_manager` out: averaged weights, an early end, a limit of time and loggers become our sections."""
    given = tree.pop("exp_manager", None)
    if given is None:
        return
    if not isinstance(given, dict):
        problems.append(f"exp_manager: {given!r} given, but it is a section.")
        return
    _averaged(tree, given, problems)
    _early_end(tree, given, problems)
    _loggers(tree, given, problems)
    if (limit := given.pop("max_time_per_run", None)) is not None:
        put(tree, "trainer.max_time", limit)
    checkpoints = _section(given, SECTION, OF_SECTION, problems)
    _answered(f"exp_manager.{SECTION}", checkpoints, OF_CHECKPOINTS, problems)
    _answered("exp_manager", given, ANSWERS, problems)
    problems += [one_of(f"exp_manager.{key}", key, KNOWN) for key in given if key not in KNOWN]


def _averaged(tree: Tree, given: Tree, problems: list[str]) -> None:
    """`ema: {enable: true, decay: 0.999}`."""
    ema = _section(given, "ema", OF_EMA, problems)
    if ema.get("enable") or ema.get("enabled"):
        decay = ema.get("decay", 0.999)
        if ema.get("validate_original_weights"):
            problems.append("exp_manager.ema.validate_original_weights: the averaged ones are validated here.")
        if not isinstance(decay, (int, float)) or not 0 <= decay <= 1:
            problems.append(f"exp_manager.ema.decay: {decay!r} is no number from 0 to 1.")
        section = {"_target_": EMA, "decay": decay, "update_every_n_steps": ema.get("every_n_steps", 1)}
        put(tree, "callbacks.ema", section | ({"device": "cpu"} if ema.get("cpu_offload") else {}))


def _early_end(tree: Tree, given: Tree, problems: list[str]) -> None:
    """`create_early_stopping_callback: true`."""
    stopping = _section(given, "early_stopping_callback_params", (), problems)
    if given.pop("create_early_stopping_callback", None):
        put(tree, "callbacks.early_stopping", {"_target_": EARLY_STOPPING, **STOPPING, **stopping})
    elif stopping:
        problems.append(
            "exp_manager.early_stopping_callback_params: given, and nothing stops early. Set "
            "exp_manager.create_early_stopping_callback=true, or leave them out."
        )


def _loggers(tree: Tree, given: Tree, problems: list[str]) -> None:
    """`create_tensorboard_logger: true`."""
    options = given.pop("wandb_logger_kwargs", None) or {}
    for key, (name, section) in LOGGERS.items():
        wanted = given.pop(key, None)
        if wanted not in (None, True, False):
            problems.append(f"exp_manager.{key}: {wanted!r} given, but it is true or false.")
        elif wanted:
            put(tree, f"logger.{name}", {**section, **(options if name == "wandb" else {})})


def _answered(where: str, given: Tree, answers: Answers, problems: list[str]) -> None:
    """Take out what is so here anyway; anything else is a problem that says what to use."""
    for key, (as_it_is, instead) in answers.items():
        value = given.pop(key, None)
        if value is not None and value not in as_it_is:
            problems.append(f"{where}.{key}: {value!r} is not to be had here. {instead}")


def _section(given: Tree, name: str, known: tuple[str, ...], problems: list[str]) -> Tree:
    """Take a section out of exp_manager; what is none, or has other keys than these, is a problem."""
    section = given.pop(name, None)
    if not isinstance(section, dict | None):
        problems.append(f"exp_manager.{name}: {section!r} given, but it is a section.")
        return {}
    section = section or {}
    problems += [one_of(f"exp_manager.{name}.{key}", key, known) for key in section if known and key not in known]
    return section
