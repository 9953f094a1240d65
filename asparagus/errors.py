"""The exception tree: everything a user can cause and mend. Anything else is a bug and keeps its traceback.

AsparagusError
├── RequestError          the request is wrong; nothing was started            exit status 2
│   ├── ConfigError       an experiment file or an override
│   │   └── PipelineError several experiments, where one is expected
│   │       └── EvalBoxError  ... that judge checkpoints
│   ├── DataError         a task, a split or a case
│   ├── PlanError         what was asked does not fit where it should run
│   ├── RecordError       a run, a checkpoint or the tracking store
│   │   └── StoreError    the store of run folders or data (s3://...)
│   └── SubmitError       a package, a cluster or a job on it
├── RunError              the run was started and failed                      exit status 3
│   ├── NanLossError      its loss is no number any more
│   └── HungError         it made no step for too long
└── LeftError             it was told to leave, and has; the same goes on     exit status 130
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AsparagusError(Exception):
    """Base of every error that is the user's to mend; its text is the whole message."""

    exit_status = 3


class RequestError(AsparagusError):
    """The request is wrong and nothing was started."""

    exit_status = 2


class ConfigError(RequestError):
    """An experiment file or an override is wrong; carries every problem that was found, each beginning with its key."""

    def __init__(self, *problems: str, rest: object = None) -> None:
        """Say what is wrong.

        Args:
            problems: One line each.
            rest: What could be made of the request all the same: there may be more wrong with it.
        """
        super().__init__("\n".join(problems))
        self.rest = rest
        self.problems = tuple(problem for text in problems for problem in text.split("\n"))


class PipelineError(ConfigError):
    """An experiment is several, where one is expected."""


class EvalBoxError(PipelineError):
    """An experiment is an evaluation box, where one is expected."""


class DataError(RequestError):
    """A task, a split or a case is missing or malformed."""


class PlanError(RequestError):
    """What was asked does not fit where it should run."""


class RecordError(RequestError):
    """A run, a checkpoint or the tracking store is not as the request needs it."""


class StoreError(RecordError):
    """The store of run folders or data cannot be reached, or refuses."""


class SubmitError(RequestError):
    """A package cannot travel, or a cluster or a job on it is not as the request needs it."""


class RunError(AsparagusError):
    """The run was started and failed."""


class NanLossError(RunError):
    """The loss is no number any more, and no step from here will change that."""


class HungError(RunError):
    """A worker has made no step for longer than `failures.hung_after_min`."""


class StoreAwayError(RecordError):
    """The tracking store does not answer, or not as it should: it may do so again in a while."""


class LeftError(AsparagusError):
    """The training was told to leave (SIGTERM, a preemption notice), and has: the same command goes on.

    Args:
        followed: Not this rank was told, but another one.
    """

    exit_status = 130

    def __init__(self, *told: object, followed: bool = False) -> None:
        super().__init__(*told)
        self.followed = followed


def one_of(what: str, value: object, allowed: Iterable[str], *, see: str = "") -> str:
    """Say that `value` is not an allowed `what`: the value, the nearest allowed ones, all of them, where to look.

    Args:
        what: The setting, e.g. ``"stage"`` or ``"optim.name"``.
        value: What was given.
        allowed: Every value that would have been accepted.
        see: Where to read on, appended as it is.
    """
    names = sorted(allowed)
    return " ".join(
        part
        for part in (
            f"{what}: {value!r} is not known.",
            did_you_mean(str(value), names),
            f"Known: {', '.join(names) or 'none'}.",
            see,
        )
        if part
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else ""
