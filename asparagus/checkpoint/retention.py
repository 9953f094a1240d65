"""Which checkpoints of a run stay, why, and which make room: decided from manifests, sizes and holds. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from asparagus.checkpoint.folder import Manifest
from asparagus.checkpoint.holds import told
from asparagus.errors import ConfigError
from asparagus.spec import Checkpointing

LAST = "last"
SIZE = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")
UNITS = {
    "": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t"))},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate(("k", "m", "g", "t"), start=1)},
}


@dataclass(frozen=True)
class Rule:
    """What of a run is kept: the last, the best, every n-th epoch's; in how many bytes."""

    keep_best: int = 1
    every_n_epochs: int | None = None
    quota: int | None = None

    @classmethod
    def of(cls, asked: Checkpointing) -> Rule:
        """Return the rule that an experiment asks for.

        Raises:
            ConfigError: Its quota is no size.
        """
        quota = None if asked.quota is None else bytes_of(asked.quota)
        return cls(asked.keep_best, asked.keep_every_n_epochs, quota)


@dataclass(frozen=True)
class Stored:
    """A whole checkpoint on a disk."""

    manifest: Manifest
    bytes: int
    """Of all its files."""
    holds: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.manifest.name


def bytes_of(size: int | str) -> int:
    """Return how many bytes `500MB`, `2GB`, `1.5GiB` or a number are.

    Raises:
        ConfigError: It is no size, or nothing.
    """
    found = SIZE.fullmatch(str(size))
    if found is None or found["unit"].lower() not in UNITS:
        raise ConfigError(f"{size!r} is no size. Give bytes, or a number with a unit: 500MB, 2GB, 1.5GiB.")
    number = int(float(found["number"]) * UNITS[found["unit"].lower()])
    if not number:
        raise ConfigError(f"{size!r} leaves room for nothing. Give what a few checkpoints take, or leave it out.")
    return number


def size_told(number: float) -> str:
    """Return a number of bytes as a person reads it: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:  # noqa: PLR2004
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def reasons(found: Sequence[Stored], rule: Rule) -> dict[str, tuple[str, ...]]:
    """Return why each checkpoint stays; without a reason, it need not.

    Args:
        found: All whole ones of a run, oldest step first.
        rule: What is kept.
    """
    best = {
        name: f"best {place}" if place > 1 else "best" for place, name in enumerate(best_names(found, rule), start=1)
    }
    last = found[-1].name if found else ""
    why = {}
    for stored in found:
        by_rule = [LAST] if stored.name == last else []
        by_rule += [best[stored.name]] if stored.name in best else []
        by_rule += [f"every {rule.every_n_epochs} epochs"] if _is_nth(stored, rule) else []
        why[stored.name] = (*by_rule, *map(told, stored.holds))
    return why


def retained(found: Sequence[Stored], rule: Rule) -> set[str]:
    """Return the names to keep, however large they are: the last, the best, every n-th, and those that are held."""
    return {name for name, why in reasons(found, rule).items() if why}


def to_remove(found: Sequence[Stored], rule: Rule, *, incoming: int = 0, besides: int = 0) -> list[str]:
    """Return the names to remove, so that the quota holds as well as it can.

    First go those without a reason to stay. If that is not enough, the older of every n, then the bests beyond the
    first, then the best. The last one stays, since nothing else brings the run back, and so do those that are held.

    Args:
        found: All whole ones of a run, oldest step first.
        rule: What is kept.
        incoming: Bytes that are about to be written.
        besides: Bytes that count and are no whole checkpoint's.
    """
    kept = retained(found, rule)
    going = [stored.name for stored in found if stored.name not in kept]
    if rule.quota is None:
        return going
    used = incoming + besides + sum(stored.bytes for stored in found if stored.name in kept)
    for stored in dispensable(found, rule):
        if used <= rule.quota:
            break
        going.append(stored.name)
        used -= stored.bytes
    return going


def dispensable(found: Sequence[Stored], rule: Rule) -> list[Stored]:
    """Return those that the rule keeps and a quota may cost, in the order in which it does.

    The older of every n, then the bests beyond the first, then the best. Neither the last nor those that are held.
    """
    best = best_names(found, rule)
    free = {stored.name: stored for stored in found[:-1] if not stored.holds}
    nth = [name for name, stored in free.items() if name not in best and _is_nth(stored, rule)]
    return [free[name] for name in (*nth, *reversed(best)) if name in free]


def best_names(found: Iterable[Stored], rule: Rule) -> list[str]:
    """Return the names of the best `keep_best`, the best first, the earlier among equals."""
    scored = [(stored.manifest.score, -stored.manifest.step, stored.name) for stored in found]
    measured = sorted(((score, step, name) for score, step, name in scored if score is not None), reverse=True)
    return [name for _, _, name in measured[: rule.keep_best]]


def shortages(
    found: Sequence[Stored], gone: Collection[str], rule: Rule, *, incoming: int = 0, besides: int = 0
) -> dict[str, str]:
    """Return what a quota cost, and what keeps it from being held: a warning of each kind.

    Args:
        found: What there was, as in `to_remove`.
        gone: The names of what was removed.
        rule: What is kept.
        incoming: Bytes that are about to be written.
        besides: Bytes that count and are no whole checkpoint's.
    """
    said: dict[str, str] = {}
    if rule.quota is None:
        return said
    quota = size_told(rule.quota)
    if lost := [name for name in best_names(found, rule)[:1] if name in gone]:
        said["best"] = (
            f"checkpoint.quota: {quota} has no room for the best checkpoint beside the last and the next, and "
            f"{lost[0]}, the best so far, was removed. Room for three keeps it."
        )
    left = [stored for stored in found if stored.name not in gone]
    if (used := incoming + besides + sum(stored.bytes for stored in left)) > rule.quota:
        why = reasons(found, rule)
        parts = [f"{stored.name} ({size_told(stored.bytes)}: {', '.join(why[stored.name])})" for stored in left]
        parts += [f"the next one ({size_told(incoming)})"] if incoming else []
        parts += [f"other files ({size_told(besides)})"] if besides else []
        said["quota"] = (
            f"checkpoint.quota: {quota} cannot be held, {size_told(used)} are taken: {'; '.join(parts)}. "
            "The training goes on."
        )
    return said


def _is_nth(stored: Stored, rule: Rule) -> bool:
    return bool(rule.every_n_epochs) and (stored.manifest.epoch + 1) % (rule.every_n_epochs or 1) == 0
