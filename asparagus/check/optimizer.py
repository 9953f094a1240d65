"""The section `optim`: names, arguments, and the numbers that torch and the schedules would refuse in training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeGuard

from asparagus.check.signature import signature_of
from asparagus.check.target import call, is_open, nameless, takes, target
from asparagus.errors import one_of
from asparagus.optim import (
    DERIVED,
    OPTIMIZERS,
    SCHEDULER_CLASSES,
    SCHEDULES,
    STEPPING,
    available_optimizers,
    available_schedulers,
    canonical,
)
from asparagus.optim import (
    ENDLESS as ENDLESS_SCHEDULES,
)
from asparagus.spec import ENDLESS, Spec
from asparagus.stages import STAGES
from asparagus.targets import SPECIAL

GIVEN = frozenset({"params"})
SCHEDULE_GIVEN = frozenset({"optimizer", "max_steps"})
FORMULA_GIVEN = frozenset({"step", "shape"})
"""Arguments that the module fills in."""
RATIO, OF_STEPS, EPOCHS = "_ratio", "_steps", "_epochs"
OTHERS = (RATIO, EPOCHS)
"""How a number of steps may be said otherwise."""
NOT_NEGATIVE = ("weight_decay", "eps", "momentum", "lr_decay", "initial_accumulator_value")
SPANS: dict[str, tuple[float, float]] = {
    "warmup_steps": (0, math.inf),
    "warmup_ratio": (0, 1),
    "warmup_epochs": (0, math.inf),
    "min_lr": (0, math.inf),
    "max_steps": (ENDLESS, math.inf),
}
"""Numbers of a schedule, each from and to."""
SCHEDULE_KEYS = frozenset({"name", *SPANS, *STEPPING, *DERIVED})
STEPS = ("warmup_steps", "max_steps")


def optimizer(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with the optimizer and its schedule."""
    optim = _at_one_rate(spec)
    name, path = optim.get("name"), optim.get("_target_")
    known = isinstance(name, str) and name.lower() in OPTIMIZERS
    if path is None and name is None:
        yield from nameless("optim", optim, available_optimizers())
    elif path is None and not known:
        yield one_of("optim.name", name, available_optimizers())
    else:
        path = str(path or OPTIMIZERS[str(name).lower()])
        arguments = {key: value for key, value in optim.items() if key not in ("name", "sched", "params", *SPECIAL)}
        yield from call("optim", path, arguments, GIVEN)
    yield from groups("optim", optim.get("params"), path)
    yield from _lr_of(spec, path)
    if known and "_target_" not in optim:
        yield from _numbers(optim)
    if isinstance(sched := optim.get("sched"), dict) and sched:
        yield from _lengths(sched)
        for one in _each(sched):
            yield from _one_schedule(spec, one)
    elif sched:
        yield f"optim.sched: {sched!r} given, but it is a section, e.g. {{name: cosine, warmup_ratio: 0.05}}."


def _rates(spec: Spec) -> list[Any]:
    """Return the learning rates: one, or those that a stage trains at once."""
    given = spec.optim.get("lr")
    stage = STAGES.get(spec.stage)
    return given or [None] if isinstance(given, list) and stage is not None and stage.many_rates else [given]


def _at_one_rate(spec: Spec) -> dict[str, Any]:
    """Return the section as one optimizer of several takes it."""
    return {**spec.optim, "lr": _rates(spec)[0]} if "lr" in spec.optim else spec.optim


def _lr_of(spec: Spec, path: Any) -> Iterator[str]:
    """Check the learning rates; a class of one's own may have none."""
    if spec.optim.get("lr") is not None or path is None or takes(path, "lr") is not False:
        for rate in _rates(spec):
            yield from learning_rate("optim", rate)
    elif spec.optim.get("sched"):
        yield f"optim.sched: {path} has no learning rate that could follow a schedule. Leave optim.sched out."


def learning_rate(where: str, lr: Any) -> Iterator[str]:
    """Check a learning rate that has to be there."""
    if lr is None:
        yield f"{where}.lr: is missing. Every optimizer needs it, e.g. {where}.lr=1e-3."
    elif not _number(lr) or not 0 < lr < math.inf:
        yield f"{where}.lr: {lr!r} is no positive number."


def _numbers(optim: dict[str, Any]) -> Iterator[str]:
    for key in NOT_NEGATIVE:
        if _number(value := optim.get(key)) and not value >= 0:
            yield f"optim.{key}: {value} is too small. The least is 0."
    betas = optim.get("betas")
    if isinstance(betas, list) and not all(_number(beta) and 0 <= beta < 1 for beta in betas):
        yield f"optim.betas: {betas} has to be numbers from 0 to below 1."
    if optim.get("nesterov") is True and (not optim.get("momentum") or optim.get("dampening")):
        yield "optim.nesterov: needs optim.momentum above 0, and no optim.dampening."


def groups(where: str, params: Any, optimizer_path: Any) -> Iterator[str]:
    """Check what has settings of its own; whether the module has such parts, only torch can tell (`--check`)."""
    if params is None:
        return
    if not isinstance(params, dict):
        yield f"{where}.params: is a section of dotted paths, each with its settings: {{.net.encoder: {{lr: 1e-5}}}}."
        return
    for path, settings in params.items():
        part = f"{where}.params.{path}"
        if not str(path).startswith("."):
            yield f"{part}: a path begins with a dot: '.{path}'."
        if not isinstance(settings, dict | None):
            yield f"{part}: {settings!r} given, but it is a section of settings: {{lr: 1e-5}}."
        elif settings and isinstance(optimizer_path, str):
            yield from call(part, optimizer_path, settings, GIVEN, whole=False)
        if isinstance(settings, dict) and "lr" in settings:
            yield from learning_rate(part, settings["lr"])


def _lengths(sched: dict[str, Any]) -> Iterator[str]:
    lists = {key: len(value) for key, value in sched.items() if isinstance(value, list)}
    if "name" in lists and len(set(lists.values())) > 1:
        yield f"optim.sched: lists of several lengths: {lists}. Give each key one value, or one for each name."


def _each(sched: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schedules of a section, one for each name of a list (SEEDS B21)."""
    names = sched.get("name")
    if not isinstance(names, list):
        return [sched]
    rest = {key: value for key, value in sched.items() if not isinstance(value, list)}
    lists = {key: value for key, value in sched.items() if isinstance(value, list)}
    each = (
        {key: value[n] for key, value in lists.items() if n < len(value) and value[n] is not None}
        for n in range(len(names))
    )
    return [{**rest, **own} for own in each]


def _one_schedule(spec: Spec, sched: dict[str, Any]) -> Iterator[str]:
    if path := SCHEDULER_CLASSES.get(canonical(sched.get("name"))) if "_target_" not in sched else None:
        yield from _own_schedule({**sched, "_target_": path})
    else:
        yield from _own_schedule(sched) if "_target_" in sched else _schedule(spec, sched)


def _own_schedule(sched: dict[str, Any]) -> Iterator[str]:
    """Check a scheduler by its `_target_`, and how Lightning is told to step it."""
    yield from interval("optim.sched", sched)
    arguments = {key: value for key, value in sched.items() if key not in ("name", "max_steps", *STEPPING, *DERIVED)}
    yield from target("optim.sched", arguments, SCHEDULE_GIVEN)


def interval(where: str, sched: dict[str, Any]) -> Iterator[str]:
    """Check when Lightning is to step a scheduler."""
    if sched.get("interval") not in (None, "step", "epoch"):
        yield one_of(f"{where}.interval", sched["interval"], ("step", "epoch"))


def _schedule(spec: Spec, sched: dict[str, Any]) -> Iterator[str]:
    name = sched.get("name")
    if name is None:
        yield from nameless("optim.sched", sched, available_schedulers())
        return
    if not isinstance(name, str) or canonical(name) not in SCHEDULES:
        yield one_of("optim.sched.name", name, available_schedulers())
        return
    for what in sorted({key.removesuffix(unit) for unit in OTHERS for key in sched if key.endswith(unit)}):
        given = [what + unit for unit in (OF_STEPS, *OTHERS) if sched.get(what + unit) is not None]
        if len(given) > 1:
            yield f"optim.sched: {' and '.join(given)} exclude each other. Give one of them."
    yield from _further(sched, SCHEDULES[canonical(name)])
    yield from _schedule_numbers(sched)
    rates, lowest = [rate for rate in _rates(spec) if _number(rate)], sched.get("min_lr")
    if (lr := min(rates, default=None)) is not None and _number(lowest) and lowest > lr:
        yield f"optim.sched.min_lr: {lowest:g} is above optim.lr: {lr:g}. Lower it, or raise optim.lr."
    yield from _end(spec, sched)


def _further(sched: dict[str, Any], path: str) -> Iterator[str]:
    """Check what a formula takes besides the common numbers; of steps, a share of all does as well."""
    signature = signature_of(path)
    further = set(signature.parameters) - FORMULA_GIVEN if signature else set()
    steps = [name.removesuffix(OF_STEPS) for name in further if name.endswith(OF_STEPS)]
    shares = {name + unit: name + OF_STEPS for name in steps for unit in OTHERS}
    known = SCHEDULE_KEYS | further | shares.keys()
    for key in sched.keys() - known:
        yield one_of(f"optim.sched.{key}", key, known - {*STEPPING, *DERIVED})
    for key in shares.keys() & sched.keys():
        most = 1 if key.endswith(RATIO) else math.inf
        if sched[key] is not None and (not _number(sched[key]) or not 0 <= sched[key] <= most):
            yield f"optim.sched.{key}: {sched[key]!r} is no number from 0" + (" to 1." if most == 1 else ".")
    for key in further & sched.keys():
        if _number(sched[key]) and not sched[key] >= (1 if key == "d_model" else 0):
            yield f"optim.sched.{key}: {sched[key]} is too small. The least is {1 if key == 'd_model' else 0}."
    yield from _of_one(path.rpartition(".")[2], sched)
    given = {
        shares.get(key, key): 0 if key in shares else sched[key] for key in sched.keys() & (further | shares.keys())
    }
    yield from call("optim.sched", path, given, FORMULA_GIVEN, named_by="name")


def _of_one(formula: str, sched: dict[str, Any]) -> Iterator[str]:
    """Check what a single formula asks of the common numbers."""
    warms = any(sched.get(f"warmup{unit}") for unit in (OF_STEPS, *OTHERS))
    if formula == "noam_hold" and not warms:
        yield "optim.sched.warmup_steps: noam_hold is measured in its warm-up, and there is none. Give it, or a ratio."
    if formula == "t5_inverse_square_root" and warms:
        yield f"optim.sched.name: {sched['name']} has no warm-up. Leave warmup_steps and warmup_ratio out."
    if formula == "t5_inverse_square_root" and 0 in (sched.get("constant_steps"), sched.get("constant_ratio")):
        yield "optim.sched.constant_steps: has to be 1 at least: the rate there is 1 / sqrt(constant_steps)."


def _schedule_numbers(sched: dict[str, Any]) -> Iterator[str]:
    for key, (low, high) in SPANS.items():
        value = sched.get(key)
        if value is None or is_open(value):
            continue
        if not _number(value) or not low <= value <= high:
            span = f"from {low:g}" + (f" to {high:g}" if high < math.inf else "")
            yield f"optim.sched.{key}: {value!r} is no number {span}."
        elif key in STEPS and isinstance(value, float) and not value.is_integer():
            yield f"optim.sched.{key}: {value} is no whole number of steps."


def _end(spec: Spec, sched: dict[str, Any]) -> Iterator[str]:
    """Check that a schedule which spans the training knows where that ends."""
    in_shares = any(key.endswith(RATIO) and value for key, value in sched.items())
    needs_end = canonical(sched.get("name")) not in ("", *ENDLESS_SCHEDULES) or in_shares
    asked = (*(spec.trainer.get(key) for key in ("max_epochs", "max_steps", "max_samples")), sched.get("max_steps"))
    if spec.run.mode == "fit" and needs_end and all(end in (None, ENDLESS) for end in asked):
        yield (
            f"optim.sched.name: {sched.get('name')} needs to know where training ends. Give trainer.max_epochs, "
            "trainer.max_steps or optim.sched.max_steps."
        )


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
