"""`datasplit.csv`: which crops of which volumes are trained and validated on. Known without torch and zarr."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asparagus.errors import DataError, did_you_mean, one_of

TRAIN, VALIDATE = "train", "validate"
USAGES = (TRAIN, VALIDATE)
SHORT, LONG = 3, 5
"""Columns: usage, raw and labels; each place in one field, or split into the container and what is inside."""
FORM = '"train","RAW.zarr","inside/it","LABELS.zarr","inside/it/[class,class]"'


@dataclass(frozen=True)
class Row:
    """One crop."""

    usage: str
    """`train` or `validate`."""
    raw: str
    """Folder or URI of the raw volume."""
    labels: str
    """Folder or URI in which each annotated class has a volume of its name."""
    classes: tuple[str, ...] | None
    """What is annotated; None where the row does not say: whatever is there."""
    where: str
    """File and line, for messages."""


def read_datasplit(file: Path) -> list[Row]:
    """Read the rows of a datasplit; `#` begins a comment, and relative places start from the file's folder.

    Raises:
        DataError: It is not there, holds no row, or a row cannot be meant; its number is given.
    """
    return rows_of(file, text_in(file))


def text_in(file: Path) -> str:
    """Return what a datasplit holds.

    Raises:
        DataError: It is not there, or is no text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")  # spreadsheets begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot be read ({why}). asp data datasplit writes one.") from error


def rows_of(file: Path, text: str) -> list[Row]:
    """Return the rows of a text, as if it stood in a file already."""
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    try:
        rows = [_row(file, reader.line_num, fields) for fields in reader if _is_row(fields)]
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: is no row ({error}). One is {FORM}.") from error
    if not rows:
        raise DataError(f"{file}: lists no crop. asp data datasplit writes one; a row is {FORM}.")
    return rows


def check_classes(file: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """Refuse classes that no training crop is annotated with, and parts without a crop.

    Raises:
        DataError: There is such a class, or nothing to train on.
    """
    train = [row for row in rows if row.usage == TRAIN]
    if not train:
        raise DataError(f"{file}: no row is for training. Change the usage of a crop to {TRAIN!r}.")
    if any(row.classes is None for row in train):
        return  # only the volumes tell
    known = sorted({name for row in train for name in row.classes or ()})
    for name in classes:
        if name not in known:
            near = did_you_mean(name, known)
            raise DataError(
                f"data.classes: {name!r} is annotated in no training crop of {file}. {near} There are: "
                f"{', '.join(known) or 'none'}. Leave it out, or write the datasplit anew with it.".replace("  ", " ")
            )


def must_be_apart(rows: Sequence[Row], *, allowed: bool) -> None:
    """Refuse a crop that is both trained and validated on.

    Args:
        rows: All of a datasplit's.
        allowed: Whether that is meant (`data.subject_overlap`).

    Raises:
        DataError: There is such a crop.
    """
    trained = {(row.raw, row.labels): row for row in rows if row.usage == TRAIN}
    for row in rows:
        other = trained.get((row.raw, row.labels))
        if row.usage == VALIDATE and other is not None and not allowed:
            raise DataError(
                f"{row.where}: {row.labels} is validated on, and trained on by {other.where}. Leave one of the rows "
                "out, or say that it is meant: data.subject_overlap=true."
            )


def digest_of_rows(text: str) -> str:
    """Return what tells one datasplit from another: a SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()


def join(*parts: str) -> str:
    """Join places that may be folders or URIs."""
    return "/".join([parts[0].rstrip("/"), *(part.strip("/") for part in parts[1:] if part.strip("/"))])


def is_remote(place: str) -> bool:
    """Tell whether a place is an object store's."""
    return "://" in place


def _is_row(fields: Iterable[str]) -> bool:
    first = next((field.strip() for field in fields if field.strip()), "#")
    return not first.startswith("#")


def _row(file: Path, number: int, fields: list[str]) -> Row:
    where = f"{file}:{number}"
    stripped = [field.strip() for field in fields]
    if len(stripped) not in (SHORT, LONG):
        raise DataError(f"{where}: {len(stripped)} columns, and a row has {SHORT} or {LONG}: {FORM}.")
    if stripped[0] not in USAGES:
        raise DataError(f"{where}: {one_of('usage', stripped[0], USAGES)}")
    if not all(stripped):
        raise DataError(f"{where}: column {stripped.index('') + 1} is empty. A row is {FORM}.")
    half = (len(stripped) + 1) // 2
    raw, labels = join(*stripped[1:half]), join(*stripped[half:])
    labels, classes = _classes(where, labels)
    return Row(stripped[0], _from(file.parent, raw), _from(file.parent, labels), classes, where)


def _classes(where: str, labels: str) -> tuple[str, tuple[str, ...] | None]:
    """Split `.../crop1/[nuc,er]` into the folder and its classes."""
    if not labels.endswith("]"):
        return labels, None
    folder, bracket, names = labels[:-1].rpartition("[")
    classes = tuple(name.strip() for name in names.split(",") if name.strip())
    if not bracket or not classes:
        raise DataError(f"{where}: {labels!r} does not end with the classes in brackets: .../crop1/[nuc,er].")
    return folder.rstrip("/"), classes


def _from(folder: Path, place: str) -> str:
    return place if is_remote(place) else os.path.abspath(folder / Path(place).expanduser())  # noqa: PTH100 - `..`
