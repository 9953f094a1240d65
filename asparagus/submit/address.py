"""Where a cluster's dashboard is, whether anybody answers there, and whether we are let in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asparagus.errors import SubmitError
from asparagus.spec import Site

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's own, in the order in which it reads them; the second may be another kind of address."""
USUAL = "http://127.0.0.1:8265"
"""Where a dashboard is on its own machine, and where a tunnel to it ends."""
ADDRESS = re.compile(r"https?://[^/\s]+(/\S*)?|[\w.-]+:\d+")
NOT_THERE = 404
REFUSED = (401, 403)
ANSWER_S = 8.0
"""How long a dashboard may take to answer the first question."""


def is_address(word: str) -> bool:
    """Tell an address from a config: `http://host:8265` or `host:8265`."""
    return ADDRESS.fullmatch(word) is not None


def address_of(given: str | None, site: Site | None = None) -> str:
    """Return the dashboard's address: the one given, the site's, the environment's, else the usual one.

    Raises:
        SubmitError: It is no address of a dashboard.
    """
    of_site = (site.env.get(VARIABLES[0]) or site.jobs_address) if site else None
    known = [word for name in VARIABLES if (word := os.environ.get(name, "")).startswith("http")]
    address = given or of_site or (known[0] if known else USUAL)
    if not is_address(address):
        raise SubmitError(
            f"--submit: {address!r} is no address of a Ray dashboard. Give http://host:8265 or https://host/path; "
            f"without one, site.jobs_address counts, then {VARIABLES[0]} of the environment, then {USUAL}."
        )
    return (address if "://" in address else f"http://{address}").rstrip("/")


def use_token_if_there_is_one() -> None:
    """Let Ray send the token that is known here: it does so only where it is told to."""
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _has_token() -> bool:
    said = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return said or (Path.home() / ".ray" / "auth_token").is_file()


def must_answer(address: str) -> None:
    """Ask for the version with a short patience; whether we are let in is asked later."""
    import urllib.error
    import urllib.request

    url = f"{address}/api/version"
    nobody = (
        f"no Ray cluster answers at {address} (asked {url}, %s). Is it up, and is this its dashboard's port (8265)? "
        "From outside, a tunnel leads to it: ssh -L 8265:localhost:8265 HOST, then --submit http://localhost:8265"
    )
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310  # nosec B310 - http or https, see ADDRESS
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in REFUSED:
            return
        raise SubmitError(nobody % f"HTTP {error.code}") from error
    except (OSError, urllib.error.URLError) as error:
        raise SubmitError(nobody % str(getattr(error, "reason", error))) from error
    except ValueError as error:
        raise SubmitError(f"somebody answers at {address}, and it is no Ray dashboard (asked {url}).") from error
    if not isinstance(told, dict) or "ray_version" not in told:
        raise SubmitError(f"somebody answers at {address}, and it is no Ray dashboard (asked {url}).")


@contextmanager
def explained(address: str, job_id: str = "") -> Iterator[None]:
    """Say in our words what Ray's client raises."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise SubmitError(_no_entry(address)) from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise SubmitError(f"{address} does not answer any more ({type(error).__name__}). Try again.") from error
    except RuntimeError as error:
        if f"status code {NOT_THERE}" in str(error) and job_id:
            raise SubmitError(
                f"job {job_id}: there is none of that name at {address}. All of them: asp runs --jobs"
            ) from error
        raise SubmitError(f"{address}: {str(error).splitlines()[0]}") from error


def _no_entry(address: str) -> str:
    if not _has_token():
        return (
            f"{address} lets nobody in without its token, and none is known here. Set RAY_AUTH_TOKEN to it (.env "
            "will do), or RAY_AUTH_TOKEN_PATH to a file with it. On the head of the cluster it is in ~/.ray/auth_token."
        )
    if os.environ.get("RAY_AUTH_MODE") != "token":
        mode = os.environ.get("RAY_AUTH_MODE")
        return f"{address} asks for a token, and RAY_AUTH_MODE={mode!r} keeps it here. Unset it."
    return (
        f"{address} does not take the token that is known here: it has expired, or is another cluster's. It comes from "
        "RAY_AUTH_TOKEN, else RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token. Ask who runs the cluster for the new one."
    )
