"""A Ray of this machine's own: started lean, on loopback alone, and known as soon as it is there."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from asparagus.driver import ray_agent
from asparagus.driver.forking import our_script
from asparagus.errors import PlanError
from asparagus.paths import variables_set
from asparagus.spec import Site

LOCAL = "local"
LOOPBACK = "127.0.0.1"
NODE_S, LOOK_S = 30.0, 0.05
"""How long Ray may take to know its node, and how often that is looked at."""
QUIET = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": True}


def start_own(site: Site, runtime_env: dict[str, Any]) -> str:
    """Start a Ray of this machine's own, on loopback alone, and connect to it; returns its address.

    Raises:
        PlanError: It does not come up.
    """
    import ray

    # Nothing of ours needs idle processes or a dashboard there.
    os.environ.setdefault("RAY_enable_worker_prestart", "0")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    try:
        with on_loopback(), _lean(), our_script():
            context = ray.init(
                address=LOCAL,
                num_cpus=site.cpus_per_node,
                num_gpus=site.gpus_per_node,
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                runtime_env=runtime_env,
                **QUIET,
            )
    except Exception as error:
        raise PlanError(
            f"site: Ray does not start on this machine ({type(error).__name__}: {error}). It waits 30 s for itself: if "
            "the machine is busy, do the same again; if its folder is the trouble, set RAY_TMPDIR to a short path. Or "
            "train in this process: resources.workers=0."
        ) from error
    return str(context.address_info["gcs_address"])


@contextmanager
def _lean() -> Iterator[None]:
    """Have Ray start without what asks for machines, passes on logs and collects statistics: nobody listens to them.

    Each is a Python process beside those that the launch waits for; Ray has no setting for it. One has to be there, the
    agent of a node: ray_agent.py stands in for it. Ray's would also wait 3 s for a port that another Ray here has.
    """
    from ray._private import ray_constants, services, utils
    from ray._private.node import Node

    command = services._build_python_executable_command_memory_profileable  # noqa: SLF001

    def own_agent(component: str, *arguments: Any, **options: Any) -> list[str]:
        if component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT:
            return [sys.executable, ray_agent.__file__]
        words: list[str] = command(component, *arguments, **options)
        return words

    def no_server(node: Any, **_: Any) -> None:
        node._webui_url = ""  # noqa: SLF001 - as it is without a dashboard

    without = {
        (Node, "start_monitor"): lambda _: None,
        (Node, "start_log_monitor"): lambda _: None,
        (Node, "start_api_server"): no_server,
        (utils, "get_dashboard_dependency_error"): lambda: ImportError("there is no dashboard"),  # it imports that
        (services, command.__name__): own_agent,
        (services, "get_node"): partial(_node_at_once, services.get_node),
    }
    with ExitStack() as changed:
        for (owner, name), function in without.items():
            changed.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, function)
        yield


def _node_at_once(get_node: Callable[[str, str], Any], gcs_address: str, node: str) -> Any:
    """Return what Ray knows of a node as soon as it does, where Ray itself would look once a second."""
    from ray._raylet import GcsClient, NodeID  # type: ignore[attr-defined]

    store, deadline = GcsClient(address=gcs_address), time.monotonic() + NODE_S
    while not all(store.check_alive([NodeID.from_hex(node)], timeout=NODE_S)) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return get_node(gcs_address, node)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Have Ray take a loopback address at its word: elsewhere than on laptops, it listens on all networks instead."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with variables_set({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
