"""Whether MLflow and Ray answer, where runs would be recorded and trained."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

from asparagus.doctor.findings import Finding, Surroundings, bad, ok, warn, why
from asparagus.doctor.places import elsewhere, text_of, unwritable
from asparagus.errors import RecordError
from asparagus.paths import SQLITE, get_tracking_uri
from asparagus.reach import current_cluster, unreachable
from asparagus.record.mlflow_server import MlflowServer, RefusedError

TIMEOUT_S = 3.0
NO_CLUSTER = ("", "local", "auto")
"""Values of RAY_ADDRESS and site.address that name no cluster by themselves."""
OK_STATUS, UNKNOWN_USER, FORBIDDEN = 200, 401, 403
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")


def tracking(around: Surroundings) -> Iterator[Finding]:
    """Say where runs are recorded, and whether they can be."""
    uri = get_tracking_uri(around.paths, around.env)
    if not around.env.get("MLFLOW_TRACKING_URI") and "://" in around.paths.results:
        yield bad("tracking", "no store: ASPARAGUS_RESULTS is a URI", elsewhere("results"))
    else:
        yield tracking_at(uri, around.env)


def tracking_at(uri: str, env: Mapping[str, str]) -> Finding:
    """Say whether runs can be recorded in a store.

    Args:
        uri: Its tracking URI.
        env: The environment: where credentials are.
    """
    if uri.startswith(SQLITE):
        return _sqlite(Path(uri.removeprefix(SQLITE)))
    if uri.startswith(("http://", "https://")):
        return _server(uri, env)
    return warn("tracking", f"{uri.partition('://')[0]}: a kind that is not looked into here", "Try it: asp runs")


def judge_answers(uri: str, health: int, door: int) -> Finding:
    """Read the status that a tracking server gives to /health, and the one that it gives to a question."""
    if door == FORBIDDEN:  # /health answers whatever name it is called by
        do = "Start the server with --allowed-hosts, or reach it by an address that it allows."
        return bad("tracking", f"{uri} answers, but refuses to be used ({door})", do)
    if door == UNKNOWN_USER:
        do = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        return bad("tracking", f"{uri} answers, but asks who you are ({door})", do)
    if health != OK_STATUS:
        return warn("tracking", f"{uri} answers {health} to /health", "Is it an MLflow server? Try it: asp runs")
    return ok("tracking", f"{uri} answers")


def ray(around: Surroundings) -> Iterator[Finding]:
    """Say which Ray a launch would meet: the one of RAY_ADDRESS, or the one that was last started here."""
    yield from _that_stays_up(around)
    address, known = around.env.get("RAY_ADDRESS", ""), current_cluster(around.env)
    current = text_of(known)
    if address not in NO_CLUSTER:
        yield from cluster("RAY_ADDRESS", address, around.env)
    elif not current:
        yield ok("ray cluster", "none; a launch on workers starts a Ray of its own")
    if not current:
        return
    if problem := unreachable(current):
        stale = f"{known} names {current}, which is gone ({problem}); site.address=auto would wait for it"
        yield warn("ray cluster", stale, f"ray stop, or remove {known}")
        return
    yield ok("ray cluster", f"up at {current} (site=cluster joins it)")
    if address in NO_CLUSTER:
        yield from _token(current, around.env)


def _that_stays_up(around: Surroundings) -> Iterator[Finding]:
    """Say whether launches with site=local-warm share a Ray here."""
    from asparagus.driver.warm import Place, in_use, standing

    place = Place.of(around.env)
    head = standing(place) if place.path.is_dir() else None
    if head is not None:
        use = "in use" if in_use(place) else f"ends when nobody has used it for {head.idle_minutes:g} min"
        yield ok("local ray", f"stays up for site=local-warm (process {head.process}), {use}; asp stop --ray ends it")


def cluster(where: str, address: str, env: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether a Ray answers at an address, and whether it would understand us.

    Args:
        where: The setting that names it.
        address: As `host:port`, or a URI.
        env: The environment.
    """
    if problem := unreachable(address):
        yield bad(where, f"nothing answers at {address}: {problem}", f"Start it (ray start --head) or change {where}.")
    else:
        yield ok(where, f"{address} answers")
    yield from _token(address, env)


def _sqlite(file: Path) -> Finding:
    """Look at the file that is the store, or will be."""
    if problem := unwritable(file.parent):
        do = "Set MLFLOW_TRACKING_URI, or ASPARAGUS_RESULTS to a folder of yours."
        return bad("tracking", f"{file}: its folder cannot be written: {problem}", do)
    if not file.exists():
        return ok("tracking", f"{SQLITE}{file} will be created")
    try:
        runs = _count_runs(file)
    except sqlite3.Error as error:
        do = "Is another program holding it? If it is no MLflow store, move it away or set MLFLOW_TRACKING_URI."
        return bad("tracking", f"{file} cannot be read: {error}", do)
    return ok("tracking", f"{SQLITE}{file}, {runs} run{'' if runs == 1 else 's'}")


def _count_runs(file: Path) -> int:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=1)) as store:
        if not store.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'runs'").fetchone():
            return 0
        return int(store.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def _server(given: str, env: Mapping[str, str]) -> Finding:
    """Ask a tracking server whether it is well, and whether it lets us in."""
    scheme, _, rest = given.rstrip("/").partition("://")
    password, _, place = rest.rpartition("@")
    uri = f"{scheme}://{place}"  # a password is not for the screen
    try:
        health, door = _status(f"{uri}/health"), _status(f"{uri}/api/2.0/mlflow/experiments/search?max_results=1")
    except (OSError, ValueError, HTTPException) as error:
        do = f"Start it (mlflow server --port {place.rpartition(':')[2]}), or unset MLFLOW_TRACKING_URI to use a file."
        return bad("tracking", f"{uri} does not answer: {why(error)}", do)
    if door == UNKNOWN_USER and (password or any(name in env for name in CREDENTIALS)):
        return _known_there(given, uri, env)
    return judge_answers(uri, health, door)


def _known_there(given: str, uri: str, env: Mapping[str, str]) -> Finding:
    """Knock again, with the credentials."""
    try:
        MlflowServer(given, env).get("experiments/search", max_results="1")
    except (RecordError, RefusedError) as error:
        do = "They may be wrong or have expired: MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN."
        return bad("tracking", f"{uri} does not let these credentials in: {str(error).partition('. ')[0]}", do)
    return ok("tracking", f"{uri} answers, and knows these credentials")


def _status(url: str) -> int:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:  # nosec B310  # noqa: S310 - http and https alone come here
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def _token(address: str, env: Mapping[str, str]) -> Iterator[Finding]:
    """Find a token that would be sent to a cluster which may not want one: every actor would die at once."""
    if "RAY_AUTH_MODE" in env:
        return
    kept = Path.home() / ".ray" / "auth_token"
    named = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if name in env]
    if source := named[0] if named else str(kept) if kept.is_file() else "":
        found = f"the token of {source} is sent to {address}, which kills every actor if it was started without one"
        yield warn("RAY_AUTH_MODE", found, "Set RAY_AUTH_MODE=token or disabled, as the cluster was started.")
