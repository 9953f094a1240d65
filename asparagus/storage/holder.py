"""Who trains a run, told to other machines: an object in the store that is written again every few seconds."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asparagus.errors import RecordError, StoreError
from asparagus.storage.mirror import Mirror, mirror_of
from asparagus.storage.names import HOLDERS
from asparagus.storage.store import Entry

BEAT_S = 5.0
LEASE_S = 30.0
"""Who was silent for so long is gone, whatever machine it was on."""
LOOK_S = 0.5

BOOT = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger("asparagus")


class Holder:
    """Holds a run for this process in the sight of all machines.

    Args:
        mirror: The store.
        folder: Of the run.
    """

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        self._mirror, self._folder = mirror, folder
        self._key = f"{mirror.key(folder)}/{HOLDERS}/{uuid.uuid4().hex}"
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, *, wait: bool = False) -> None:
        """Take the run; one that was held by who is gone is free when that was silent for `LEASE_S`.

        Args:
            wait: For who is alive, too.

        Raises:
            RecordError: Another process trains it.
            StoreError: The store cannot be reached.
        """
        while True:
            self._beat()
            others = self._others()
            if not others:
                break
            self._mirror.store.delete(self._key)  # of two at once, both give way and try again
            self._wait_for(others, wait=wait)
        self._thread = threading.Thread(target=self._go_on_beating, name="holder", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let the run go; what cannot be told to the store, it finds out by itself."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(BEAT_S)
        try:
            self._mirror.store.delete(self._key)
        except StoreError as error:
            log.warning("%s", error)

    def _beat(self) -> None:
        self._mirror.store.write(self._key, json.dumps(this_process()).encode())

    def _others(self) -> dict[str, Entry]:
        """Return who else may train the run; those that are known to be gone are cleared away."""
        others, gone = holders(self._mirror, self._folder, but=self._key)
        self._mirror.store.delete_all(gone)
        return others

    def _wait_for(self, others: dict[str, Entry], *, wait: bool) -> None:
        """Wait until one of them is gone.

        Raises:
            RecordError: One is alive: it has spoken again.
        """
        known = [] if wait else [key for key in others if _is_of_here(told_by(self._mirror, key))]
        if known:  # and not known to be gone
            raise self._taken(known[0])
        while True:
            time.sleep(LOOK_S * (0.5 + random.random()))  # noqa: S311 - so that two do not meet again
            now = self._others()
            if now.keys() != others.keys():
                return
            if not wait and (spoken := [key for key in now if now[key].changed > others[key].changed]):
                raise self._taken(spoken[0])

    def _taken(self, key: str) -> RecordError:
        who = told_by(self._mirror, key)
        return RecordError(
            f"{self._folder}: is being trained already, by process {who.get('pid')} on {who.get('host')}. "
            "Wait for it, or train a second one: run.resume=false."
        )

    def _go_on_beating(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                if self._mirror.store.read(self._key) is None:
                    log.warning(
                        "%s: another machine has gone on with this run, since this one was silent", self._folder
                    )
                    return
                self._beat()
            except StoreError:  # it is away; so it is for the others, or they take over
                continue


def holders(mirror: Mirror, folder: Path, *, but: str = "") -> tuple[dict[str, Entry], list[str]]:
    """Return who may train a run now, and who is known to be gone.

    Args:
        mirror: The store.
        folder: Of the run.
        but: Who does not count.
    """
    there = mirror.store.list(f"{mirror.key(folder)}/{HOLDERS}")
    now = mirror.store.now() if there.keys() - {but} else 0.0
    gone = [
        key
        for key, entry in there.items()
        if key != but and (now - entry.changed > LEASE_S or is_gone(told_by(mirror, key)))
    ]
    return {key: entry for key, entry in there.items() if key != but and key not in gone}, gone


def is_held(folder: Path) -> bool:
    """Tell whether a process trains a run now, on whatever machine; of a folder without a store, nobody knows here."""
    mirror = mirror_of(folder)
    return mirror is not None and bool(holders(mirror, folder)[0])


def is_locked(file: Path) -> bool:
    """Tell whether a process of this machine has a file locked."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def is_held_here(folder: Path) -> bool:
    """Tell whether a process of this machine trains a run now."""
    return is_locked(folder / ".lock")


def told_by(mirror: Mirror, key: str) -> dict[str, Any]:
    """Return what a holder says of itself."""
    try:
        told: dict[str, Any] = json.loads(mirror.store.read(key) or b"{}")
    except ValueError:
        return {}
    return told


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others, on any machine: for whoever asks later whether it is gone."""
    machine = _said(Path("/etc/machine-id"))
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": machine, "boot": _said(BOOT), "room": _room()}


def is_gone(who: Mapping[str, Any]) -> bool:
    """Tell whether a process is known to be no more: it was one of this machine, which has none of its number now.

    Args:
        who: What it said of itself; somebody of whom nothing is known may well be there.
    """
    if _is_of_here(who):
        return not _is_there(int(who["pid"]))
    here = this_process()
    is_same = bool(here["machine"]) and (who.get("host"), who.get("machine")) == (here["host"], here["machine"])
    return is_same and bool(who.get("boot")) and who["boot"] != here["boot"]  # it was started anew since


def _is_of_here(who: Mapping[str, Any]) -> bool:
    """Tell whether a process is one of those that have their numbers where this one has its own."""
    here = this_process()
    return bool(who.get("boot")) and (who["boot"], who.get("room")) == (here["boot"], here["room"])


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, and alive
        return True
    return True


def _room() -> str:
    """Name the room in which process numbers are valid: a container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _said(file: Path) -> str:
    """Return what a file of the system says; nothing where there is none."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
