"""Weights of one network into another, never silently: a pure function from two state dicts to a report (SEEDS A31)."""

from __future__ import annotations

import errno
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
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
POSITIONS = re.compile(r"pos(ition)?_embed")
KERNEL, EMBEDDING = 4, 3
"""Axes of the smallest kernel of a convolution over an image, and of embeddings."""
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
    changed: dict[str, str] = field(default_factory=dict)
    """Weights that were made to fit, and how."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)

    def describe(self) -> str:
        """Return the report as a person reads it: one line, then the exceptions, part by part of the network."""
        total = len(self.taken) + len(self.fresh)
        lines = [f"weights: {len(self.taken)} of {total} tensors taken from {self.source}"]
        lines += [f"  changed   {name}: {how}" for name, how in self.changed.items()]
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
        RunError: They cannot be read, or do not fit, or are not all there of what the module keeps as it is.
    """
    source = f"run {parent.run_id} ({Path(parent.checkpoint).name})" if parent.run_id else parent.checkpoint
    weights = read_weights(Path(parent.checkpoint))
    if mode == "fit":
        return _one_after_another(module, weights, options, source)
    # What is measured are all of its weights, as they are; which of them a training began with is another matter.
    report = transfer(module, weights, Transfer(rename=options.rename), source=source)
    if report.changed:
        raise RunError(
            f"run.mode: {mode} measures the weights of {source}, and some do not fit as they are. Take data and a "
            f"model section like those that they were trained with.\n{report.describe()}"
        )
    if report.fresh:
        raise RunError(
            f"run.mode: {mode} measures the weights of {source}, and {len(report.fresh)} of this network's are not "
            f"among them. Give the model section that they were trained with.\n{report.describe()}"
        )
    return report


def _one_after_another(
    module: nn.Module, weights: Mapping[str, Tensor], options: Transfer, source: str
) -> TransferReport:
    """Take over the parent's weights, then those of `transfer.more`: the last that has one gives it."""
    report = transfer(module, weights, replace(options, strict=options.strict and not options.more), source=source)
    for section in options.more.values():
        file, include, exclude = Path(section["path"]), section.get("include") or [], section.get("exclude") or []
        part = Transfer(include=include, exclude=exclude, rename=options.rename)
        report = _then(report, transfer(module, read_weights(file), part, source=str(file)))
    _must_be_whole(report, strict=options.strict)
    _frozen_must_be_there(module, report)
    return report


def _then(first: TransferReport, second: TransferReport) -> TransferReport:
    """Return what became of the weights after both."""
    taken = {*first.taken, *second.taken}
    left = {name: why for name, why in (first.left | second.left).items() if name not in taken}
    fresh = sorted({*first.fresh} - {*second.taken})
    return TransferReport(
        f"{first.source}, then {second.source}", sorted(taken), left, fresh, first.changed | second.changed
    )


def _must_be_whole(report: TransferReport, *, strict: bool) -> None:
    if strict and report.fresh:
        raise RunError(f"transfer.strict: {len(report.fresh)} weights would stay fresh.\n{report.describe()}")


def _frozen_must_be_there(module: nn.Module, report: TransferReport) -> None:
    """Refuse weights that a module never trains, and so needs from its parent, where they stay as they were drawn."""
    beginnings: tuple[str, ...] = getattr(module, "from_parent", ())
    if lacking := [name for name in report.fresh if name.startswith(beginnings)]:
        raise RunError(
            f"init_from: {len(lacking)} of the weights that stay frozen ({lacking[0]}, ...) are not among those of "
            f"{report.source}, and would stay as they were drawn. Give the model section that it was trained with, or "
            "name them (transfer.rename); model.module.allow_fresh=true goes on all the same.\n" + report.describe()
        )


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
    module: nn.Module, weights: Mapping[str, Tensor], options: Transfer | None = None, *, source: str
) -> TransferReport:
    """Load into `module` every weight that it has under the same name and shape, and report the rest.

    Two kinds are made to fit: the kernel of the first convolution, from one channel to several (repeated, and divided
    by their number: the sum over channels stays), and embeddings of positions, interpolated from their grid to ours.

    Args:
        module: The target; changed in place.
        weights: The source's state dict.
        options: Which weights come over, and under which names; the defaults where None.
        source: What to call the source in the report.

    Raises:
        RunError: Nothing fits, or norms and biases alone that nobody asked for by `options.include`; or
            `options.strict` and something does not.
    """
    asked = options or Transfer()
    target = module.state_dict()
    offered, twice = _offered(weights, asked.rename, target)
    fitted = {name: _fitted(name, value, target) for name, value in offered.items()}
    reasons = {name: _why_not(name, value, target, asked) for name, (value, _) in fitted.items()}
    left = twice | {name: why for name, why in reasons.items() if why}
    taken = {name: value for name, (value, _) in fitted.items() if not reasons[name]}
    changed = {name: how for name, (_, how) in fitted.items() if how and name in taken}
    report = TransferReport(source, sorted(taken), left, sorted(set(target) - set(taken)), changed)
    if not taken:
        raise RunError(f"init_from: no weight of {source} fits this network.\n{report.describe()}")
    both_have_kernels = all(any(map(_is_kernel, weights.values())) for weights in (offered, target))
    if not asked.include and both_have_kernels and not any(map(_is_kernel, taken.values())):
        raise RunError(
            f"init_from: no kernel of {source} fits this network, but norms and biases: those of networks that are no "
            f"kin have the same shapes. Give the model section that it was trained with.\n{report.describe()}"
        )
    _must_be_whole(report, strict=asked.strict)
    module.load_state_dict(taken, strict=False)
    return report


def _is_kernel(weight: Tensor) -> bool:
    """Tell a kernel, a matrix or an embedding from a norm, a bias or a counter."""
    return is_lazy(weight) or weight.ndim > 1


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


def _offered(
    weights: Mapping[str, Tensor], rename: Mapping[str, str], target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the source's weights under the names that they have here, and those whose name another one has."""
    offered: dict[str, Tensor] = {}
    twice = {}
    for name, value in weights.items():
        plain = _plain(name, target)
        here = plain if plain in target else _renamed(plain, rename)
        if here in offered:
            twice[name] = f"another weight is {here} here already"
        else:
            offered[here] = value
    return offered, twice


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    """Give a name the beginning that it has here; of several that fit, the longest counts."""
    old = max((old for old in rename if name.startswith(old)), key=len, default=None)
    return name if old is None else rename[old] + name.removeprefix(old)


def _fitted(name: str, value: Tensor, target: Mapping[str, Tensor]) -> tuple[Tensor, str]:
    """Return a weight as the target can take it, and how it was changed."""
    wanted = target.get(name)
    if wanted is None or is_lazy(wanted) or wanted.shape == value.shape:
        return value, ""
    if wanted.ndim != value.ndim or value.ndim < EMBEDDING:
        return value, ""
    first = next((other for other, weight in target.items() if not is_lazy(weight) and weight.ndim >= KERNEL), None)
    channels = wanted.shape[1]
    if name == first and value.shape[1] == 1 and wanted.shape == (len(value), channels, *value.shape[2:]):
        inflated = value.expand(wanted.shape) / channels
        return inflated.contiguous(), f"1 channel to {channels}, each 1/{channels} of it"
    if POSITIONS.search(name) and (resized := _on_grid(value, wanted, _axes(target))) is not None:
        return resized, f"positions {value.shape[1]} to {wanted.shape[1]}"
    return value, ""


def _axes(target: Mapping[str, Tensor]) -> int:
    """Return 2 or 3: the axes of the first kernel; 2 where there is none."""
    return next((weight.ndim - 2 for weight in target.values() if not is_lazy(weight) and weight.ndim >= KERNEL), 2)


def _on_grid(value: Tensor, wanted: Tensor, axes: int) -> Tensor | None:
    """Interpolate embeddings [1, positions, channels] between grids of equal edges; None where they are none."""
    if value.ndim != EMBEDDING:
        return None
    edges = [round(positions ** (1 / axes)) for positions in (value.shape[1], wanted.shape[1])]
    whole = all(edge**axes == tensor.shape[1] for edge, tensor in zip(edges, (value, wanted), strict=True))
    if not whole or value.shape[::2] != wanted.shape[::2]:
        return None
    grid = value.transpose(1, 2).reshape(1, value.shape[2], *[edges[0]] * axes)
    mode = "bicubic" if axes == 2 else "trilinear"  # noqa: PLR2004 - a plane
    resized = nn.functional.interpolate(grid.float(), size=[edges[1]] * axes, mode=mode, align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(value.dtype)


def _why_not(name: str, value: Tensor, target: Mapping[str, Tensor], asked: Transfer) -> str:
    if asked.include and not any(part in name for part in asked.include):
        return "not among transfer.include"
    if any(part in name for part in asked.exclude):
        return "left behind by transfer.exclude"
    below = name.removeprefix("net.")
    if not asked.decoder and below.startswith(DECODER):
        return "decoder or head, left behind by transfer.decoder=false"
    if name not in target:
        return "this network has no weight of that name"
    if not is_lazy(target[name]) and value.shape != target[name].shape:
        return f"shape {tuple(value.shape)}, here {tuple(target[name].shape)}"
    return ""
