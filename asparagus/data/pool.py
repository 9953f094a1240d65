"""Many cases at once, over processes of this machine: each comes back done, or with what went wrong in it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from asparagus.errors import DataError

Job = TypeVar("Job")
Work = Callable[[Job], None]
Ended = tuple[Job, BaseException | None]
Pool = Callable[[Work[Job], Sequence[Job]], Iterator[Ended[Job]]]
"""Does the work of each job, in any order, and yields each as it ends."""

AHEAD = 2
"""Jobs that are handed out for each worker: one is done, one waits."""


def in_processes(workers: int) -> Pool[Job]:
    """Return a pool of so many processes, started anew (spawn); 1 works in this one.

    A process that dies (killed for its memory, a crash in a library) costs nobody but the case that it died of.
    """

    def pool(work: Work[Job], jobs: Sequence[Job]) -> Iterator[Ended[Job]]:
        todo, alone = deque(jobs), deque[Job]()
        while todo:
            yield from _until_broken(work, todo, min(workers, len(todo)), alone)
        while alone:
            job = alone.popleft()
            suspects: deque[Job] = deque()
            yield from _until_broken(work, deque([job]), workers, suspects, at_once=1)
            for guilty in suspects:
                yield guilty, DataError("its process died twice (killed, for want of memory? a crash in a reader?)")

    return pool


def _until_broken(
    work: Work[Job], todo: deque[Job], workers: int, suspects: deque[Job], *, at_once: int | None = None
) -> Iterator[Ended[Job]]:
    """Work until nothing is left or a process has died; who was under way then is a suspect."""
    running: dict[Future[None], Job] = {}
    executor = _executor(workers if at_once is None else at_once, alone=workers == 1)
    processes = getattr(executor, "_processes", {}).values()  # no public name before Python 3.14; threads have none
    broken = False
    try:
        while (todo or running) and not broken:
            while todo and len(running) < (at_once or workers * AHEAD):
                with _interrupts_held():  # a process that it starts must not die of one before it can say what it does
                    future = executor.submit(work, todo[0])  # first: it may raise, and the job is still to do
                running[future] = todo.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    suspects.append(job)
                    broken = True
                else:
                    yield job, error
    except BrokenProcessPool:
        pass
    except BaseException:  # Ctrl-C: who asks for an end does not want to wait for the cases that are under way
        executor.shutdown(wait=False, cancel_futures=True)
        for process in list(processes):  # one that is starting would look for us, and say at length that we are gone
            process.kill()
        raise
    suspects.extend(running.values())
    executor.shutdown(wait=True, cancel_futures=True)


def _executor(workers: int, *, alone: bool) -> Executor:
    if alone:
        return ThreadPoolExecutor(1)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold a Ctrl-C back until the body is done; processes that are started in it never hear of one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Be one of many: a single thread of computation, and an end with the parent's, however that comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all; the parent says what comes of it
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)
