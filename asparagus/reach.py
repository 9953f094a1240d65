"""Whether something answers at an address, said within seconds; and which address `auto` is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 3.0
NAME_TIMEOUT_S = 5.0
"""For a name to become a number; the two together stay under ten seconds."""
TMP = "/tmp"  # nosec B108  # noqa: S108 - where Ray itself looks
PORTS = {"http": 80, "https": 443}


def unreachable(address: str) -> str:
    """Return why nothing answers at an address, or nothing.

    Args:
        address: As `host:port`, or a URI.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError as error:
        return str(error)
    if not parts.hostname or port is None:
        return "it is not host:port"
    known = _looked_up(parts.hostname, port)
    if isinstance(known, str):
        return known
    try:
        socket.create_connection(known, TIMEOUT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def current_cluster(env: Mapping[str, str]) -> Path:
    """Return the file in which `ray start` notes its address, found as Ray finds it."""
    return Path(env.get("RAY_TMPDIR") or env.get("TMPDIR") or TMP) / "ray" / "ray_current_cluster"


def _looked_up(host: str, port: int) -> tuple[str, int] | str:
    """Return the number of a name, or why there is none; a name server that is silent is not waited for."""
    found: list[tuple[str, int] | str] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][:2])  # type: ignore[arg-type]
        except OSError as error:
            found.append(error.strerror or str(error))

    looking = threading.Thread(target=look_up, daemon=True)
    looking.start()
    looking.join(NAME_TIMEOUT_S)
    return found[0] if found else f"no name server answers for {host}"
