"""Questions to a tracking store, answered without MLflow: importing it alone takes longer than they may."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from asparagus.errors import RecordError
from asparagus.record.asked import Asked, Bound
from asparagus.record.registered import Registered
from asparagus.record.summary import RunSummary
from asparagus.secrets import without_passwords

__all__ = ["Asked", "Bound", "Reader", "Registered", "RunSummary", "open_reader"]

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql")


class Reader(Protocol):
    """A tracking store that is only read; whatever is asked, nothing in it changes.

    Every question raises a `RecordError` for a store that is away or not as it should be.
    """

    uri: str

    def runs(self, asked: Asked) -> list[RunSummary]:
        """Return the runs that are asked for, in the order that is asked for."""

    def by_numbers(self, numbers: Iterable[int]) -> list[RunSummary]:
        """Return the runs with these numbers, the largest number first; one that is not recorded is not there."""

    def children(self, numbers: Iterable[int], *, limit: int | None = None) -> list[RunSummary]:
        """Return the runs that started from, repeat, or are trials of one of these, the smallest number first.

        Args:
            numbers: Of the older runs.
            limit: Return the newest so many.
        """

    def largest_number(self) -> int:
        """Return the largest run number that was ever recorded, deleted runs included; 0 for none."""

    def with_number(self, number: int) -> list[str]:
        """Return the MLflow run ids of the runs with this number, deleted ones included, the newest first."""

    def registered(self, name: str, alias: str) -> Registered:
        """Return the version of a registered model that an alias points to; `v3` is version 3.

        Raises:
            RecordError: There is no such name or alias, or its version is no checkpoint of ours.
        """


def open_reader(uri: str) -> Reader:
    """Open a tracking store for questions: a database file or server that MLflow keeps, or an MLflow server.

    Args:
        uri: As MLflow has it, absolute.

    Raises:
        RecordError: Nothing has been recorded there yet, or it is no tracking store that can be read.
    """
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme in SERVERS:
        from asparagus.record.read_rest import RestReader

        return RestReader(uri)
    if scheme in DATABASES:
        from asparagus.record.read_sql import SqlReader

        return SqlReader(uri)
    raise RecordError(
        f"tracking: {without_passwords(uri)} is no store that asparagus can read. MLFLOW_TRACKING_URI may be "
        "http(s)://HOST:PORT, sqlite:///FILE, postgresql://... or mysql://..."
    )
