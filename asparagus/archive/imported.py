"""An archive of others made usable here: `init_from=file:...` starts from its weights, and knows their ancestry."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from asparagus.archive.container import opened
from asparagus.archive.layout import INDEX, WEIGHTS, Index
from asparagus.checkpoint.folder import digest_of
from asparagus.errors import RecordError

PLACE = "imported"
"""Under the models folder: `imported/<digest>/`."""
WRITING = ".writing-"


@dataclass(frozen=True)
class Imported:
    """An archive that is taken apart under the models folder."""

    folder: Path
    index: Index

    @property
    def weights(self) -> Path:
        """What `init_from=file:...` takes."""
        return self.folder / WEIGHTS


def import_archive(path: Path | str, models: Path | str) -> Imported:
    """Take an archive apart below a models folder; nothing in it is built or executed.

    An archive that is there already is left as it is.

    Args:
        path: The archive.
        models: The folder of all runs.

    Raises:
        RecordError: The archive cannot be read, or what is there is not as it was written.
    """
    with opened(Path(path)) as archive:
        index = archive.index
        final = Path(models) / PLACE / index.digest
        writing = final.with_name(f"{WRITING}{index.digest}-{os.getpid()}")
        writing.mkdir(parents=True, exist_ok=True)
        try:
            archive.extract(index.members, writing)  # which compares the digests: of what is there already as well
            if final.exists():
                _must_be_whole(final, index)
                return Imported(final, index)
            (writing / INDEX).write_text(index.to_json(), encoding="utf-8")
            _take_name(writing, final)
        finally:
            shutil.rmtree(writing, ignore_errors=True)
    return Imported(final, index)


def _take_name(writing: Path, final: Path) -> None:
    try:
        writing.rename(final)
    except OSError:
        if not final.is_dir():  # else another process has imported the same
            raise


def _must_be_whole(folder: Path, index: Index) -> None:
    for name, digest in index.members.items():
        if not (folder / name).is_file() or digest_of(folder / name) != digest:
            raise RecordError(
                f"{folder}: holds this archive already, and {name} in it is not as it was written. Move the folder "
                "away, and import it again."
            )
