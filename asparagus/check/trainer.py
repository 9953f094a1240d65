"""The Trainer's arguments: their names against its signature, their values against what Lightning would say later."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from typing import Any

from asparagus.check.target import call, is_open, nested
from asparagus.errors import one_of
from asparagus.spec import ENDLESS, RAY_STRATEGIES, Spec

TRAINER = "pytorch_lightning.Trainer"
PRECISIONS = (
    "16-mixed",
    "16-true",
    "bf16-mixed",
    "bf16-true",
    "32-true",
    "64-true",
    "transformer-engine",
    "transformer-engine-float16",
    "16",
    "bf16",
    "32",
    "64",
)
ONE_OF: dict[str, tuple[str, ...]] = {
    "precision": PRECISIONS,
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "gradient_clip_algorithm": ("norm", "value"),
    "profiler": ("simple", "advanced", "pytorch", "xla"),
    "deterministic": ("True", "False", "warn"),
}
"""Texts that an argument may be; sections with a `_target_` are objects, and Lightning's to judge."""
STRATEGIES = (
    "auto",
    "ddp",
    "ddp_find_unused_parameters_true",
    "ddp_find_unused_parameters_false",
    "fsdp",
    "fsdp_cpu_offload",
    "deepspeed",
    "deepspeed_stage_1",
    "deepspeed_stage_2",
    "deepspeed_stage_3",
    "single_device",
)
SPAWNING = ("ddp_spawn", "ddp_fork", "ddp_notebook")
ON_GPUS = ("fsdp", "deepspeed")
"""Strategies that begin so do not run without one."""
LEAST: dict[str, float] = {
    "max_epochs": ENDLESS,
    "min_epochs": 0,
    "max_steps": ENDLESS,
    "max_samples": 1,
    "min_steps": 0,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": 0,
    "num_sanity_val_steps": -1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "reload_dataloaders_every_n_epochs": 0,
    "fast_dev_run": 0,
}
SHARES = (
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
)
"""Numbers that are a share of an epoch as a fraction, and batches as a whole number."""
OURS = {
    "barebones": "It would leave no metrics, no checkpoints and no record.",
    "model_registry": "Checkpoints are registered by the record.",
}
"""Arguments that cannot be had here, and why."""
THEIRS = ("max_samples",)
"""Keys of the section that are no argument of Lightning's: the plan makes steps of them."""
DECIDES_LENGTH = (
    "max_epochs",
    "max_steps",
    "max_samples",
    "limit_train_batches",
    "accumulate_grad_batches",
    "overfit_batches",
)
LENGTHS = ("iterations_per_epoch", "max_iterations")
DURATION = re.compile(r"\d+:\d{1,2}:\d{1,2}:\d{1,2}")
DURATION_KEYS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")


def trainer(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with the section `trainer`."""
    asked = spec.trainer
    for key in OURS.keys() & asked.keys():
        if asked[key]:
            yield f"trainer.{key}: cannot be set here. {OURS[key]}"
    yield from call("trainer", TRAINER, {key: value for key, value in asked.items() if key not in THEIRS}, frozenset())
    for key, value in asked.items():
        yield from nested(f"trainer.{key}", value)
    for rule in (_names, _accelerator, _strategy, _numbers, _shares, _length, _samples, _plugins):
        yield from rule(spec)


def epoch(spec: Spec, batches: int | None) -> Iterator[str]:
    """Yield what does not fit the batches of an epoch, where their number is known."""
    if batches is None:
        return
    interval = spec.trainer.get("val_check_interval")
    within = spec.trainer.get("check_val_every_n_epoch", 1) is not None
    if isinstance(interval, int) and not isinstance(interval, bool) and interval > batches and within:
        yield (
            f"trainer.val_check_interval: {interval} batches, and an epoch has {batches}. Give fewer, a share (0.5), "
            "or trainer.check_val_every_n_epoch=null to count across epochs."
        )
    for key in ("limit_train_batches", "overfit_batches"):
        share = spec.trainer.get(key)
        if isinstance(share, float) and 0 < share < 1 and int(share * batches) == 0:
            yield f"trainer.{key}: {share} of {batches} batches is none. Give a larger share, or a number of batches."


def _plain(value: Any) -> bool:
    """Tell a value that can be judged here from one that is an object, or known later."""
    is_object = isinstance(value, dict) and "_target_" in value
    return value is not None and not is_object and not is_open(value)


def _names(spec: Spec) -> Iterator[str]:
    for key, allowed in ONE_OF.items():
        value = spec.trainer.get(key)
        if _plain(value) and str(value) not in allowed:
            yield one_of(f"trainer.{key}", value, allowed)


def _accelerator(spec: Spec) -> Iterator[str]:
    """Check that what is asked for is in this machine; what Ray workers have is counted with the site."""
    asked, here = spec.trainer.get("accelerator"), spec.site.address == "local" and not spec.resources.workers
    if here and asked in ("gpu", "cuda") and not spec.site.gpus_per_node:
        yield (
            f"trainer.accelerator: {asked} asked for, and this machine has no NVIDIA GPU. Use "
            "trainer.accelerator=cpu (hardware=cpu), or a site that has some (site=cluster resources=one_gpu)."
        )
    if here and asked == "mps" and sys.platform != "darwin":
        yield "trainer.accelerator: mps is the GPU of a Mac, and this machine is none. Use cpu or auto."
    if here and asked == "tpu" and importlib.util.find_spec("torch_xla") is None:
        yield "trainer.accelerator: tpu needs torch_xla, which is not installed here. Use cpu or auto."


def _strategy(spec: Spec) -> Iterator[str]:
    strategy, workers = spec.trainer.get("strategy"), spec.resources.workers
    gpus = spec.site.gpus_per_node and spec.trainer.get("accelerator") != "cpu"
    if strategy == "dp":
        yield "trainer.strategy: 'dp' is gone from Lightning. Use ddp (with resources.workers=2 or more)."
    elif strategy in SPAWNING:
        yield f"trainer.strategy: {strategy} starts processes of its own, and Ray starts them here. Use ddp or auto."
    elif strategy is not None and workers and strategy not in RAY_STRATEGIES:
        yield one_of("trainer.strategy on Ray workers", strategy, RAY_STRATEGIES)
    elif isinstance(strategy, dict) or (_plain(strategy) and strategy not in STRATEGIES):
        yield one_of("trainer.strategy", strategy, STRATEGIES)
    elif str(strategy).startswith(ON_GPUS) and not workers and not gpus:
        yield f"trainer.strategy: {strategy} needs a GPU, and there is none here. Use auto, or leave it out."
    if workers and spec.trainer.get("accelerator") not in (None, "auto", _kind(spec)):
        yield (
            f"trainer.accelerator: {spec.trainer['accelerator']!r} and resources.gpus_per_worker="
            f"{spec.resources.gpus_per_worker:g} exclude each other: workers train on what Ray gives them. Use "
            "resources.gpus_per_worker."
        )


def _kind(spec: Spec) -> str:
    return "gpu" if spec.resources.gpus_per_worker else "cpu"


def _numbers(spec: Spec) -> Iterator[str]:
    for key, least in LEAST.items():
        value = spec.trainer.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < least:
            yield f"trainer.{key}: {value} is too small. The least is {least:g}."
    for low, high in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        fewest, most = spec.trainer.get(low), spec.trainer.get(high)
        if isinstance(fewest, int) and isinstance(most, int) and ENDLESS < most < fewest:
            yield f"trainer.{low}: {fewest} and trainer.{high}: {most} exclude each other."


def _shares(spec: Spec) -> Iterator[str]:
    for key in SHARES:
        value = spec.trainer.get(key)
        if value is None or not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        if value < 0 or (isinstance(value, float) and value > 1):
            yield f"trainer.{key}: {value} is neither a share from 0.0 to 1.0 nor a number of batches."
        elif value == 0 and key == "val_check_interval":
            yield "trainer.val_check_interval: 0 would never validate. Give a share of an epoch, or batches."


def _plugins(spec: Spec) -> Iterator[str]:
    given = spec.trainer.get("plugins")
    if given and not (isinstance(given, list) and all(isinstance(each, dict) and "_target_" in each for each in given)):
        yield f"trainer.plugins: {given!r} given, but it is a list of sections with a _target_."


def _duration(key: str, value: Any) -> Iterator[str]:
    """Check `days:hours:minutes:seconds`, or a section of them."""
    if isinstance(value, dict):
        for unit, amount in value.items():
            if unit not in DURATION_KEYS:
                yield one_of(f"{key}.{unit}", unit, DURATION_KEYS)
            elif isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount < 0:
                yield f"{key}.{unit}: {amount!r} is no number of {unit}."
    elif _plain(value) and not (isinstance(value, str) and DURATION.fullmatch(value)):
        yield f"{key}: {value!r} is no duration. Write days:hours:minutes:seconds, e.g. 00:12:00:00."


def _length(spec: Spec) -> Iterator[str]:
    asked = spec.trainer
    for key in DECIDES_LENGTH:
        if isinstance(asked.get(key), str) and any(name in asked[key] for name in LENGTHS):
            yield f"trainer.{key}: {asked[key]} depends on itself: how long it trains follows from it. Give a number."
    yield from _duration("trainer.max_time", asked.get("max_time"))
    if not isinstance(often := asked.get("val_check_interval"), (int, float)):
        yield from _duration("trainer.val_check_interval", often)
    ends = tuple(asked.get(key) for key in ("max_epochs", "max_steps", "max_samples"))
    if spec.run.mode == "fit" and all(end in (None, ENDLESS) for end in ends) and asked.get("max_time") is None:
        yield "trainer.max_epochs: nothing ends this training. Give trainer.max_epochs, max_steps or max_time."


def _samples(spec: Spec) -> Iterator[str]:
    """Check that samples can be made steps."""
    samples, batch = spec.trainer.get("max_samples"), spec.data.get("batch_size")
    if samples is None:
        return
    if not isinstance(samples, int) or isinstance(samples, bool):
        yield f"trainer.max_samples: {samples!r} is no whole number of samples."
    elif not isinstance(batch, int):
        yield "trainer.max_samples: steps are counted by data.batch_size, which is not given. Give trainer.max_steps."
    elif 0 < samples < (step := batch * max(1, spec.resources.workers)):
        yield f"trainer.max_samples: {samples} do not fill one step of {step}. Give at least {step}."
