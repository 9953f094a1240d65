"""A section with a `_target_` against the signature of what it names, and the sections inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from asparagus.check.signature import Signature, TargetMissingError, signature_of
from asparagus.errors import did_you_mean, one_of
from asparagus.targets import SPECIAL

HANDS_ON = {
    "TensorBoardLogger": ("torch.utils.tensorboard.writer.SummaryWriter", "tensorboardX.writer.SummaryWriter"),
    "CellMapTensorBoard": ("torch.utils.tensorboard.writer.SummaryWriter", "tensorboardX.writer.SummaryWriter"),
    "WandbLogger": ("wandb.sdk.wandb_init.init",),
}
"""Loggers that take anything, and what their other arguments are for."""
NEEDS = {"WandbLogger": "wandb", "CometLogger": "comet_ml", "NeptuneLogger": "neptune"}
"""Loggers of Lightning's that need a package which Lightning does without."""
PACKAGES = (*NEEDS.values(), "tensorboard")
"""Packages that are called on PyPI as they are imported: what is missing can be named."""


def is_open(value: object) -> bool:
    """Tell whether a value is known only later: a secret, or an attribute of the run."""
    return isinstance(value, str) and "${" in value


def takes(target_path: object, name: str) -> bool | None:
    """Tell whether a target has a parameter of this name; None when its source does not tell."""
    try:
        signature = signature_of(target_path) if isinstance(target_path, str) else None
    except TargetMissingError:
        return None
    return None if signature is None else name in signature.parameters


def target(where: str, section: Mapping[str, Any], given: frozenset[str]) -> Iterator[str]:
    """Check a section against the signature of its `_target_`, and the sections inside it."""
    path = section.get("_target_")
    if not isinstance(path, str):
        yield f"{where}._target_: is missing. Give the dotted path of a class, and its arguments beside it."
        yield from (one_of(f"{where}.{key}", key, SPECIAL) for key in section if _looks_special(key, section))
        return
    yield from _special(where, section)
    arguments = {key: value for key, value in section.items() if key not in SPECIAL}
    yield from call(where, path, arguments, given, whole=not (section.get("_partial_") or section.get("_args_")))
    if section.get("_recursive_", True):
        for key, value in arguments.items():
            yield from nested(f"{where}.{key}", value, given if key == "sampler" else frozenset())


def call(
    where: str,
    path: str,
    arguments: Mapping[str, Any],
    given: frozenset[str],
    *,
    whole: bool = True,
    named_by: str = "_target_",
) -> Iterator[str]:
    """Check arguments against the signature of a dotted path.

    Args:
        where: Where the arguments stand in the config.
        path: What they are for.
        arguments: As given.
        given: What the launcher adds.
        whole: Mandatory ones have to be there too.
        named_by: The key of the section that holds the path.
    """
    try:
        signature = signature_of(path)
    except TargetMissingError as error:
        reason = str(error) if str(error).endswith(("?", ".")) else f"{error}."
        yield f"{where}.{named_by}: {path} cannot be imported: {reason}{_install(path)}"
        return
    if signature is None:
        return
    signature = _with_handed_on(path, signature)
    for key, value in arguments.items():
        yield from _argument(f"{where}.{key}", path, signature, value, given)
    for key in signature.required if whole else ():
        if key not in arguments and key not in given and not signature.takes_anything:
            yield f"{where}.{key}: {path} needs it. Give {where}.{key}=..."


def nested(where: str, value: Any, given: frozenset[str] = frozenset()) -> Iterator[str]:
    """Check every section with a `_target_` in a value."""
    if isinstance(value, dict) and "_target_" in value:
        yield from target(where, value, given)
        return
    if isinstance(value, dict):
        yield from (one_of(f"{where}.{key}", key, SPECIAL) for key in value if _is_misspelt(key))
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from nested(f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}", part)


def nameless(where: str, section: Mapping[str, Any], known: Iterable[str]) -> Iterator[str]:
    """Say that a section lacks its `name`, and what may be a misspelt one."""
    yield f"{where}.name: is missing. Known: {', '.join(sorted(known))}."
    near = [key for key in section if key != "name" and did_you_mean(key, ("name",))]
    yield from (f"{where}.{key}: is not known. Did you mean 'name'?" for key in near)


def _looks_special(key: str, section: Mapping[str, Any]) -> bool:
    """Tell a misspelt `_target_` from an argument."""
    return key not in SPECIAL and "_target_" not in section and bool(did_you_mean(key, ("_target_",)))


def _is_misspelt(key: object) -> bool:
    """Tell a word that is nearly `_target_`, underscores and all: nothing else is called so."""
    return isinstance(key, str) and key.startswith("_") and key.endswith("_") and bool(did_you_mean(key, ("_target_",)))


def _special(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    for key, kind, written in (("_partial_", bool, "true"), ("_recursive_", bool, "true"), ("_args_", list, "[...]")):
        if key in section and not isinstance(section[key], kind):
            yield f"{where}.{key}: {section[key]!r} given, but it is a {kind.__name__}: {key}: {written}."


def _with_handed_on(path: str, signature: Signature) -> Signature:
    """Return the signature of a logger together with that of what its other arguments go to."""
    for other in HANDS_ON.get(path.rpartition(".")[2], ()) if signature.takes_anything else ():
        try:
            found = signature_of(other)
        except TargetMissingError:
            continue
        if found is not None:
            parameters = (*signature.parameters, *found.parameters)
            signature = Signature(
                parameters, signature.required, takes_anything=False, annotations=signature.annotations
            )
    return signature


def _argument(full: str, path: str, signature: Signature, value: Any, given: frozenset[str]) -> Iterator[str]:
    key = full.rpartition(".")[2]
    if key.startswith("_") and key.endswith("_"):
        yield one_of(full, key, SPECIAL)
    elif key not in signature.parameters and not signature.takes_anything:
        near = did_you_mean(key, signature.parameters)
        known = ", ".join(sorted(set(signature.parameters) - given)) or "nothing from here"
        yield f"{full}: {path} takes no such argument. {near} It takes: {known}.".replace("  ", " ")
    elif is_open(value):
        return
    elif kind := signature.mismatch(key, value):
        yield f"{full}: {value!r} given, but {path} takes {kind} there."


def _install(path: str) -> str:
    package = path.partition(".")[0]
    return f" pip install {package}." if package in PACKAGES else ""
