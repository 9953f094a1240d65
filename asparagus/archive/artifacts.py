"""Artifacts: files that a model cannot do without, and where they are while it lives and when it is saved again."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.archive.container import is_archive, opened
from asparagus.archive.layout import ARTIFACT, PREFIX, SUFFIX, MissingFileError, basename_of
from asparagus.errors import RecordError
from asparagus.paths import expanded


class Extracted:
    """The artifacts of an archive, taken out into a folder that lives as long as somebody has a path into it."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive.absolute()
        self.folder = Path(tempfile.mkdtemp(prefix="asparagus-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Extracted:
        return self  # a copied model reads the same files

    def path_of(self, name: str) -> Path:
        """Return where an artifact lies; from the archive again, if something cleared the folder.

        Raises:
            RecordError: The archive has no such artifact, is gone, or was changed.
        """
        path = self.folder / name
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with opened(self.archive) as archive:
                archive.extract([name], self.folder)
        return path


@dataclass(frozen=True)
class Artifact:
    """One file of a model."""

    path: Path
    """Where the model reads it."""
    origin: Extracted | None = None
    """Of a restored model: the archive that it came in."""

    @property
    def basename(self) -> str:
        """The name of the file that was registered first."""
        return basename_of(self.path.name) if self.origin else self.path.name

    def found(self, key: str) -> Path:
        """Return the file, to be saved.

        Raises:
            MissingFileError: It is gone, and so is the archive that it came in.
        """
        if self.origin is not None:
            return self.origin.path_of(self.path.name)
        if not self.path.is_file():
            raise MissingFileError(
                f"{key}: its artifact {self.path} is gone since it was registered. Bring it back, or register another."
            )
        return self.path


_restoring: ContextVar[Extracted | None] = ContextVar("_restoring", default=None)


@contextmanager
def restoring(extracted: Extracted) -> Iterator[None]:
    """Let models that are built in the body find their artifacts in an archive."""
    token = _restoring.set(extracted)
    try:
        yield
    finally:
        _restoring.reset(token)


def artifact_of(key: str, src: str | Path, *, must_exist: bool) -> Artifact | None:
    """Return the artifact that `src` is: a file here, or in the archive that is being restored.

    Args:
        key: Its `config_path`; for messages.
        src: A path, or what an archive's config says in place of one.
        must_exist: Whether it is an error if there is none.

    Raises:
        MissingFileError: There is no such file, and there must be.
        RecordError: It is a folder, an archive, or a reference into an archive while none is restored.
    """
    if str(src).startswith(PREFIX):
        return _inside(key, str(src).removeprefix(PREFIX))
    path = expanded(src)
    if path.is_dir():
        raise RecordError(f"{key}: {path} is a folder, and an artifact is one file. Pack it, or register its files.")
    if not path.is_file():
        if must_exist:
            raise MissingFileError(
                f"{key}: there is no file {path}. Give one that is there, or verify_src_exists=False if the model can "
                "do without."
            )
        return None
    if path.suffix == SUFFIX or is_archive(path):
        raise RecordError(
            f"{key}: {path} is an archive, and archives are no artifacts. Restore it, and register the model: "
            "register_submodule."
        )
    return Artifact(path)


def references(config: Any, key: str = "") -> Mapping[str, str]:
    """Return the names of the artifacts that a plain config refers to, by their keys."""
    if isinstance(config, Mapping):
        pairs = [(f"{key}.{name}" if key else str(name), value) for name, value in config.items()]
    elif isinstance(config, list):
        pairs = [(f"{key}.{number}", value) for number, value in enumerate(config)]
    elif isinstance(config, str) and config.startswith(PREFIX):
        return {key: config.removeprefix(PREFIX)}
    else:
        return {}
    return {inner: name for part, value in pairs for inner, name in references(value, part).items()}


def _inside(key: str, name: str) -> Artifact:
    extracted = _restoring.get()
    if extracted is None:
        raise RecordError(
            f"{key}: {PREFIX}{name} is a file inside an archive, and none is being restored. Give the config to "
            "restore_from(archive, override_config_path=config), or set a path there."
        )
    if not ARTIFACT.fullmatch(name):
        raise RecordError(
            f"{key}: {PREFIX}{name} is no artifact's name (32 hex digits, _ and a basename). Mend the config."
        )
    return Artifact(extracted.path_of(name), extracted)
