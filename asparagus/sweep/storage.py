"""Where Optuna keeps a study: a database by its URL or a journal file, opened so that kills and crowds do no harm."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from asparagus.errors import ConfigError, RecordError
from asparagus.secrets import without_passwords

JOURNAL = "journal:"
SQLITE = "sqlite"
FORMS = "sqlite:////a/folder/study.db, postgresql://USER@HOST/NAME or journal:/a/folder/study.log"
WAIT_S = 120.0
"""How long a database that others write to is waited for."""
TRIES = 20
RACES = ("exists", "unique", "duplicate", "locked")
"""What a database says when somebody else makes the same tables at the same moment."""
LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "overlay"}
MOUNTS = Path("/proc/self/mounts")
LINE = b'{"op_code"'
"""How each line of a journal begins."""
CHUNK = 1 << 16

log = logging.getLogger("asparagus")


def open_storage(url: str) -> BaseStorage:
    """Open a storage; it is made if it is not there.

    Args:
        url: As SQLAlchemy spells it, or `journal:` and a file.

    Raises:
        ConfigError: It is no such URL.
        RecordError: It cannot be opened, or is something else's database.
    """
    try:
        with quiet():
            if url.startswith(JOURNAL):
                return _journal(_journal_file(url))
            parsed = sa.make_url(url)
            if parsed.get_backend_name() == SQLITE and parsed.database in (None, "", ":memory:"):
                raise ConfigError(f"sweep.storage: {url} is lost with its process. Name a file: sqlite:////a/study.db")
            return _database(parsed)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"sweep.storage: {without_passwords(url)} is no URL of a study: write {FORMS}.") from error
    except (SQLAlchemyError, StorageInternalError, ImportError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise RecordError(without_passwords(f"sweep.storage: {url} cannot be opened: {_reason(error)}")) from error


def open_existing(url: str) -> BaseStorage:
    """Open a storage that has to be there.

    Raises:
        ConfigError: It is no URL of a storage.
        RecordError: It cannot be opened, or is not there.
    """
    path = _file_of(url)
    if path is not None and not path.is_file():
        raise RecordError(f"{path}: there is no study: the file does not exist.")
    return open_storage(url)


def close_storage(storage: BaseStorage) -> None:
    """Let go of a storage's connections."""
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to ourselves what Optuna says of its own: that a study was made, that a sampler is experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (ExperimentalWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _file_of(url: str) -> Path | None:
    if url.startswith(JOURNAL):
        return _journal_file(url)
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        return None  # who opens it says so
    return Path(parsed.database) if parsed.get_backend_name() == SQLITE and parsed.database else None


def _database(url: sa.URL) -> BaseStorage:
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == SQLITE:
        arguments = {"connect_args": {"timeout": WAIT_S}}
    _must_be_optunas(url, arguments)
    if url.get_backend_name() == SQLITE and _is_local(Path(str(url.database)).parent):
        arguments["connect_args"]["factory"] = _WriteAhead
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")  # Optuna fills in a template
    for attempt in range(TRIES):
        try:
            return optuna.storages.get_storage(RDBStorage(text, engine_kwargs=arguments))
        except (SQLAlchemyError, StorageInternalError) as error:
            if attempt == TRIES - 1 or not any(word in _reason(error).lower() for word in RACES):
                raise
            time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))  # noqa: S311 - no secret
    raise AssertionError


def _must_be_optunas(url: sa.URL, arguments: dict[str, Any]) -> None:
    """Look whether a database is another program's: Optuna would put its tables beside, and take over its version.

    Raises:
        RecordError: It is.
    """
    if url.get_backend_name() == SQLITE and not Path(str(url.database)).exists():
        return
    engine = sa.create_engine(url, **arguments)
    try:
        tables = {*sa.inspect(engine).get_table_names()}
    finally:
        engine.dispose()
    if "alembic_version" in tables and "studies" not in tables:
        where = url.render_as_string()
        raise RecordError(
            f"sweep.storage: {where} is the database of another program (MLflow's?), with tables like "
            f"{', '.join(sorted(tables)[:3])}. Nothing was changed. Give the study a database of its own."
        )


class _WriteAhead(sqlite3.Connection):
    """A connection to a file on this machine's disk: a commit is one write, and waits for no disk.

    With a write-ahead log, `synchronous=NORMAL` keeps a killed process's commits, all of them, and a file that is never
    damaged; when the power fails, the last commits may be gone, and a trial of theirs is told again. Such a log needs
    memory that all readers share: over a network file system, sqlite keeps to its own ways.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with suppress(sqlite3.OperationalError):  # another one is at it: the next connection tries again
            if self.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self.execute("PRAGMA journal_mode=WAL").close()
        self.execute("PRAGMA synchronous=NORMAL").close()


def _is_local(folder: Path) -> bool:
    """Tell whether a folder is known to lie on a disk of this machine."""
    try:
        lines = [line.split() for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    here = folder.resolve()
    mounted = [(Path(where), kind) for _, where, kind, *_ in lines if here.is_relative_to(where)]
    return bool(mounted) and max(mounted, key=lambda found: len(found[0].parts))[1] in LOCAL


def _journal_file(url: str) -> Path:
    path = url.removeprefix(JOURNAL)
    path = "/" + path.lstrip("/") if path.startswith("//") else path
    if not path:
        raise ConfigError(f"sweep.storage: {url} names no file: write {FORMS}.")
    return Path(path)


def _journal(path: Path) -> BaseStorage:
    if path.exists() and not _begins_like(path):
        raise RecordError(f"sweep.storage: {path} is there, and is no journal of Optuna's. Name another file.")
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path)))


def _begins_like(path: Path) -> bool:
    with path.open("rb") as file:
        return LINE.startswith(file.read(len(LINE)))


class _Lock(JournalFileOpenLock):
    """The right to append to a journal; the system takes it back from who dies, where Optuna's own waits for 30 s.

    Who died in the middle of a line leaves half of it, which nobody was told of: it is taken away, as Optuna cannot
    read on behind it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._held = path, -1

    def acquire(self) -> bool:
        """Wait for it."""
        self._held = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._held, fcntl.LOCK_EX)
        _mend(self._held)
        return True

    def release(self) -> None:
        """Give it back."""
        os.close(self._held)


def _mend(file: int) -> None:
    size = os.fstat(file).st_size
    while size and os.pread(file, 1, size - 1) != b"\n":
        start = max(0, size - CHUNK)
        size = start + os.pread(file, size - start, start).rfind(b"\n") + 1
        os.ftruncate(file, size)


def _reason(error: BaseException) -> str:
    """Return what the database itself said."""
    inner = getattr(error, "orig", None) or error.__cause__
    return _reason(inner) if isinstance(inner, Exception) else f"{error}".strip() or type(error).__name__
