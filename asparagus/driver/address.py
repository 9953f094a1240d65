"""Which Ray a site means, and whether one is there: Ray itself would look for minutes."""

from __future__ import annotations

import os

from asparagus.errors import PlanError
from asparagus.reach import current_cluster, unreachable
from asparagus.spec import Site

AUTO = "auto"
HANDSHAKE_S = 5.0
ADVICE = (
    "Start one (ray start --head; docs/clusters.md), give its address (site.address=host:port), or train here "
    "(site=local)."
)


def answering(site: Site) -> None:
    """Refuse a site at whose address nobody answers.

    Raises:
        PlanError: What was tried, and what came of it.
    """
    address, source = _meant(site.address)
    if not address:
        raise PlanError(f"site.address: no Ray cluster is known here: {source}. {ADVICE}")
    if problem := unreachable(address) or _no_grpc(address):
        raise PlanError(f"site.address: no Ray cluster answers at {address} ({source}): {problem}. {ADVICE}")


def _meant(address: str) -> tuple[str, str]:
    """Return the address and where it stands; without one, where it was looked for."""
    if address != AUTO:
        return address, "site.address"
    if given := os.environ.get("RAY_ADDRESS", "").removeprefix(AUTO):
        return given, "RAY_ADDRESS"
    file = current_cluster(os.environ)
    try:
        return file.read_text(encoding="utf-8").strip(), str(file)
    except OSError:
        return "", f"site.address is auto, RAY_ADDRESS is not set, and there is no {file}"


def _no_grpc(address: str) -> str:
    """Return why what listens there can be no Ray, or nothing: it has to shake hands as gRPC does."""
    if os.environ.get("RAY_USE_TLS", "0") != "0" or "://" in address:
        return ""
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=HANDSHAKE_S)
        except grpc.FutureTimeoutError:
            return f"something listens there, and does not answer as Ray does within {HANDSHAKE_S:g} s"
    return ""
