"""Weights of one network into another, never silently: a pure function from two state dicts to a report (SEEDS A31)."""

from __future__ import annotations

import errno
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from asparagus.checkpoint.folder import STATE, no_weights
from asparagus.errors import RunError
from asparagus.spec import Parent, Transfer

COMPILED = "_orig_mod."
DECODER = ("decoder.", "head.", "model.decoder.")
"""Where the parts that belong to the old task begin, below the network."""
FOREIGN = re.compile(r"GLOBAL ([\w.]+)")
"""What torch says of a class or function that a file wants to call."""


@dataclass(frozen=True)
class TransferReport:
    """What became of every weight, by name."""

    source: str
    taken: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    """Weights of the source that were not used, and why."""
    fresh: list[str] = field(default_factory=list)
    """Weights of the target that keep their initial values."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)

    def describe(self) -> str:
        """Return the report as a person reads it: one line, then the exceptions, part by part of the network."""
        total = len(self.taken) + len(self.fresh)
        lines = [f"weights: {len(self.taken)} of {total} tensors taken from {self.source}"]
        lines += [f"  not used  {part}: {why}" for part, why in _grouped(self.left)]
        lines += [f"  fresh     {part}" for part, _ in _grouped(dict.fromkeys(self.fresh, ""))]
        return "\n".join(lines)


def take_over(module: nn.Module, parent: Parent, options: Transfer, *, mode: str = "fit") -> TransferReport:
    """Load the weights of a parent into `module`, as the experiment's section `transfer` says, and report.

    Args:
        module: The target; changed in place.
        parent: Where the weights are.
        options: How they come over.
        mode: `run.mode`. What is measured without a training are the parent's weights, so all have to be there.

    Raises:
        RunError: They cannot be read, or do not fit.
    """
    source = f"run {parent.run_id} ({Path(parent.checkpoint).name})" if parent.run_id else parent.checkpoint
    weights = read_weights(Path(parent.checkpoint))
    report = transfer(module, weights, source=source, decoder=options.decoder, strict=options.strict)
    if mode != "fit" and report.fresh:
        raise RunError(
            f"run.mode: {mode} measures the weights of {source}, and {len(report.fresh)} of this network's are not "
            f"among them. Give the model section that they were trained with.\n{report.describe()}"
        )
    return report


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint folder of ours, a Lightning `.ckpt`, or a bare state dict.

    No pickle is executed: the file is loaded with `weights_only=True`.

    Raises:
        RunError: The file cannot be read that way, or holds no state dict.
    """
    path = checkpoint / STATE if checkpoint.is_dir() else checkpoint
    loaded = load_plain(checkpoint, "init_from")
    for key in ("state_dict", "network_weights"):
        if isinstance(loaded, Mapping) and key in loaded:
            loaded = loaded[key]
    weights = (
        {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not weights:
        raise RunError(f"init_from: {path} holds no weights: expected a `state_dict` of tensors.")
    return weights


def load_plain(checkpoint: Path, key: str) -> Any:
    """Return what torch saved in a file or in a checkpoint folder of ours; nothing in it is executed.

    Args:
        checkpoint: The file or folder.
        key: Which setting named it; for messages.

    Raises:
        RunError: It cannot be read that way; why is said in words of ours, since torch's are about its insides.
    """
    if problem := no_weights(checkpoint):
        raise RunError(f"{key}: {problem} Give a checkpoint folder of a run, or a file of torch.save.")
    path = checkpoint / STATE if checkpoint.is_dir() else checkpoint
    try:
        # Mapped into memory where the format allows: large ones are looked at before they are loaded.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise RunError(
            f"{key}: {path} cannot be read as weights: {_why_unreadable(path, error)}. It has to be a Lightning "
            "checkpoint or a state dict of plain tensors; files that execute code on loading are refused."
        ) from error


def _why_unreadable(path: Path, error: Exception) -> str:
    if foreign := FOREIGN.search(str(error)):
        return f"code would have to rebuild what is in it ({foreign[1]})"
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:  # which a short file gives
        return error.strerror
    with path.open("rb") as file:
        archive = file.read(2) == b"PK"
    return "it is no archive of torch.save, or was cut short" if archive else "it is no file that torch.save wrote"


def transfer(
    module: nn.Module, weights: Mapping[str, Tensor], *, source: str, decoder: bool, strict: bool
) -> TransferReport:
    """Load into `module` every weight that it has under the same name and shape, and report the rest.

    Args:
        module: The target; changed in place.
        weights: The source's state dict.
        source: What to call the source in the report.
        decoder: Take the decoder and head too, where they fit.
        strict: Refuse anything less than all weights of the target.

    Raises:
        RunError: Nothing fits, or `strict` and something does not.
    """
    target = module.state_dict()
    offered = {_plain(name, target): value for name, value in weights.items()}
    reasons = {name: _why_not(name, value, target, decoder=decoder) for name, value in offered.items()}
    left = {name: why for name, why in reasons.items() if why}
    taken = {name: value for name, value in offered.items() if name not in left}
    report = TransferReport(source, sorted(taken), left, sorted(set(target) - set(taken)))
    if not taken:
        raise RunError(f"init_from: no weight of {source} fits this network.\n{report.describe()}")
    if strict and report.fresh:
        raise RunError(f"transfer.strict: {len(report.fresh)} weights would stay fresh.\n{report.describe()}")
    module.load_state_dict(taken, strict=False)
    return report


def _grouped(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield weights that share a part (`net.decoder`) and a reason as one line, and single ones by name."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name, why in names.items():
        parts.setdefault((".".join(name.split(".")[:2]), why), []).append(name)
    for (part, why), members in parts.items():
        yield (members[0] if len(members) == 1 else f"{part}.* ({len(members)} tensors)"), why


def _plain(name: str, target: Mapping[str, Tensor]) -> str:
    """Take off what `torch.compile` adds to names, unless the target is compiled too."""
    return name if name in target else name.replace(COMPILED, "")


def _why_not(name: str, value: Tensor, target: Mapping[str, Tensor], *, decoder: bool) -> str:
    below = name.removeprefix("net.")
    if not decoder and below.startswith(DECODER):
        return "decoder or head, left behind by transfer.decoder=false"
    if name not in target:
        return "this network has no weight of that name"
    if not is_lazy(target[name]) and value.shape != target[name].shape:
        return f"shape {tuple(value.shape)}, here {tuple(target[name].shape)}"
    return ""
