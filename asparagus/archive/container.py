"""The file itself: a tar that is the same bytes for the same content, and read with distrust."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asparagus.archive.layout import (
    ARTIFACT,
    CONFIG,
    GET_ANOTHER,
    INDEX,
    WEIGHTS,
    Index,
    MissingFileError,
    tampered,
)
from asparagus.checkpoint.folder import digest_of
from asparagus.errors import RecordError

MODES = ("r:", "r:gz")
"""How an archive is opened: as a plain tar, and if it is none, as a compressed one."""
UNREADABLE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
"""What reading a file raises that is cut short or damaged."""


def write(path: Path, *, kind: str, config: str, files: Mapping[str, Path], lineage: Mapping[str, Any]) -> Index:
    """Write an archive, whole or not at all; returns its index.

    Args:
        path: Of the archive; folders above it are made, and what is there is replaced.
        kind: `run` or `model`.
        config: The text of `model_config.yaml`.
        files: Weights and artifacts by their names in the archive.
        lineage: Where the weights come from.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="asparagus-") as folder:
        written = Path(folder) / CONFIG
        written.write_text(config, encoding="utf-8")
        every = dict(sorted({**files, CONFIG: written}.items()))
        index = Index(kind, {name: digest_of(file) for name, file in every.items()}, dict(lineage))
        writing = path.with_name(f".{path.name}.{uuid.uuid4().hex}.writing")
        try:
            with tarfile.open(writing, "w:", format=tarfile.PAX_FORMAT) as tar:
                text = index.to_json().encode()
                tar.addfile(_member(INDEX, len(text)), io.BytesIO(text))  # first: it is read first
                for name, file in every.items():
                    with file.open("rb") as content:
                        tar.addfile(_member(name, os.fstat(content.fileno()).st_size), content)
            writing.replace(path)
        finally:
            writing.unlink(missing_ok=True)
    return index


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Return a header without a time, an owner or anything else that is not the content's."""
    member = tarfile.TarInfo(f"./{name}")
    member.size, member.mode = size, 0o644
    return member


class Opened:
    """An archive that is open for reading: its index is checked, its members when they are taken out."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self.path, self._tar = path, tar
        self._members = _safe_members(path, tar.getmembers())
        self.index = Index.from_json(self._text(INDEX), path)
        named = {INDEX, *self.index.members}
        if lost := sorted(named - set(self._members)):
            raise RecordError(f"{path}: {', '.join(lost)} is missing: it was cut short or changed. {GET_ANOTHER}")
        if more := sorted(set(self._members) - named):
            raise RecordError(f"{path}: holds {', '.join(more)}, which its {INDEX} does not name. {GET_ANOTHER}")
        if without := sorted({CONFIG, WEIGHTS} - named):
            raise RecordError(f"{path}: its {INDEX} names no {', '.join(without)}. {GET_ANOTHER}")

    @property
    def artifacts(self) -> list[str]:
        """The names of the artifacts."""
        return [name for name in self.index.members if ARTIFACT.fullmatch(name)]

    def config(self) -> str:
        """Return the text of the config; nothing else is read."""
        with tempfile.TemporaryDirectory(prefix="asparagus-") as folder:
            self.extract([CONFIG], Path(folder))
            return (Path(folder) / CONFIG).read_text(encoding="utf-8")

    def extract(self, names: Iterable[str], folder: Path) -> None:
        """Take members out into a folder.

        Raises:
            RecordError: There is none of that name, or it is not as it was written.
        """
        for name in names:
            if name not in self.index.members:
                held = ", ".join(self.artifacts) or "none"
                raise RecordError(f"{self.path}: holds no {name}. Its artifacts: {held}. {GET_ANOTHER}")
            self._tar.extract(self._members[name], folder, filter="data")
            if digest_of(folder / name) != self.index.members[name]:
                raise tampered(self.path, name)

    def _text(self, name: str) -> str:
        if name not in self._members:
            raise RecordError(
                f"{self.path}: has no {name}, so it is no archive of asparagus. Archives are written by save_to and "
                "asp model export; weights of others are started from as they are: init_from=file:PATH."
            )
        content = self._tar.extractfile(self._members[name])
        assert content is not None, "a regular file"
        return content.read().decode("utf-8", errors="replace")


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open an archive for reading.

    Raises:
        MissingFileError: There is none; it is a FileNotFoundError too.
        RecordError: It is no archive, was cut short or changed, or is of a newer format.
    """
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such archive. Write one: model.save_to(path), asp model export N.")
    if not path.is_file():
        raise RecordError(f"{path}: is a folder. Give an archive: what save_to or asp model export wrote.")
    try:
        with _tar(path) as tar:
            yield Opened(path, tar)
    except UNREADABLE as error:
        raise RecordError(f"{path}: cannot be read: it was cut short or is damaged ({error}). {GET_ANOTHER}") from error


def read_index(path: Path | str) -> Index:
    """Return what an archive says of itself: its members' digests and its ancestry.

    Raises:
        RecordError: As `opened`.
    """
    with opened(Path(path)) as archive:
        return archive.index


def must_be_free(path: Path) -> Path:
    """Return a path, absolute, if nothing is there.

    Raises:
        RecordError: Something is.
    """
    path = path.expanduser().absolute()
    if path.exists() or path.is_symlink():
        raise RecordError(f"{path}: is there already, and nothing is overwritten. Give another name, or move it away.")
    return path


def is_archive(path: Path) -> bool:
    """Tell whether a file is an archive of ours, by its content."""
    try:
        with _tar(path) as tar:
            first = tar.next()
            return first is not None and first.name == f"./{INDEX}"
    except (*UNREADABLE, RecordError, OSError):
        return False


def _tar(path: Path) -> tarfile.TarFile:
    """Open a plain tar, else a compressed one."""
    for mode in MODES:
        try:
            return tarfile.open(path, mode)  # type: ignore[call-overload,no-any-return]
        except (tarfile.ReadError, EOFError):
            continue
    raise RecordError(f"{path}: is no archive (neither a tar nor a gzipped one), or was cut short. {GET_ANOTHER}")


def _safe_members(path: Path, members: Iterable[tarfile.TarInfo]) -> dict[str, tarfile.TarInfo]:
    """Return the members by their names; an archive is flat, so whatever could leave a folder is refused."""
    found: dict[str, tarfile.TarInfo] = {}
    for member in members:
        name = member.name.removeprefix("./")
        if member.isdir() and name in ("", "."):  # what `tar -c .` adds
            continue
        if not member.isfile() or "/" in name or "\\" in name or name in ("", ".", "..") or name in found:
            raise RecordError(
                f"{path}: holds {member.name!r}, and an archive holds plain files without folders, each once. "
                "It was made by something else, and is not opened."
            )
        found[name] = member
    return found
