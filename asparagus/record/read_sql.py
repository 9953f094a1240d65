"""MLflow's own tables, read through SQLAlchemy: nothing in the store is ever created, migrated or changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from asparagus.errors import RecordError
from asparagus.record import tracking
from asparagus.record.asked import BEST, OPERATORS, RUN, STARTED, Asked
from asparagus.record.registered import Registered, model_id_of, of_model, unknown, version_in
from asparagus.record.sql_engine import must_be_mlflows, open_engine
from asparagus.record.summary import RunSummary

CHUNK = 1000
"""So many values stand in one `IN`."""
NOT_A_NUMBER = float("nan")
ACTIVE = "active"
DELETED = "Deleted_Internal"
"""The stage of a model version that is only kept so that its number is not used again."""


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns))


RUNS = _table("runs", "run_uuid", "experiment_id", "start_time", "lifecycle_stage")
TAGS = _table("tags", "run_uuid", "key", "value")
METRICS = _table("latest_metrics", "run_uuid", "key", "value", "is_nan")
MODELS = _table("registered_models", "name")
ALIASES = _table("registered_model_aliases", "name", "alias", "version")
VERSIONS = _table("model_versions", "name", "version", "source", "run_id", "current_stage")
MODEL_TAGS = _table("logged_model_tags", "model_id", "tag_key", "tag_value")


class SqlReader:
    """A database that MLflow keeps.

    Args:
        uri: `sqlite:///FILE`, or a `postgresql` or `mysql` URI.

    Raises:
        RecordError: There is none, or it is not one of the MLflow that is installed.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._engine = open_engine(uri)
        with self._asking() as connection:
            must_be_mlflows(connection, uri)

    def runs(self, asked: Asked) -> list[RunSummary]:
        """Return the runs that are asked for, in the order that is asked for."""
        with self._asking() as connection:
            if asked.sort != BEST:
                rows = list(connection.execute(_sorted(asked)))
                return _summaries(connection, rows, show=asked.show)
            rows = _the_best(connection, asked)
            return _summaries(connection, rows, show=asked.show)

    def by_numbers(self, numbers: Iterable[int]) -> list[RunSummary]:
        """Return the runs with these numbers, the largest number first; of two with one number, the newest first."""
        with self._asking() as connection:
            found = _with_tag(connection, [tracking.RUN_ID], numbers)
        return sorted(found, key=lambda run: (run.run_id, run.started), reverse=True)

    def children(self, numbers: Iterable[int], *, limit: int | None = None) -> list[RunSummary]:
        """Return the runs with an edge to one of these, the smallest number first; with a limit, the newest ones."""
        with self._asking() as connection:
            found = _with_tag(connection, list(tracking.EDGES.values()), numbers)
        oldest_first = sorted(found, key=lambda run: (run.run_id, run.started))
        return oldest_first[-limit:] if limit is not None else oldest_first

    def largest_number(self) -> int:
        """Return the largest run number that was ever recorded, deleted runs included; 0 for none."""
        with self._asking() as connection:
            values = connection.scalars(sa.select(TAGS.c.value).where(TAGS.c.key == tracking.RUN_ID))
            return max((int(value) for value in values if value and value.isdigit()), default=0)

    def with_number(self, number: int) -> list[str]:
        """Return the MLflow run ids of the runs with this number, deleted ones included, the newest first."""
        tag = _tag(tracking.RUN_ID)
        asked = sa.select(RUNS.c.run_uuid).join(tag, tag.c.run_uuid == RUNS.c.run_uuid)
        with self._asking() as connection:
            found = connection.scalars(asked.where(tag.c.value == str(number)).order_by(RUNS.c.start_time.desc()))
            return list(map(str, found))

    def registered(self, name: str, alias: str) -> Registered:
        """Return the version of a registered model that an alias points to."""
        with self._asking() as connection:
            row = connection.execute(_version_of(name, alias)).first()
            if row is None:
                raise unknown(name, alias, _registered_names(connection))
            version, source, run_uuid = str(row[0]), str(row[1]), str(row[2] or "")
            model = model_id_of(name, version, source)
            of_this = sa.select(MODEL_TAGS.c.tag_key, MODEL_TAGS.c.tag_value).where(MODEL_TAGS.c.model_id == model)
            tags = {str(key): str(value) for key, value in connection.execute(of_this)}
            tag = _tag(tracking.RUN_ID)
            number = connection.scalar(sa.select(tag.c.value).where(tag.c.run_uuid == run_uuid))
        return of_model(name, version, alias=alias, tags=tags, run=(run_uuid, str(number or "")))

    @contextmanager
    def _asking(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise RecordError(tracking.unreachable(self.uri, str(cause).strip())) from error


def _tag(key: str) -> sa.Subquery:
    return sa.select(TAGS.c.run_uuid, TAGS.c.value).where(TAGS.c.key == key).subquery()


def _metric(key: str) -> sa.Subquery:
    is_number = METRICS.c.is_nan == sa.false()
    return sa.select(METRICS.c.run_uuid, METRICS.c.value).where(METRICS.c.key == key, is_number).subquery()


def _matching(asked: Asked) -> tuple[sa.Select[Any], sa.Subquery]:
    """Return the question for the runs without order or limit, and the part of it that has their numbers."""
    number = _tag(tracking.RUN_ID)
    question = sa.select(RUNS.c.run_uuid, RUNS.c.start_time, RUNS.c.experiment_id)
    question = question.join(number, number.c.run_uuid == RUNS.c.run_uuid).where(RUNS.c.lifecycle_stage == ACTIVE)
    for key, value in asked.wanted.items():
        tag = _tag(key)
        question = question.join(tag, tag.c.run_uuid == RUNS.c.run_uuid).where(tag.c.value == value)
    for bound in asked.metrics:
        metric = _metric(bound.name)
        holds = OPERATORS[bound.op](metric.c.value, bound.value)
        question = question.join(metric, metric.c.run_uuid == RUNS.c.run_uuid).where(holds)
    return question, number


def _sorted(asked: Asked) -> sa.Select[Any]:
    question, number = _matching(asked)
    # Numbers are text there: the longer one is the larger, of equally long ones the later.
    by_number: list[sa.ColumnElement[Any]] = [sa.func.length(number.c.value), number.c.value]
    newest_first: list[sa.ColumnElement[Any]] = [key.desc() for key in by_number]
    keys: list[sa.ColumnElement[Any]]
    if asked.sort == RUN:
        keys = by_number if asked.ascending else newest_first
    elif asked.sort == STARTED:
        keys = [RUNS.c.start_time if asked.ascending else RUNS.c.start_time.desc(), *newest_first]
    else:
        metric = _metric(asked.sort)
        question = question.outerjoin(metric, metric.c.run_uuid == RUNS.c.run_uuid)
        value = metric.c.value
        keys = [sa.case((value.is_(None), 1), else_=0), value if asked.ascending else value.desc(), *newest_first]
    return question.order_by(*keys).limit(asked.limit)


def _the_best(connection: sa.Connection, asked: Asked) -> list[Any]:
    """Return the rows of the best runs; each by its own monitor and mode, which no database can sort by."""
    question, number = _matching(asked)
    best, mode, monitor = _tag(tracking.BEST), _tag(tracking.MODE), _tag(tracking.MONITOR)
    for tag in (best, mode, monitor):
        question = question.outerjoin(tag, tag.c.run_uuid == RUNS.c.run_uuid)
    metric = METRICS.alias()
    latest = sa.and_(metric.c.run_uuid == RUNS.c.run_uuid, metric.c.key == monitor.c.value)
    question = question.outerjoin(metric, sa.and_(latest, metric.c.is_nan == sa.false()))
    question = question.add_columns(number.c.value, best.c.value, mode.c.value, metric.c.value)
    rows = {row[0]: row for row in connection.execute(question)}
    ranked = (
        RunSummary.from_tags(
            row[0],
            {tracking.RUN_ID: row[3], tracking.BEST: row[4] or "", tracking.MODE: row[5] or "", tracking.MONITOR: "m"},
            metrics={} if row[6] is None else {"m": row[6]},
            started=0.0,
        )
        for row in rows.values()
    )
    return [rows[run.mlflow_run_id] for run in asked.in_order(run for run in ranked if run is not None)]


def _with_tag(connection: sa.Connection, keys: Sequence[str], numbers: Iterable[int]) -> list[RunSummary]:
    """Return the runs of which one of these tags holds one of these numbers."""
    rows: dict[str, Any] = {}
    for chunk in _chunks([str(number) for number in numbers]):
        holders = sa.select(TAGS.c.run_uuid).where(TAGS.c.key.in_(keys), TAGS.c.value.in_(chunk)).distinct().subquery()
        question = sa.select(RUNS.c.run_uuid, RUNS.c.start_time, RUNS.c.experiment_id)
        question = question.join(holders, holders.c.run_uuid == RUNS.c.run_uuid)
        rows |= {row[0]: row for row in connection.execute(question.where(RUNS.c.lifecycle_stage == ACTIVE))}
    return _summaries(connection, list(rows.values()))


def _summaries(connection: sa.Connection, rows: Sequence[Any], *, show: Sequence[str] = ()) -> list[RunSummary]:
    """Return runs in the order of their rows, with their tags and latest metrics: two questions per chunk."""
    keys = [*tracking.SUMMARY, *show]
    tags: dict[str, dict[str, str]] = {row[0]: {} for row in rows}
    metrics: dict[str, dict[str, float]] = {row[0]: {} for row in rows}
    for chunk in _chunks(list(tags)):
        question = sa.select(TAGS.c.run_uuid, TAGS.c.key, TAGS.c.value)
        for run_uuid, key, value in connection.execute(
            question.where(TAGS.c.run_uuid.in_(chunk), TAGS.c.key.in_(keys))
        ):
            tags[run_uuid][key] = value or ""
        latest = sa.select(METRICS.c.run_uuid, METRICS.c.key, METRICS.c.value, METRICS.c.is_nan)
        latest = latest.where(~METRICS.c.key.startswith(tracking.SYSTEM_METRIC))
        for run_uuid, key, value, is_nan in connection.execute(latest.where(METRICS.c.run_uuid.in_(chunk))):
            metrics[run_uuid][key] = NOT_A_NUMBER if is_nan else float(value)
    found = (_summary(row, tags[row[0]], metrics[row[0]], show) for row in rows)
    return [run for run in found if run is not None]


def _summary(row: Any, tags: Mapping[str, str], metrics: Mapping[str, float], show: Sequence[str]) -> RunSummary | None:
    started = (row[1] or 0) / 1000
    return RunSummary.from_tags(row[0], tags, metrics=metrics, started=started, experiment_id=str(row[2]), show=show)


def _version_of(name: str, alias: str) -> sa.Select[Any]:
    same = sa.and_(VERSIONS.c.name == ALIASES.c.name, VERSIONS.c.version == ALIASES.c.version)
    found = sa.select(VERSIONS.c.version, VERSIONS.c.source, VERSIONS.c.run_id)
    if (version := version_in(alias)) is not None:
        there = VERSIONS.c.current_stage != DELETED
        return found.where(VERSIONS.c.name == name, VERSIONS.c.version == version, there)
    return found.join(ALIASES, same).where(ALIASES.c.name == name, ALIASES.c.alias == alias)


def _registered_names(connection: sa.Connection) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {str(name): [] for name in connection.scalars(sa.select(MODELS.c.name))}
    for name, alias in connection.execute(sa.select(ALIASES.c.name, ALIASES.c.alias)):
        known.setdefault(str(name), []).append(str(alias))
    return known


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
