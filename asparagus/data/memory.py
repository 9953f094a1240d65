"""Cases that a process keeps when it trains one run after another on the same data, as the trials of a sweep do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Case = TypeVar("Case")
FOLDERS = 2
"""So many folders' cases are kept at a time: a pipeline's pretraining and finetuning may read two."""


class Memory(Generic[Case]):
    """What was read of files, for as long as they are as they were."""

    def __init__(self) -> None:
        self._folders: OrderedDict[tuple[Path, str], dict[Path, tuple[tuple[int, int], Case]]] = OrderedDict()

    def get(self, file: Path, kind: str, read: Callable[[Path, str], Case]) -> Case:
        """Return a case, read again only if its file is another one now.

        Args:
            file: Of the case.
            kind: How it is read.
            read: Reads it.
        """
        try:
            about = file.stat()
        except OSError:
            return read(file, kind)  # which says what is wrong
        stamp = about.st_mtime_ns, about.st_size
        folder = self._folders.setdefault((file.parent, kind), {})
        self._folders.move_to_end((file.parent, kind))
        while len(self._folders) > FOLDERS:
            self._folders.popitem(last=False)
        if file not in folder or folder[file][0] != stamp:
            folder[file] = stamp, read(file, kind)
        return folder[file][1]
