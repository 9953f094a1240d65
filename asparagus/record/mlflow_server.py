"""Calls to an MLflow server without MLflow: addresses, credentials, answers, and what a refusal means."""

from __future__ import annotations

import base64
import configparser
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asparagus.errors import RecordError
from asparagus.record import tracking
from asparagus.secrets import without_passwords

API = "/api/2.0/mlflow/"
TIMEOUT_S = 10.0
CREDENTIALS = Path("~/.mlflow/credentials")
WAITS_S = (0.05, 0.2, 0.5, 1.0)
"""Between the tries of one question."""
STUMBLED = {408, 429, 500, 502, 503, 504}
YES = {"true", "1"}
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""How a server says that a name or alias is not registered."""


class RefusedError(Exception):
    """The server understood the question and has another answer than the one that was hoped for.

    Args:
        code: MLflow's own, e.g. `RESOURCE_DOES_NOT_EXIST`.
        message: In words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class MlflowServer:
    """An MLflow server, asked as MLflow's own client asks it: the same variables, the same credentials.

    Args:
        uri: `http(s)://[USER:PASSWORD@]HOST[:PORT][/PREFIX]`.
        environment: Of the process, unless given.
    """

    def __init__(self, uri: str, environment: Mapping[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        self.uri = uri
        parts = urllib.parse.urlsplit(uri)
        self._base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/") + API
        self._headers = {"Content-Type": "application/json"}
        if env.get("MLFLOW_WORKSPACE"):
            self._headers["X-MLFLOW-WORKSPACE"] = env["MLFLOW_WORKSPACE"]
        self._authorization = authorization(parts, env)
        self._timeout = float(env.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or TIMEOUT_S)
        self._context = _context(env) if parts.scheme == "https" else None

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Ask with GET.

        Raises:
            RefusedError: The server says no.
            RecordError: It cannot be reached, or does not let us in.
        """
        return self._answer(urllib.request.Request(f"{self._base}{path}?{urllib.parse.urlencode(query)}"))  # noqa: S310

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask with POST; raises as `get` does."""
        return self._answer(urllib.request.Request(self._base + path, data=json.dumps(body).encode()))  # noqa: S310

    def _answer(self, request: urllib.request.Request) -> dict[str, Any]:
        for name, value in self._headers.items():
            request.add_header(name, value)
        if self._authorization:  # for this server, and for none that it sends us to
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            text = self._read(request)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except urllib.error.URLError as error:
            raise RecordError(tracking.unreachable(self.uri, error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise RecordError(tracking.unreachable(self.uri, error or type(error).__name__)) from error
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise self._no_mlflow() from error
        return answer

    def _read(self, request: urllib.request.Request) -> bytes:
        """Return the answer; a server that stumbles is asked again, as MLflow's own client does.

        MLflow 3.17 without its `auth` extra answers some of several searches at the same time with a 500.
        """
        for wait in WAITS_S:
            try:
                return self._once(request)
            except urllib.error.HTTPError as error:
                if error.code not in STUMBLED:
                    raise
            time.sleep(wait)
        return self._once(request)

    def _once(self, request: urllib.request.Request) -> bytes:
        with urllib.request.urlopen(request, timeout=self._timeout, context=self._context) as reply:  # nosec B310  # noqa: S310
            text: bytes = reply.read()
        return text

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        body = error.read().decode("utf-8", "replace")
        where = without_passwords(self.uri)
        if error.code == http.HTTPStatus.UNAUTHORIZED:
            return RecordError(
                f"tracking: {where} asks who you are, and does not know these credentials (401). Set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            )
        try:
            told = json.loads(body)
            code, message = str(told["error_code"]), str(told.get("message", ""))
        except (ValueError, KeyError, TypeError):
            code, message = "", body.strip()[:200]
        if error.code == http.HTTPStatus.FORBIDDEN:
            return RecordError(
                f"tracking: {where} does not let us in (403): {message or error.reason}. A server that is reached by "
                "name has to be started with --allowed-hosts; on one with users, yours has to be allowed to read."
            )
        if code:
            return RefusedError(code, message)
        if error.code == http.HTTPStatus.NOT_FOUND:
            return self._no_mlflow()
        return RecordError(tracking.unreachable(self.uri, f"{error.code} {error.reason} {message}".strip()))

    def _no_mlflow(self) -> RecordError:
        return RecordError(
            f"tracking: {without_passwords(self.uri)} answers, but not as an MLflow server. Is the address right, with "
            "its port and path? It is MLFLOW_TRACKING_URI or site.tracking_uri."
        )


def authorization(parts: urllib.parse.SplitResult, env: Mapping[str, str]) -> str:
    """Return the Authorization header that MLflow's client would send: from the URI, the environment, its own file."""
    user = urllib.parse.unquote(parts.username or "")
    password = urllib.parse.unquote(parts.password or "")
    if not user:
        kept = _kept()
        user = env.get("MLFLOW_TRACKING_USERNAME") or kept.get("mlflow_tracking_username", "")
        password = env.get("MLFLOW_TRACKING_PASSWORD") or kept.get("mlflow_tracking_password", "")
    if user and password:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    token = env.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token}" if token else ""


def _kept() -> Mapping[str, str]:
    """Return what `mlflow login` wrote down."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(CREDENTIALS.expanduser())
    return dict(config["mlflow"]) if config.has_section("mlflow") else {}


def _context(env: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=env.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in YES:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if env.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        context.load_cert_chain(env["MLFLOW_TRACKING_CLIENT_CERT_PATH"])
    return context
