"""Every node of a cluster, asked the same question at the same time: over Ray, or through its door for jobs."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
import uuid
from typing import Any

from asparagus.driver.address import answering
from asparagus.driver.on_ray import use_token_if_there_is_one
from asparagus.errors import PlanError
from asparagus.reach import unreachable
from asparagus.spec import Site

NODE_S = 90.0
"""For one node to start a process and look around."""
JOB_S = 300.0
WAIT = "wait"
ANSWERS = "ASPARAGUS-NODES "
"""Before the answers, in the log of a job."""
NOT_LET_IN = ("authentication", "unauthenticated", "401", "403", "invalid token")
Report = dict[str, Any]


def ask_nodes(site: Site, question: dict[str, Any]) -> list[Report]:
    """Return what each node says: of itself, of the folders of the others, and of the time.

    Args:
        site: Where.
        question: As `Probe.look` takes it, without the nonce.

    Raises:
        PlanError: The cluster is not reached, or does not let us in.
    """
    if site.jobs_address:
        return _through_jobs(site.jobs_address, question)
    import ray

    use_token_if_there_is_one()
    answering(site)
    try:
        ray.init(address=site.address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises what it likes; each is said in a line of ours
        raise PlanError(_refused(f"site.address: {site.address}", error)) from error
    try:
        return _ask(question)
    finally:
        ray.shutdown()


def wait_for_nodes(nodes: int, timeout: float) -> None:
    """Wait until the cluster of RAY_ADDRESS is up and has so many nodes.

    Raises:
        PlanError: They did not come in time; names those that did.
    """
    import ray

    use_token_if_there_is_one()
    site, end = Site(address=os.environ["RAY_ADDRESS"]), time.monotonic() + timeout
    while True:
        try:
            answering(site)
            break
        except PlanError:
            if time.monotonic() > end:
                raise
        time.sleep(0.5)
    ray.init(address=site.address, log_to_driver=False, logging_level=logging.ERROR)
    while len(alive := [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]) < nodes:
        if time.monotonic() > end:
            raise PlanError(f"{len(alive)} of {nodes} nodes came within {timeout:g} s: {', '.join(alive)}.")
        time.sleep(0.5)
    ray.shutdown()


def _ask(question: dict[str, Any]) -> list[Report]:
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from asparagus.driver import probe

    cloudpickle.register_pickle_by_value(probe)  # a node may have no asparagus, or another one
    remote = ray.remote(num_cpus=0)(probe.Probe)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    actors = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actors[node["NodeID"]] = remote.options(scheduling_strategy=there).remote()
    nonces = {node: uuid.uuid4().hex for node in actors}
    asked = {node: actor.look.remote({**question, "nonce": nonces[node]}) for node, actor in actors.items()}
    reports = {node: _got(answer) for node, answer in asked.items()}
    here = {node: actor for node, actor in actors.items() if "problem" not in reports[node]}
    _compare(here, reports, question["written"], nonces)
    for actor in actors.values():
        ray.kill(actor)
    return [{**_of_ray(node), **reports[node["NodeID"]]} for node in nodes]


def _compare(here: dict[str, Any], reports: dict[str, Report], folders: dict[str, str], nonces: dict[str, str]) -> None:
    """Have every node read the marks of all, tell the time, and take its own mark away."""
    left = {name: [nonces[node] for node in here if not reports[node]["marks"][name]] for name in folders}
    hosts = {nonce: reports[node].get("host", node) for node, nonce in nonces.items()}
    asked = {
        node: [actor.unseen.remote({name: folder}, left[name]) for name, folder in folders.items()]
        for node, actor in here.items()
    }
    for node, answers in asked.items():
        told = [_got(answer) for answer in answers]
        unseen = {name: nonce for answer in told if "problem" not in answer for name, nonce in answer.items()}
        reports[node]["unseen"] = {name: [hosts[one] for one in missing] for name, missing in unseen.items()}
    for node, actor in here.items():
        reports[node]["skew"] = _skew(actor)
        _got(actor.clean.remote(folders, nonces[node]))


def _skew(actor: Any) -> float:
    """Return how many seconds, at least, a node's clock is before or behind ours: its answer lies between our looks."""
    import ray

    before = time.time()
    there = float(ray.get(actor.clock.remote(), timeout=NODE_S))
    after = time.time()
    return there - after if there > after else min(there - before, 0.0)


def _got(answer: Any) -> Any:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        return ray.get(answer, timeout=NODE_S)
    except GetTimeoutError:
        return {"problem": f"no answer within {NODE_S:g} s"}
    except RayError as error:
        return {"problem": str(error).strip().splitlines()[0]}


def _of_ray(node: dict[str, Any]) -> Report:
    has = {name: node["Resources"].get(name, 0) for name in ("CPU", "GPU", "memory", "object_store_memory")}
    return {"node": node["NodeID"], "address": node["NodeManagerAddress"], "resources": has}


def _through_jobs(address: str, question: dict[str, Any]) -> list[Report]:
    """Have a job on the cluster ask, since nobody outside of it can.

    Raises:
        PlanError: The door is closed, or the job failed.
    """
    if problem := unreachable(address):
        raise PlanError(
            f"site.jobs_address: nothing answers at {address}: {problem}. Is the way there open (kubectl port-forward, "
            "ray dashboard, ssh -L)? docs/clusters.md says which."
        )
    use_token_if_there_is_one()
    from ray.job_submission import JobSubmissionClient

    entrypoint = f"python -m asparagus.driver.nodes {shlex.quote(json.dumps(question))}"
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=entrypoint, metadata={"asparagus": "doctor"})
        log = _ended(client, job)
    except Exception as error:  # the client raises RuntimeError with a page of HTML in it
        raise PlanError(_refused(f"site.jobs_address: {address}", error)) from error
    answers = [line.removeprefix(ANSWERS) for line in log.splitlines() if line.startswith(ANSWERS)]
    if not answers:
        last = [line for line in log.splitlines() if line.strip()][-1:]
        raise PlanError(
            f"site.jobs_address: the job that looks at the nodes of {address} failed: {last[0] if last else 'no log'}. "
            "Is asparagus installed there, in the Python that Ray runs in (launch/image/Dockerfile)?"
        )
    reports: list[Report] = json.loads(answers[-1])
    return reports


def _ended(client: Any, job: str) -> str:
    end = time.monotonic() + JOB_S
    while not client.get_job_status(job).is_terminal():
        if time.monotonic() > end:
            client.stop_job(job)
            raise PlanError(f"the job that looks at the nodes did not end within {JOB_S:g} s; ray job logs {job}")
        time.sleep(0.5)
    log: str = client.get_job_logs(job) or str(client.get_job_info(job).message)
    return log


def _refused(where: str, error: Exception) -> str:
    """Say in a line why a cluster did not let us in.

    Args:
        where: The setting, and the address that it names.
        error: Of Ray.
    """
    text = " ".join(str(error).split())
    if isinstance(error, PlanError):
        return text
    lower = f"{type(error).__name__} {text}".lower()
    if "version mismatch" in lower:
        return f"{where} runs other versions than this machine: {text[:300]}. Install the same here or there."
    if any(word in lower for word in NOT_LET_IN):
        return (
            f"{where} does not take this token (it may have expired or been changed). "
            "RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."
        )
    return f"{where} answers, and cannot be joined from here: {type(error).__name__}: {text[:300]}"


def main() -> None:
    """Be a job that asks from inside, given a question; or `wait NODES SECONDS` for what a script starts."""
    import ray

    if sys.argv[1] == WAIT:
        try:
            wait_for_nodes(int(sys.argv[2]), float(sys.argv[3]))
        except PlanError as error:
            sys.exit(f"error: {error}")
        return
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    sys.stdout.write(f"{ANSWERS}{json.dumps(_ask(json.loads(sys.argv[1])))}\n")


if __name__ == "__main__":
    main()
