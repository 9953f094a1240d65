"""Ray: reached or started, asked whether the plan can ever fit, and given the workers to run."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.attempts import attempts
from asparagus.driver import post_mortem
from asparagus.driver.address import answering
from asparagus.driver.cluster import here, must_hold
from asparagus.driver.forking import THREADS, fork_server
from asparagus.driver.one_run import Engine, failure
from asparagus.driver.own_ray import LOCAL, QUIET, start_own
from asparagus.driver.wall_time import leaving_in_time
from asparagus.errors import AsparagusError, LeftError, PlanError, RunError
from asparagus.failure import Kind
from asparagus.plan import Plan
from asparagus.record.run_folder import RunFolder
from asparagus.secrets import CARRIED, Sealed, WithoutSecrets, references, reveal
from asparagus.spec import Assignment, Site, Spec
from asparagus.storage.follow import followed
from asparagus.storage.store import TRAVELLING

if TYPE_CHECKING:
    from ray.train import Result, RunConfig, ScalingConfig

STORAGE_NAME = "checkpoints"
"""Ray Train's run folder is `<run folder>/checkpoints`: a checkpoint is written once, where it stays."""
SNAPSHOT = "checkpoint_manager_snapshot.json"

log = logging.getLogger("asparagus")


@contextmanager
def ray_engine(plan: Plan) -> Iterator[Engine]:
    """Connect to the site's Ray, and train on its workers.

    Raises:
        PlanError: The cluster can never hold the plan, or cannot be reached.
    """
    # Ray Train takes longer to import than a local Ray to start: both at once.
    ahead = threading.Thread(target=_import_train, daemon=True)
    if plan.spec.site.stays_up:
        from asparagus.driver.warm_launch import connected_to_warm

        reached = connected_to_warm(plan, ahead)
    else:
        ahead.start()
        reached = _connected(plan)
    with reached:
        ahead.join()
        yield lambda assignment: fit(plan, assignment)


@contextmanager
def _connected(plan: Plan) -> Iterator[None]:
    """Connect to the site's Ray; to one of our own with workers that have imported what they need while it started."""
    with fork_server(_at_import(plan)) if _forks(plan) else nullcontext(_nothing) as tell, connected(plan):
        tell()
        yield


def _nothing() -> None:
    """Nobody has to be told."""


def _forks(plan: Plan) -> bool:
    """Tell whether workers can be forked: Linux alone is safe for that, and a GPU wants a process of its own."""
    return plan.spec.site.address == LOCAL and sys.platform == "linux" and not plan.gpus_per_worker


def _at_import(plan: Plan) -> dict[str, str]:
    """Return the environment in which workers import: their threads as Ray sets them, too late for some libraries."""
    threads = {THREADS: str(max(1, int(plan.cpus_per_worker)))}
    return {**threads, **os.environ, **worker_environment(plan.spec.site)}


@contextmanager
def connected(plan: Plan, *, at_once: float | None = None) -> Iterator[None]:
    """Connect to the site's Ray, or start one that ends with the body.

    Args:
        plan: What is to fit on it.
        at_once: CPUs that a Ray of our own has, if not all of this machine's.

    Raises:
        PlanError: The cluster can never hold the plan, or cannot be reached.
    """
    site = plan.spec.site
    if site.address == LOCAL and at_once is not None and at_once < (site.cpus_per_node or math.inf):
        site = dataclasses.replace(site, cpus_per_node=math.ceil(at_once))
    environment = worker_environment(site)
    os.environ.update(environment)
    import ray

    connect(site, environment)
    try:
        must_fit(plan)
        with leaving_in_time(site.max_hours):
            yield
    finally:
        ray.shutdown()


def worker_environment(site: Site) -> dict[str, str]:
    """Return the environment variables of driver, controller and workers.

    All processes get the same ones: Ray hands an idle process on only between equal environments.
    """
    ours = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(site.poll_interval_s),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(site.start_timeout_s),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    kept = {name: os.environ.get(name, value) for name, value in ours.items()}
    if site.address == LOCAL:
        kept["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # nobody takes this machine away; saves an actor
        kept["RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING"] = "0"  # it would log to our screen: it runs here
    asparagus = {name: value for name, value in os.environ.items() if name.startswith("ASPARAGUS_")}
    asparagus.pop("ASPARAGUS_CACHE", None)  # each machine has its own
    shown = {name: value for name, value in site.env.items() if not any(references(value))}  # Ray displays these
    return {**kept, **asparagus, "PYTHONPATH": _python_path(), **shown}


def _python_path() -> str:
    """Return where workers look for code of one's own: where this process does, made absolute."""
    here = Path.cwd()
    own = [str(here), str(here / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(place for place in own if place))


def connect(site: Site, environment: dict[str, str]) -> None:
    """Connect to a site's Ray, or start one of this machine's own.

    Raises:
        PlanError: Nobody answers at its address.
    """
    import ray

    if site.address == LOCAL:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only, gone with the run
        start_own(site, {"env_vars": environment})
        return
    use_token_if_there_is_one()
    answering(site)
    try:
        ray.init(address=site.address, runtime_env={"env_vars": environment}, **QUIET)
    except Exception as error:
        raise PlanError(
            f"site.address: no Ray cluster answers at {site.address!r} ({type(error).__name__}: {error}). Start one "
            "(ray start --head), give its address (site.address=host:port), or train here (site=local). If it asks for "
            "a token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
        ) from error


def use_token_if_there_is_one() -> None:
    """Have Ray send the token that this machine has: to an address, it does so only where it is told to."""
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def must_fit(plan: Plan) -> None:
    """Refuse what the cluster can never hold; Ray itself would wait for ever."""
    import ray
    from ray._private.state import state

    must_hold(here(ray.nodes(), state.get_cluster_config()), plan.spec.resources)


def fit(plan: Plan, assignment: Assignment, *, placement_group: Any = None, desk: Any = None) -> dict[str, Any]:
    """Train an assignment on Ray Train's workers; returns what `work` does.

    Args:
        plan: Its plan.
        assignment: What the workers are told.
        placement_group: Where they have places already; None reserves them.
        desk: Of the sweep that they wait for after each epoch; None for a run by itself.

    Raises:
        RunError: The training failed.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    from asparagus.driver.trainer import OurTrainer
    from asparagus.driver.watch import Watch
    from asparagus.worker.on_ray import train_loop

    folder = Path(assignment.folder)
    # Ray's own snapshot knows no config and breaks easily; what to go on from is ours to choose, from digests.
    (folder / STORAGE_NAME / SNAPSHOT).unlink(missing_ok=True)
    trainer = OurTrainer(
        train_loop,
        watch=Watch(assignment, plan.bundle),
        folder=str(folder),
        resources=plan.spec.resources,
        patience_s=plan.spec.site.start_timeout_s,
        ray_ends_with_run=plan.spec.site.address == LOCAL,
        placement_group=placement_group,
        train_loop_config={
            "assignment": assignment.to_dict(),
            "secrets": Sealed({**_carried(plan.spec.site), **secrets_of(assignment.spec)}),
            "desk": desk,
        },
        scaling_config=_scaling(plan),
        run_config=_running(plan, folder),
    )
    try:
        with (
            followed(folder),
            chatter_to(RunFolder(folder, assignment.spec.stage).log, WithoutSecrets(assignment.spec.to_dict())),
        ):
            result: Result = trainer.fit()
    except TrainingFailedError as error:
        raise _ended(assignment, error) from error
    except RayError as error:  # the controller was lost, or never reached
        raise failure(assignment, error, hint=_auth_hint()) from error
    outcome: dict[str, Any] = result.return_value
    return outcome


def _running(plan: Plan, folder: Path) -> RunConfig:
    """Return where a run lies, how often it is tried again, and what its workers start with."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig

    return RunConfig(
        worker_runtime_env={"env_vars": _of_workers(plan.spec.site)},
        name=STORAGE_NAME,
        storage_path=str(folder),
        failure_config=FailureConfig(
            max_failures=plan.spec.run.max_failures,
            # Nodes that come and go may be gone again before a group has started on them.
            controller_failure_limit=20 if plan.spec.resources.is_elastic else 3,
        ),
        checkpoint_config=CheckpointConfig(num_to_keep=None),  # the worker's rule removes, for all ways of running
    )


def _scaling(plan: Plan) -> ScalingConfig:
    """Return how many workers there are, what each needs, and where they stand."""
    from ray.train import ScalingConfig

    asked = plan.spec.resources
    return ScalingConfig(
        num_workers=(asked.fewest, asked.workers) if asked.is_elastic else plan.workers,
        use_gpu=plan.gpus_per_worker > 0,
        resources_per_worker=plan.bundle,
        placement_strategy=asked.placement.upper(),
        label_selector=asked.labels or None,
    )


def _ended(assignment: Assignment, error: Exception) -> AsparagusError:
    """Return what ended the training: the first rank that failed, in its own words."""
    from asparagus.driver.watch import hint_of, wish

    folder, cause = Path(assignment.folder), _first_cause(error)
    mortem = post_mortem.read(folder, max(attempts(folder), default=0))
    if mortem is None:
        return failure(assignment, cause)
    if mortem.first.kind is Kind.PREEMPTION and wish(folder):
        return LeftError(mortem.first.told)
    if isinstance(cause, RunError) or mortem.first.told == f"{type(cause).__name__}: {cause}":
        return failure(assignment, cause, hint=hint_of(mortem, assignment))
    return failure(assignment, mortem.first.told, hint=hint_of(mortem, assignment))


def secrets_of(spec: Spec) -> dict[str, str]:
    """Return the environment variables that the spec refers to as secrets, for workers on other machines."""
    asked = {name: value for name, value in spec.site.env.items() if any(references(value))}
    named = {name: os.environ[name] for name in references(spec.to_dict()) if name in os.environ}
    return {**CARRIED, **named, **{name: str(reveal(value)) for name, value in asked.items()}, **_of_stores(spec)}


def _of_workers(site: Site) -> dict[str, str]:
    from asparagus.driver.warm_launch import of_workers

    return of_workers(site)


def _carried(site: Site) -> dict[str, str]:
    """Return the environment of this launch, for workers that were started by another one."""
    if not site.stays_up:
        return {}
    from asparagus.driver.warm_launch import carried

    return carried()


def _of_stores(spec: Spec) -> dict[str, str]:
    """Return the environment variables with which stores are reached, if there are any."""
    return {name: os.environ[name] for name in TRAVELLING if name in os.environ} if spec.paths.stores else {}


def _auth_hint() -> str:
    """Say what a mismatch of tokens looks like: Ray itself only reports that actors die."""
    mode = os.environ.get("RAY_AUTH_MODE")
    return (
        f"RAY_AUTH_MODE is {mode!r} here; on a cluster that was started otherwise every actor dies at once. Make both "
        "the same: RAY_AUTH_MODE=disabled or token."
    )


def _first_cause(error: Exception) -> BaseException:
    """Return what went wrong on the first worker that failed, instead of Ray's account of all of them."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        cause = getattr(error, "controller_failure", None)
        return cause if isinstance(cause, RunError) else error
    first: BaseException = failures[min(failures)]
    while first.__cause__ is not None:
        first = first.__cause__
    return first


def _import_train() -> None:
    import asparagus.driver.trainer  # noqa: F401 - for its imports


@contextmanager
def chatter_to(file: Path, formatter: logging.Formatter) -> Iterator[None]:
    """Keep Ray's own words off the screen and in the run's log."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(formatter)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.train", "ray.tune")]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
