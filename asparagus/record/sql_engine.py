"""The way to a database that MLflow keeps, for reading: nothing is ever created, migrated or changed there."""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from asparagus.errors import RecordError
from asparagus.secrets import without_passwords

SCHEMA = sa.table("alembic_version", sa.column("version_num"))
FOLLOWS = re.compile(r"^down_revision(?:\s*:[^=]+)? = [\"'](\w+)[\"']", re.MULTILINE)
WAIT_S = 20.0
"""How long a file that is being written to is waited for, as by MLflow."""


def open_engine(uri: str) -> sa.Engine:
    """Return the way to a database; a sqlite file is opened for reading alone.

    Raises:
        RecordError: The file is not there yet, or the URI leads nowhere.
    """
    try:
        url = sa.make_url(uri)
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True)  # a server that was restarted has hung up
        path = _file_of(url, uri)
        return sa.create_engine("sqlite://", creator=lambda: _open_file(path), poolclass=sa.pool.NullPool)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise RecordError(
            f"tracking: {without_passwords(uri)} cannot be opened: {error}. A database needs its Python driver "
            "(pip install 'psycopg[binary]', or pymysql), and MLFLOW_TRACKING_URI the form postgresql://USER@HOST/NAME."
        ) from error


def _file_of(url: sa.URL, uri: str) -> Path:
    if not url.database:
        raise RecordError(f"tracking: {uri} names no file. MLFLOW_TRACKING_URI may be sqlite:///FILE.")
    path = Path(url.database)
    if not path.is_file() or not path.stat().st_size:
        raise RecordError(
            f"{path}: nothing has been recorded there yet. Train something: asp-launch experiment/digits."
        )
    return path


def _open_file(path: Path) -> sqlite3.Connection:
    """Open a file for reading; if its writer was killed in the middle of writing, sqlite takes that back first."""
    name = f"file:{quote(str(path))}"
    connection = sqlite3.connect(f"{name}?mode=ro", uri=True, timeout=WAIT_S)
    try:
        connection.execute("PRAGMA schema_version").close()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
            raise
        connection.close()
        return sqlite3.connect(f"{name}?mode=rw", uri=True, timeout=WAIT_S)
    return connection


def must_be_mlflows(connection: sa.Connection, uri: str) -> None:
    """Look whether a database has the tables of the MLflow that is installed, or of one before it.

    Raises:
        RecordError: It is no MLflow store, or one of a newer MLflow.
    """
    where = without_passwords(uri)
    if not sa.inspect(connection).has_table(SCHEMA.name):
        raise RecordError(
            f"tracking: {where} is no MLflow store, or nothing has been recorded there yet: it has no table "
            f"{SCHEMA.name}. Is MLFLOW_TRACKING_URI right? Then train something: asp-launch experiment/digits."
        )
    version = str(connection.scalar(sa.select(SCHEMA.c.version_num)))
    known = _known_schemas()
    if known and version not in known:
        raise RecordError(
            f"tracking: {where} was written by another MLflow than the one that is installed here, which does not "
            f"know its schema {version}. Upgrade it (pip install --upgrade mlflow); asp doctor says more. "
            "Nothing was changed."
        )


def schema_of(file: Path) -> str | None:
    """Return the schema version that a sqlite store is of; `None` where there is none to read."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as store:
            row = store.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # whoever opens it says what is wrong with it
        return None
    return str(row[0]) if row else None


def newest_schema() -> str | None:
    """Return the schema version that the installed MLflow writes: the one that none of its migrations follows."""
    before = {found[1] for file in _migrations() if (found := FOLLOWS.search(file.read_text(encoding="utf-8")))}
    return next(iter(_known_schemas() - before), None)


def older_schemas() -> set[str]:
    """Return the schema versions that the installed MLflow can upgrade from."""
    return {version for version in _known_schemas() if version != newest_schema()}


def _known_schemas() -> set[str]:
    """Return the schema versions of the installed MLflow: the names of its migrations, as importing it takes long."""
    return {file.name.partition("_")[0] for file in _migrations()}


def _migrations() -> list[Path]:
    found = importlib.util.find_spec("mlflow")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found else []
    return [file for folder in folders for file in (folder / "store/db_migrations/versions").glob("[0-9a-f]*_*.py")]
