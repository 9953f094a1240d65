"""What differs between two runs, from their specs and records as plain dicts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asparagus.identity import OF_LOADERS, PARTS, WITHOUT

NOT_THERE = "(not there)"
"""Stands for the value on the side that does not have the key."""
SAME = "Nothing differs."
LAST = ("site", "paths")
"""Sections of a spec that say where it runs: of the least interest."""
ALSO_DECIDE = ("init_from", "transfer", "run.mode", "run.resume_from_checkpoint")
"""What enters the identity beside its sections."""
MOST = 12
"""So many lines of one kind are told; of two environments each other package may differ."""
LONG = 60
HEX = 12
"""So many digits tell two digests apart."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in two runs."""

    what: str
    """`spec`, `code`, `packages`, `data`, `init_from` or `metrics`."""
    key: str
    left: Any
    right: Any

    @property
    def decides(self) -> bool:
        """Whether it can make other weights; of a spec, whether it enters the identity."""
        return _decides(self.key) if self.what == "spec" else self.what != "metrics"

    def to_dict(self) -> dict[str, Any]:
        """Return what `asp diff --json` prints of it."""
        return {
            "what": self.what,
            "key": self.key,
            "left": self.left,
            "right": self.right,
            "decides": self.decides,
        }


def between(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between two `record.json` or two spec dicts; what decides the weights comes first.

    Which of the two they are is seen: a record has the sections `code` and `machine`.
    """
    return of_records(a, b) if _is_record(a) or _is_record(b) else of_specs(a, b)


def of_records(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return what differs in code, packages, data and parent, each where both records tell of it."""
    code = [
        difference
        for difference in _compared("code", *_sections(a, b, "code"))
        if difference.key in ("commit", "diff_digest")  # two branches at one commit are the same code
    ]
    machines = _sections(a, b, "machine")
    packages = _compared("packages", *_sections(*machines, "packages"))
    python = _compared(
        "packages", *({"python": machine["python"]} if "python" in machine else {} for machine in machines)
    )
    data = _compared("data", *_one(a, b, "fingerprint"))
    return [*code, *python, *packages, *data, *_of_parents(a, b)]


def of_specs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return the dotted keys in which two specs differ; sections that do not decide the weights come last."""
    left, right = _leaves(a), _leaves(b)
    found = _compared("spec", left, right)
    return sorted(found, key=_place)


def of_metrics(a: Mapping[str, float], b: Mapping[str, float]) -> list[Difference]:
    """Return the metrics of two runs side by side, those included that are equal."""
    return [Difference("metrics", key, a.get(key), b.get(key)) for key in sorted({*a, *b})]


def describe(differences: Iterable[Difference]) -> str:
    """Return differences as lines for a person: `spec: optim.lr: 0.001 -> 0.01`."""
    kinds: dict[tuple[str, bool], list[Difference]] = {}
    for difference in differences:
        kinds.setdefault((difference.what, difference.decides), []).append(difference)
    lines = [line for rows in kinds.values() for line in _told(rows)]
    return "\n".join(lines) or SAME


def _told(rows: Sequence[Difference]) -> list[str]:
    lines = [_line(row) for row in rows[:MOST]]
    if len(rows) > MOST:
        lines.append(f"{rows[0].what}: and {len(rows) - MOST} more")
    return lines


def _line(difference: Difference) -> str:
    aside = "" if difference.decides or difference.what == "metrics" else "  (does not decide the weights)"
    return f"{difference.what}: {difference.key}: {text(difference.left)} -> {text(difference.right)}{aside}"


def text(value: object) -> str:
    """Return a value short enough for a line: long ones are cut, digests to what tells them apart."""
    if value is None or value == "":
        return "none"
    written = str(value)
    if len(written) >= 40 and all(letter in "0123456789abcdef" for letter in written):  # noqa: PLR2004 - SHA-1 or more
        return written[:HEX]
    return written if len(written) <= LONG else f"{written[: LONG - 3]}..."


def _is_record(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("code"), Mapping) or isinstance(values.get("machine"), Mapping)


def _of_parents(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Compare the weights that two runs started from: a checkpoint that was moved is still the same."""
    if "parent" not in a or "parent" not in b:
        return []
    left, right = a["parent"] or {}, b["parent"] or {}
    known = left.get("digest") and right.get("digest")
    same = left.get("digest") == right.get("digest") if known else _checkpoint(left) == _checkpoint(right)
    return [] if same else [Difference("init_from", "parent", _checkpoint(left), _checkpoint(right))]


def _checkpoint(parent: Mapping[str, Any]) -> str | None:
    if not parent:
        return None
    name = parent["checkpoint"]
    if parent.get("run_id") is not None:
        name = f"run {parent['run_id']} {name.rstrip('/').rpartition('/')[2]}"
    return f"{name} (sha256 {parent['digest'][:HEX]})" if parent.get("digest") else str(name)


def _sections(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the section of both; empty ones where either does not have it: what is unknown differs from nothing."""
    left, right = a.get(key), b.get(key)
    return (left, right) if isinstance(left, Mapping) and isinstance(right, Mapping) else ({}, {})


def _one(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return ({key: a[key]}, {key: b[key]}) if key in a and key in b else ({}, {})


def _compared(what: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    keys = [*left, *(key for key in right if key not in left)]
    return [
        Difference(what, key, left.get(key, NOT_THERE), right.get(key, NOT_THERE))
        for key in keys
        if not _same(left.get(key, NOT_THERE), right.get(key, NOT_THERE))
    ]


def _same(left: object, right: object) -> bool:
    """Tell whether two values mean the same: 1 and 1.0 do, 1 and true do not, NaN is NaN."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return bool(left == right)


def _decides(key: str) -> bool:
    head, *rest = key.split(".")
    if head not in PARTS:
        return any(key == name or key.startswith(f"{name}.") for name in ALSO_DECIDE)
    if rest and rest[0] in WITHOUT.get(head, ()):
        return False
    return not (head == "data" and OF_LOADERS.intersection(rest))


def _place(difference: Difference) -> int:
    """Order: what decides the weights, what does not, where it runs."""
    head = difference.key.partition(".")[0]
    return LAST.index(head) + 2 if head in LAST else int(not difference.decides)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
