"""An MLflow server, read through its REST API.

A server takes milliseconds to put together each run that it returns, with all its parameters, and knows no OR: what
counts here is to ask for few runs, and for one generation in few questions.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from asparagus.record import tracking
from asparagus.record.asked import BEST, RUN, STARTED, Asked
from asparagus.record.mlflow_server import NOT_THERE, MlflowServer, RefusedError
from asparagus.record.registered import Registered, model_id_of, of_model, unknown, version_in
from asparagus.record.summary import RunSummary

PAGE = 250
LIST_PAGE = 1000
AT_ONCE = 4
"""Questions at the same time: an MLflow server has four workers unless told otherwise."""
HEX = "0123456789abcdef"
FEW = 4
"""So many numbers are asked for one by one."""
SIEVE = 100
"""A question for a pattern of numbers that finds more runs than this is divided by the next digit."""
WHOLE = 100
"""A question for all runs that finds more than this is divided."""
SAMPLE = 20
TRIES = 2
MARGIN = 1.5
"""How many more runs than needed a value should let through, as far as a sample can tell."""
NEWEST = 100
NEWEST_FIRST = ["attributes.start_time DESC"]

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class RestReader:
    """An MLflow server that is only asked.

    Args:
        uri: Its address.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._server = MlflowServer(uri)

    def runs(self, asked: Asked) -> list[RunSummary]:
        """Return the runs that are asked for; of those by number with a limit, the ones that were started last.

        A server sorts by time and by metric; `best` and no limit mean that everything asked for is fetched.
        """
        search = _Search(self._server)
        if asked.limit is None or asked.sort == BEST:
            found = search.all(_clauses(asked))
        elif asked.sort in {RUN, STARTED}:
            order = f"attributes.start_time {'ASC' if asked.ascending else 'DESC'}"
            found = _first(search, asked, [order])
        else:
            found = _first_by_metric(search, asked)
        fitting = (run for run in found if asked.is_met_by(_tags(run), _metrics(run)))
        return asked.in_order(_summaries(fitting, show=asked.show))

    def by_numbers(self, numbers: Iterable[int]) -> list[RunSummary]:
        """Return the runs with these numbers, the largest number first; of two with one number, the newest first."""
        found = _with_tag(_Search(self._server), [tracking.RUN_ID], numbers)
        return sorted(_summaries(found), key=lambda run: (run.run_id, run.started), reverse=True)

    def children(self, numbers: Iterable[int], *, limit: int | None = None) -> list[RunSummary]:
        """Return the runs with an edge to one of these, the smallest number first; with a limit, the newest ones."""
        found = _with_tag(_Search(self._server), tracking.EDGES.values(), numbers, limit=limit)
        oldest_first = sorted(_summaries(found), key=lambda run: (run.run_id, run.started))
        return oldest_first[-limit:] if limit is not None else oldest_first

    def largest_number(self) -> int:
        """Return the largest number among the runs that were started last, deleted ones included; 0 for none."""
        search = _Search(self._server, view="ALL")
        newest, _ = search.page([f"tags.`{tracking.RUN_ID}` != ''"], NEWEST_FIRST, NEWEST)
        return max((run.run_id for run in _summaries(newest)), default=0)

    def with_number(self, number: int) -> list[str]:
        """Return the MLflow run ids of the runs with this number, deleted ones included, the newest first."""
        search = _Search(self._server, view="ALL")
        return [run["info"]["run_id"] for run in search.pages([_is(tracking.RUN_ID, str(number))], NEWEST_FIRST)]

    def registered(self, name: str, alias: str) -> Registered:
        """Return the version of a registered model that an alias points to."""
        try:
            found = self._version_of(name, alias)
        except RefusedError as error:
            if error.code not in NOT_THERE:
                raise
            raise unknown(name, alias, self._registered_names()) from error
        version, run_uuid = str(found["version"]), str(found.get("run_id", ""))
        model_id = model_id_of(name, version, str(found.get("source", "")))
        model = self._if_there(f"logged-models/{model_id}").get("model", {})
        run = self._if_there("runs/get", run_id=run_uuid).get("run", {}) if run_uuid else {}
        number = _pairs(run.get("data", {}).get("tags", [])).get(tracking.RUN_ID, "")
        tags = _pairs(model.get("info", {}).get("tags", []))
        return of_model(name, version, alias=alias, tags=tags, run=(run_uuid, number))

    def _version_of(self, name: str, alias: str) -> dict[str, Any]:
        version = version_in(alias)
        if version is not None:
            answer = self._server.get("model-versions/get", name=name, version=str(version))
        else:
            answer = self._server.get("registered-models/alias", name=name, alias=alias)
        found: dict[str, Any] = answer["model_version"]
        return found

    def _if_there(self, path: str, **query: str) -> dict[str, Any]:
        try:
            return self._server.get(path, **query)
        except RefusedError as error:
            if error.code not in NOT_THERE:
                raise
            return {}

    def _registered_names(self) -> dict[str, list[str]]:
        known: dict[str, list[str]] = {}
        token = ""
        while True:
            page = self._server.get("registered-models/search", max_results="1000", page_token=token)
            for model in page.get("registered_models", []):
                known[model["name"]] = [alias["alias"] for alias in model.get("aliases", [])]
            token = page.get("next_page_token", "")
            if not token:
                return known


class _Search:
    """Questions for runs, over all experiments.

    Args:
        server: Whom to ask.
        view: `ACTIVE_ONLY`, or `ALL` for deleted runs too.
    """

    def __init__(self, server: MlflowServer, view: str = "ACTIVE_ONLY") -> None:
        self._server = server
        self._view = view
        self._experiments = self._experiment_ids()

    def _experiment_ids(self) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            more = {"page_token": token} if token else {}
            page = self._server.post("experiments/search", max_results=LIST_PAGE, view_type=self._view, **more)
            found += [experiment["experiment_id"] for experiment in page.get("experiments", [])]
            token = page.get("next_page_token", "")
            if not token:
                return found

    def page(
        self, clauses: Sequence[str], order: Sequence[str], size: int, token: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """Return some runs, and the way to the next ones; empty if these were the last."""
        more = {"page_token": token} if token else {}
        answer = self._server.post(
            "runs/search",
            experiment_ids=self._experiments,
            filter=" and ".join(clauses),
            run_view_type=self._view,
            max_results=size,
            order_by=order,
            **more,
        )
        return answer.get("runs", []), answer.get("next_page_token", "")

    def pages(self, clauses: Sequence[str], order: Sequence[str], size: int = PAGE) -> Iterator[dict[str, Any]]:
        """Yield runs, in order."""
        token = ""
        while True:
            found, token = self.page(clauses, order, size, token)
            yield from found
            if not token:
                return

    def all(self, clauses: Sequence[str]) -> list[dict[str, Any]]:
        """Return all runs, in no order: many of them in sixteen parts, by the first digit of their MLflow id."""
        found, token = self.page(clauses, NEWEST_FIRST, WHOLE)
        if not token:
            return found
        parts = [[*clauses, f"attributes.run_id LIKE '{digit}%'"] for digit in HEX]
        return [run for part in at_once(lambda part: list(self.pages(part, NEWEST_FIRST)), parts) for run in part]


def at_once(ask: Callable[[Question], Answer], questions: Iterable[Question]) -> list[Answer]:
    """Ask several questions at the same time; the answers are in the order of the questions."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, questions))


def _first(search: _Search, asked: Asked, order: Sequence[str], *more: str) -> list[dict[str, Any]]:
    """Return as many fitting runs as are asked for, in this order; fewer if there are no more."""
    limit = asked.limit or 0
    found: list[dict[str, Any]] = []
    for run in search.pages([*_clauses(asked), *more], order, min(limit, PAGE)) if limit else ():
        found += [run] if asked.is_met_by(_tags(run), _metrics(run)) else []
        if len(found) == limit:
            break
    return found


def _first_by_metric(search: _Search, asked: Asked) -> list[dict[str, Any]]:
    """Return the first runs by a metric.

    A server over sqlite takes seconds to sort ten thousand runs. What a few runs measured tells which value the first
    ones lie beyond; if too few do, their number tells a value that is less far out.
    """
    name, limit = _quoted(asked.sort), asked.limit or 0
    order = [f"metrics.{name} {'ASC' if asked.ascending else 'DESC'}"]
    sample, token = search.page(_clauses(asked), NEWEST_FIRST, SAMPLE)
    measured = (_metrics(run).get(asked.sort, math.nan) for run in sample)
    values = sorted((value for value in measured if not math.isnan(value)), reverse=not asked.ascending)
    implied = ("<", "<=") if asked.ascending else (">", ">=")
    rest = tuple(bound for bound in asked.metrics if bound.name != asked.sort or bound.op not in implied)
    narrowed = dataclasses.replace(asked, metrics=rest)
    place = 1  # the first one may lie far out by chance
    for _ in range(TRIES):
        if not token or place >= len(values) / 2:
            break
        found = _first(search, narrowed, order, f"metrics.{name} {'<=' if asked.ascending else '>='} {values[place]!r}")
        if len(found) == limit:
            return found
        place = int(MARGIN * (place + 1) * limit / max(1, len(found)))
    return _first(search, asked, order)


def _with_tag(
    search: _Search, tags: Iterable[str], numbers: Iterable[int], *, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return the runs of which one of these tags holds one of these numbers.

    Args:
        search: Whom to ask.
        tags: Which tags.
        numbers: Which numbers.
        limit: So many of a tag's runs are enough, where few numbers are asked for; the newest.
    """
    values = {str(number) for number in numbers}
    groups = [[value] for value in values] if len(values) <= FEW else list(_divided(values, len))
    asked = [(tag, group) for tag in tags for group in groups]
    found: dict[str, dict[str, Any]] = {}
    while asked:
        answers = at_once(lambda part: _sieved(search, *part, limit=limit), asked)
        found |= {run["info"]["run_id"]: run for runs, _ in answers for run in runs}
        asked = [(tag, group) for (tag, _), (_, smaller) in zip(asked, answers, strict=True) for group in smaller]
    return list(found.values())


def _sieved(
    search: _Search, tag: str, group: list[str], *, limit: int | None
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Return the runs with one of these values, or smaller groups to ask for: a pattern may find too many others.

    Args:
        search: Whom to ask.
        tag: Which tag.
        group: Its values, all equally long.
        limit: So many runs with a value are enough.
    """
    if len(group) == 1:
        exactly = [_is(tag, group[0])]
        return (search.all(exactly) if limit is None else search.page(exactly, NEWEST_FIRST, limit)[0]), []
    same = len(os.path.commonprefix(group))  # noqa: RUF071 - of digits, not of folders
    pattern = group[0][:same] + "_" * (len(group[0]) - same)
    found, token = search.page([f"tags.`{tag}` LIKE '{pattern}'"], NEWEST_FIRST, SIEVE)
    if token:
        return [], list(_divided(group, lambda value: value[same]))
    return [run for run in found if _tags(run).get(tag) in group], []


def _divided(values: Iterable[str], key: Callable[[str], Any]) -> Iterator[list[str]]:
    groups: dict[Any, list[str]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    yield from groups.values()


def _clauses(asked: Asked) -> list[str]:
    """Return the filter for what is asked for, as far as MLflow's language can say it; the rest is sifted here."""
    clauses = [f"tags.`{tracking.RUN_ID}` != ''"]
    clauses += [_is(tag, value) for tag, value in asked.wanted.items() if "`" not in tag and "'" not in value]
    named = [bound for bound in asked.metrics if "`" not in bound.name]
    return clauses + [f"metrics.{_quoted(bound.name)} {bound.op} {bound.value!r}" for bound in named]


def _is(tag: str, value: str) -> str:
    return f"tags.`{tag}` = '{value}'"


def _quoted(name: str) -> str:
    return f"`{name}`" if "`" not in name else f'"{name}"'


def _summaries(runs: Iterable[Mapping[str, Any]], *, show: Sequence[str] = ()) -> Iterator[RunSummary]:
    for run in runs:
        found = RunSummary.from_tags(
            run["info"]["run_id"],
            _tags(run),
            metrics=_metrics(run),
            started=float(run["info"].get("start_time", 0)) / 1000,
            experiment_id=str(run["info"].get("experiment_id", "")),
            show=show,
        )
        if found is not None:
            yield found


def _tags(run: Mapping[str, Any]) -> dict[str, str]:
    return _pairs(run.get("data", {}).get("tags", []))


def _metrics(run: Mapping[str, Any]) -> dict[str, float]:
    """Return the latest values; what JSON has no number for is a text there."""
    return {metric["key"]: float(metric.get("value", 0.0)) for metric in run.get("data", {}).get("metrics", [])}


def _pairs(listed: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {pair["key"]: pair.get("value", "") for pair in listed}
