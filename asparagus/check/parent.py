"""`init_from`: from what is written there to the very checkpoint that a run starts from, whole as it was written."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asparagus.checkpoint.folder import STATE, Manifest, best_of, digest_of, manifests, no_weights, pick
from asparagus.errors import ConfigError, RecordError, one_of
from asparagus.paths import expanded
from asparagus.record.model_names import parse
from asparagus.record.numbers import find_folder
from asparagus.record.reader import Registered, open_reader
from asparagus.record.run_folder import RunFolder, is_running
from asparagus.record.sweeps import best_run
from asparagus.secrets import reveal
from asparagus.spec import Parent, Spec
from asparagus.storage.fetch import fetch

MOVING = ("last", "best")
"""Names of checkpoints that stand for another one tomorrow."""
FORM = re.compile(r"file:.+|model:.+|sweep:[0-9]+@best|run:[0-9]+(/.*)?", re.DOTALL)
OF_MORE = ("path", "include", "exclude")
"""Keys of a section of `transfer.more`."""
FORMS = (
    "run:<id>/last, run:<id>/best, run:<id>/<checkpoint>, sweep:<id>@best, model:<name>@<alias>, "
    "model:<name>/<version> nor file:/path/to/weights"
)


@dataclass(frozen=True)
class Found:
    """What `init_from` points to."""

    parent: Parent
    notes: tuple[str, ...] = ()
    """What was passed over on the way."""


def resolve_parent(init_from: str, models: Path, tracking_uri: str | None) -> Found:
    """Return what `run:<id>/<checkpoint>`, `model:<name>@<alias>` or `file:<path>` points to.

    Neither torch nor MLflow is imported.

    Args:
        init_from: As it is written.
        models: The folder of all runs.
        tracking_uri: Where models are registered; may be a reference to a secret.

    Raises:
        RequestError: It is none of these, what it points to is not there or not as it was written, or it may still
            become another one.
    """
    must_be_a_form(init_from)
    kind, _, rest = init_from.partition(":")
    if kind == "file":
        return Found(_of_file(expanded(rest)))
    if kind == "model":
        return Found(_of_model(rest, models, tracking_uri))
    if kind == "sweep":
        return _of_run(best_run(models, int(rest.removesuffix("@best"))), "best", models)
    number, _, which = rest.partition("/")
    return _of_run(int(number), which or "last", models)


def must_be_a_form(init_from: str) -> None:
    """Refuse what points to nothing, wherever it is looked for.

    Raises:
        ConfigError: It has none of the known forms.
    """
    if not FORM.fullmatch(init_from):
        raise ConfigError(f"{init_from!r} is neither {FORMS}.")


def further(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with `transfer.more`: files of weights that come over after the parent's."""
    if spec.transfer.more and spec.init_from is None:
        yield "transfer.more: comes over after the weights of init_from, and there is none. Give the first file there."
    for name, section in spec.transfer.more.items():
        where = f"transfer.more.{name}"
        path = section.get("path") if isinstance(section, dict) else None
        if not isinstance(path, str):
            yield f"{where}: {section!r} given, but it is a section: {{path: /weights.ckpt, include: [encoder]}}."
            continue
        for key, value in section.items():
            if key not in OF_MORE:
                yield one_of(f"{where}.{key}", key, OF_MORE)
            elif key != "path" and not isinstance(value, list | None):
                yield f"{where}.{key}: {value!r} given, but it is a list of parts of names."
        if spec.site.address == "local" and (problem := no_weights(Path(path))):
            yield f"{where}.path: {problem} Give the path of a checkpoint folder or weights file."


def _of_file(path: Path) -> Parent:
    """Return what a path to weights is: a file, or a checkpoint of a run of ours, however it was named."""
    if problem := no_weights(path):
        raise ConfigError(f"{problem} Give the path of a checkpoint folder or weights file.")
    run_id = _number_of(path.parent.parent)
    if path.parent.name == "checkpoints" and run_id is not None and (path / STATE).is_file():
        checkpoint, manifest = _exactly(path.parent, path.name)
        return _parent(checkpoint, manifest, run_id)
    return Parent(str(path), _digest(path / STATE if path.is_dir() else path))


def _of_run(run_id: int, which: str, models: Path) -> Found:
    folder = find_folder(models, run_id)
    checkpoints = folder / "checkpoints"
    if which not in MOVING:
        return Found(_parent(*_exactly(checkpoints, which), run_id))
    if is_running(RunFolder(folder, folder.parent.name)):
        found = manifests(checkpoints)
        example = f", or name one: init_from=run:{run_id}/{found[-1].name}" if found else ""
        raise ConfigError(f"run {run_id} is still training, so last and best may move: wait for it{example}.")
    notes: list[str] = []
    for checkpoint, manifest in _in_turn(checkpoints, which):
        if _is_whole(checkpoint, manifest):
            return Found(_parent(checkpoint, manifest, run_id), tuple(notes))
        notes.append(
            f"init_from: {checkpoint} is not as it was written (its digest differs); the one before it is used"
        )
    raise ConfigError(
        f"{checkpoints}: no checkpoint that could be {which} is as it was written (their digests differ). "
        "Start from another run, or copy them here again."
    )


def _of_model(reference: str, models: Path, tracking_uri: str | None) -> Parent:
    meant = parse(reference)
    found = open_reader(str(reveal(tracking_uri))).registered(meant.name, meant.alias or f"v{meant.version}")
    checkpoint = _today(found, models)
    told = f"model:{meant} is version {found.version}, run {found.run_id}, {checkpoint.name}"
    if not checkpoint.is_dir():
        raise RecordError(
            f"{told}: its checkpoint {checkpoint} is gone. Was it moved or deleted? Promote another one: "
            "asp model promote."
        )
    checkpoint, manifest = pick(checkpoint.parent, checkpoint.name)
    if found.digest != manifest.digest:
        raise RecordError(
            f"{told}: {checkpoint} is not the one that was registered (sha256 {found.digest[:12]} then, "
            f"{manifest.digest[:12]} now). If it is what you want: asp model promote {found.run_id} --name {meant.name}"
            + (f" --alias {meant.alias}" if meant.alias else "")
            + f" --checkpoint {checkpoint.name}"
        )
    return _parent(*_exactly(checkpoint.parent, checkpoint.name), found.run_id)


def _today(found: Registered, models: Path) -> Path:
    """Return where a registered checkpoint lies: with its run's folder, if that moved since."""
    path = Path(found.checkpoint)
    if found.run_id is None:
        return path
    try:
        moved = find_folder(models, found.run_id) / "checkpoints" / path.name
    except RecordError:  # trained elsewhere, or gone
        return path
    return moved if moved.is_dir() else path


def _exactly(checkpoints: Path, name: str) -> tuple[Path, Manifest]:
    """Return the checkpoint of this name.

    Raises:
        RequestError: There is none, or it is not as it was written.
    """
    checkpoint, manifest = pick(checkpoints, name)
    if _is_whole(checkpoint, manifest):
        return checkpoint, manifest
    others = ", ".join(other.name for other in manifests(checkpoints) if other.name != manifest.name)
    raise ConfigError(
        f"{checkpoint} is not as it was written (its digest differs): it is damaged, or was changed. "
        + (f"Take another one: {others}." if others else "Copy it here again, or take another run.")
    )


def _in_turn(checkpoints: Path, which: str) -> Iterator[tuple[Path, Manifest]]:
    """Yield the last or best checkpoint, then what is the last or best of the others, and so on."""
    yield pick(checkpoints, which)
    rest = manifests(checkpoints)
    chosen = _choose(rest, which)
    while chosen is not None:
        rest.remove(chosen)
        chosen = _choose(rest, which)
        if chosen is not None:
            yield checkpoints / chosen.name, chosen


def _choose(found: list[Manifest], which: str) -> Manifest | None:
    return best_of(found) if which == "best" else (found[-1] if found else None)


def _parent(checkpoint: Path, manifest: Manifest, run_id: int | None) -> Parent:
    return Parent(str(checkpoint), manifest.digest, run_id, str(checkpoint.parent.parent), manifest.step)


def _number_of(folder: Path) -> int | None:
    number = folder.name.removeprefix("run_id=")
    return int(number) if number.isascii() and number.isdigit() else None


def _is_whole(checkpoint: Path, manifest: Manifest) -> bool:
    try:
        fetch(checkpoint)
        return _digest(checkpoint / STATE) == manifest.digest
    except OSError:  # not there any more, or on a bad sector
        return False


def _digest(state: Path) -> str:
    about = state.stat()
    return _digest_at((state, about.st_size, about.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _digest_at(seen: tuple[Path, int, int]) -> str:
    """Hash a file once: what is asked is checked on the way in, and again by the driver."""
    return digest_of(seen[0])
