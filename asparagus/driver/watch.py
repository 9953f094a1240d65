"""Watches over the workers of a Ray Train run: who is alive, who hangs, who failed first, and what comes after.

One object, told of the life of each worker group by Ray Train's controller, in whatever process that is. A copy of it
is the first thing that each worker hears of.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback, WorkerGroupCallback
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from asparagus.attempts import LEAVE, begin_attempt, last_words_of, stack_of
from asparagus.driver.post_mortem import PostMortem, node_state, write
from asparagus.errors import HungError, LeftError
from asparagus.failure import Death, Kind, death_of, first_of, read_death
from asparagus.failure_policy import Decision, decide, what_to_lower
from asparagus.secrets import references
from asparagus.spec import Assignment
from asparagus.worker import here

LOOK_S = 1.0
"""How often it is looked whether somebody wants the run to leave."""
SILENT_S = 5.0
"""How long one waits for who failed before the ranks that only followed; Ray needs a second to notice a death."""
ANSWER_S = 5.0
"""What a living process needs to write its stacks down."""
NODE_S = 20.0
START_S = 600.0
MOST_LOOKS, FEWEST_S = 20, 0.2
NODE_ID = "ray.io/node-id"

ACTIVE: dict[str, Watch] = {}
"""Of this process's controllers, by the folder of their run: policy and callbacks travel to it one by one."""

log = logging.getLogger("ray.train")


class Watch(WorkerGroupCallback, ControllerCallback, WorkerCallback):
    """Watches over one run.

    Args:
        assignment: What its workers are told.
        each: What each worker needs.
    """

    def __init__(self, assignment: Assignment, each: Mapping[str, float]) -> None:
        self._assignment, self._each = assignment, dict(each)
        self._folder = Path(assignment.folder)
        self.attempt, self.halvings, self.news, self.placed = 0, 0, "", 0.0
        self._before: list[Death] = []
        self._left_out: set[str] = set()
        self._told_to_leave = ""
        self._looked = 0.0
        self._forget()

    def _forget(self) -> None:
        self._group: Any = None
        self._asked: dict[int, Any] = {}
        self._beats: dict[int, tuple[tuple[int, str, int], float]] = {}
        self._facts: dict[int, dict[str, Any]] = {}
        self._pulse = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels: no handles of workers."""
        handles = ("_group", "_asked", "_beats", "_facts")
        return {key: value for key, value in self.__dict__.items() if key not in handles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive."""
        self._forget()
        self.__dict__.update(state)

    # In the controller: the life of a worker group.

    def after_controller_start(self, train_run_context: Any) -> None:  # noqa: ARG002 - Ray's
        """Be found by the failure policy."""
        ACTIVE[str(self._folder)] = self

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> dict[str, str] | None:  # noqa: ARG002
        """Say which nodes are left out."""
        return {NODE_ID: f"!in({','.join(sorted(self._left_out))})"} if self._left_out else None

    def before_worker_group_start(self, worker_group_context: Any) -> None:  # noqa: ARG002
        """Begin another try."""
        self._forget()
        self.attempt, self.placed = begin_attempt(self._folder), time.time()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Take note of the workers, and of where they run."""
        self._group, self._pulse = worker_group, time.monotonic()
        self._facts = dict(enumerate(ray.get([worker.execute_async(here.facts) for worker in self._workers])))

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Look whether they are to leave, and whether they live.

        Raises:
            WorkerGroupError: One of them hangs.
        """
        if self._group is None:
            return
        self._pass_on(worker_group_status.get_preemption_info())
        after = self._assignment.spec.failures.hung_after_min
        if after is not None and not worker_group_status.errors:
            statuses = worker_group_status.worker_statuses
            self._feel_the_pulse(after * 60, [rank for rank, status in statuses.items() if status.running])

    @property
    def _workers(self) -> list[Any]:
        workers: list[Any] = self._group.get_workers()
        return workers

    def _pass_on(self, preemption: Any) -> None:
        """Tell the workers to leave, once, if somebody wants it."""
        now = time.monotonic()
        if self._told_to_leave or (now - self._looked < LOOK_S and preemption is None):
            return
        self._looked = now
        why = wish(self._folder)
        if preemption is not None:
            why = why or f"a notice that nodes are taken away ({', '.join(preemption.preempted_node_ids)})"
        if why:
            self._told_to_leave = why
            for worker in self._workers:
                worker.execute_async(here.ask_to_leave, why)

    def _feel_the_pulse(self, after_s: float, running: list[int]) -> None:
        """Ask each worker for a sign of life, and do not wait for the answer."""
        now = time.monotonic()
        if now - self._pulse < max(after_s / MOST_LOOKS, FEWEST_S):
            return
        self._pulse, workers = now, self._workers
        for rank in running:
            self._beats.setdefault(rank, ((-1, "starting", -1), now))
            if rank in self._asked:
                answered, _ = ray.wait([self._asked[rank]], timeout=0)
                if not answered:
                    continue
                try:
                    told = ray.get(self._asked.pop(rank))
                except RayError:  # it is gone, which its health check says as well
                    continue
                if told != self._beats[rank][0]:
                    self._beats[rank] = told, now
            self._asked[rank] = workers[rank].execute_async(here.look)
        hung = [rank for rank in running if now - self._beats[rank][1] > _patience(self._beats[rank][0], after_s)]
        if hung:
            self._give_up(hung, after_s)

    def _give_up(self, hung: list[int], after_s: float) -> None:
        """Write down where everybody stands, and have the group started anew."""
        silent = self._dump_all()
        # The others wait for the one that does not answer, or has done the least.
        culprit = min(hung, key=lambda rank: (rank not in silent, self._beats[rank][0][0], rank))
        _, doing, step = self._beats[culprit][0]
        where = stack_of(self._folder, self.attempt, culprit).parent
        told = "does not answer" if culprit in silent else f"is in {doing}, step {step}"
        error = HungError(
            f"no step for {after_s / 60:.3g} min (failures.hung_after_min): rank {culprit} {told}. Where all ranks "
            f"stand: {where}"
        )
        raise WorkerGroupError(error_message=str(error), worker_failures={culprit: error})

    def _dump_all(self) -> set[int]:
        """Have every rank write its stacks down; returns those that do not answer, which are ended."""
        workers = self._workers
        paths = [str(stack_of(self._folder, self.attempt, rank)) for rank in range(len(workers))]
        asked = {
            worker.execute_async(here.dump_stacks, path): rank
            for rank, (worker, path) in enumerate(zip(workers, paths, strict=True))
        }
        _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
        left = {asked[ref] for ref in silent}
        looks = [
            _on_node(workers[rank].metadata.node_id, end_silent, workers[rank].metadata.pid, paths[rank])
            for rank in left
        ]
        ray.wait(looks, num_returns=len(looks), timeout=NODE_S) if looks else None
        return left

    # In the controller: after a failure.

    def conclude(self, error: TrainingFailedError) -> bool:
        """Find out who failed first and why, write it down, and say whether it is tried again."""
        deaths = self._deaths(getattr(error, "worker_failures", None) or {0: LeftError(str(error))})
        first = first_of(deaths)
        decision = self._decide(first)
        if decision.leave_out and self._can_do_without(decision.leave_out):
            self._left_out.add(decision.leave_out)
        self._before.append(first)
        self.halvings = decision.halvings
        size = len(self._facts) or len(deaths)
        nodes = {} if decision.again else self._nodes()
        first = deaths[first.rank] = self._starved(first, nodes)
        mortem = PostMortem(self.attempt, size, first, deaths, decision, self._facts, nodes)
        write(self._folder, mortem, references(self._assignment.spec.to_dict()))
        self.news = f"{mortem.who()} ended: {first.kind}: {_line(first.told)} ({decision.why})"
        log.warning("%s", self.news)
        if decision.again:
            self._told_to_leave = ""
        return decision.again

    def _decide(self, first: Death) -> Decision:
        if first.kind is Kind.PREEMPTION and wish(self._folder):
            return Decision(again=False, why=wish(self._folder), halvings=self.halvings)
        return decide(self._assignment.spec, self._before, first, halvings=self.halvings)

    def _deaths(self, failures: Mapping[int, BaseException]) -> dict[int, Death]:
        """Return how the ranks ended, in their own words where they had time for some."""
        deaths = {rank: self._told(rank, error) for rank, error in failures.items()}
        until = time.monotonic() + SILENT_S
        rest = {rank: None for rank in self._facts if rank not in deaths}
        asked = {self._workers[rank].execute_async(here.look): rank for rank in rest} if self._group else {}
        while all(death.kind is Kind.COLLATERAL for death in deaths.values()) and time.monotonic() < until:
            for rank in rest:
                if words := read_death(last_words_of(self._folder, self.attempt, rank)):
                    deaths[rank] = words
            done, _ = ray.wait(list(asked), timeout=LOOK_S / 5) if asked else ([], [])
            for ref in done:
                rank = asked.pop(ref)
                try:
                    ray.get(ref)
                except RayError as error:
                    deaths[rank] = self._told(rank, error)
            if not asked:
                time.sleep(LOOK_S / 5)
        return deaths

    def _told(self, rank: int, error: BaseException) -> Death:
        words = read_death(last_words_of(self._folder, self.attempt, rank))
        if words is not None:
            return words
        beat = self._beats.get(rank, ((-1, "", -1), 0.0))[0]
        host, node = str(self._facts.get(rank, {}).get("host", "")), self._node_of(rank)
        return death_of(error, rank=rank, step=beat[2], host=host, node=node)

    def _node_of(self, rank: int) -> str:
        return str(self._workers[rank].metadata.node_id) if self._group and rank in self._facts else ""

    def _can_do_without(self, node: str) -> bool:
        """Tell whether the other nodes could hold all workers."""
        others = [one for one in ray.nodes() if one["Alive"] and one["NodeID"] not in {node, *self._left_out}]
        return sum(_fit(one["Resources"], self._each) for one in others) >= max(len(self._facts), 1)

    def _starved(self, death: Death, nodes: Mapping[str, Mapping[str, Any]]) -> Death:
        """Say so where the kernel has ended a process for want of memory: it tells of it by a count alone."""
        before = self._facts.get(death.rank, {}).get("kills", 0)
        if death.kind is Kind.LOST and int(nodes.get(death.node, {}).get("kills", 0)) > before:
            return replace(death, kind=Kind.OUT_OF_MEMORY, told="its process was ended by the kernel: out of memory")
        return death

    def _nodes(self) -> dict[str, dict[str, Any]]:
        """Ask each node what it says of itself; one that is gone says nothing."""
        nodes = {self._node_of(rank) for rank in self._facts} - {""}
        asked = {_on_node(node, node_state): node for node in nodes}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_S) if asked else ([], [])
        told = {}
        for ref in done:
            try:
                told[asked[ref]] = ray.get(ref)
            except RayError as error:
                told[asked[ref]] = {"error": type(error).__name__}
        return told

    # In a worker.

    def after_init_train_context(self) -> None:
        """Be a rank of this try, before anything else happens here."""
        context = ray.train.get_context()
        several = context.get_world_size() > context.get_local_world_size()
        here.begin(
            str(self._folder),
            self.attempt,
            context.get_world_rank(),
            node=context.get_node_rank() if several else None,
            first_on_node=context.get_local_rank() == 0,
        )
        here.HERE.halvings, here.HERE.news, here.HERE.placed = self.halvings, self.news, self.placed


def wish(folder: Path) -> str:
    """Return why a run is wished to leave; nothing while it may stay."""
    try:
        return (folder / LEAVE).read_text(encoding="utf-8").strip() or "somebody wishes it"
    except OSError:
        return ""


def hint_of(mortem: PostMortem, assignment: Assignment) -> str:
    """Say who it was, and what can be done about it."""
    lines = [what_to_lower(assignment.spec, mortem.first)] if mortem.first.kind is Kind.OUT_OF_MEMORY else []
    if mortem.world_size > 1:
        lines.insert(0, f"It was {mortem.who()}; what the others say came after it.")
    if mortem.decision is not None and mortem.first.kind not in (Kind.BUG, Kind.REQUEST):
        lines.append(f"Not tried again: {mortem.decision.why}.")
    return "\n".join(lines)


def end_silent(pid: int, path: str) -> None:
    """Write down where a process of this node stands that does not answer, as far as anybody can see it; end it."""
    told = f"process {pid} did not answer"
    if shutil.which("py-spy"):
        command = ["py-spy", "dump", "--nonblocking", "--pid", str(pid)]
        try:
            seen = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
            told += f"\n\n{seen.stdout or seen.stderr}"
        except (OSError, subprocess.TimeoutExpired) as error:
            told += f"\n\npy-spy: {error}"
    Path(path).write_text(told + f"\n\n/proc: {_of_proc(pid)}\n", encoding="utf-8")
    for number in (here.STACKS, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except OSError:
            return
        time.sleep(0.5)


def _of_proc(pid: int) -> str:
    """Return what the kernel says of a process: its state, and in which call it waits."""
    found = []
    for name in ("status", "wchan"):
        try:
            text = Path(f"/proc/{pid}/{name}").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        found += [
            line for line in text.splitlines() if name == "wchan" or line.startswith(("State", "VmRSS", "Threads"))
        ]
    return "; ".join(found)


def _on_node(node: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a node, without asking it for room."""
    strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(*arguments)


def _fit(has: Mapping[str, float], each: Mapping[str, float]) -> int:
    return min((math.floor(has.get(name, 0) / need) for name, need in each.items() if need), default=0)


def _patience(beat: tuple[int, str, int], after_s: float) -> float:
    """Return how long a rank may be quiet: longer before its first step, when it imports and reads its data."""
    return after_s if beat[0] > 0 else max(after_s, START_S)


def _line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no word"
