"""What lies in an archive under which name, and what its index says of it; without torch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from asparagus.checkpoint.folder import ARCHIVES
from asparagus.errors import RecordError

FORMAT = 1
"""Of archives that are written here; those with a higher one are refused."""
SUFFIX = ARCHIVES
CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
INDEX = "archive.json"
PREFIX = "asparagus:"
"""How a config value begins that stands for an artifact: `asparagus:<hash>_<basename>`."""
HASH = 32
ARTIFACT = re.compile(r"[0-9a-f]{32}_[^/]+")
RUN = "run"
"""Of a run: its config is an experiment, and the module is built as a worker builds it."""
MODEL = "model"
"""Of an `Archivable`: its config names its class."""


class MissingFileError(RecordError, FileNotFoundError):
    """An archive, or a file that belongs into one, is not there."""


@dataclass(frozen=True)
class Index:
    """What `archive.json` says: the only member that is read before anything else."""

    kind: str
    """`run` or `model`."""
    members: dict[str, str]
    """SHA-256 of each other member, by its name without `./`."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """The run that the weights are of, and its ancestors, the nearest first; empty where no run is known."""
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """Of all that the archive holds: it is the same for archives of the same content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of `archive.json`."""
        return json.dumps({**asdict(self), "digest": self.digest}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, source: object) -> Index:
        """Read `archive.json`.

        Args:
            text: Its content.
            source: What to call the archive in messages.

        Raises:
            RecordError: It is of a newer format, no index, or not as it was written.
        """
        try:
            told = json.loads(text)
            written = told["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{source}: its {INDEX} cannot be read. {GET_ANOTHER}") from error
        if not isinstance(written, int) or written > FORMAT:
            raise RecordError(
                f"{source}: is of format {written!r}, and this asparagus reads formats up to {FORMAT}. "
                "Update asparagus, or have it exported anew with this version."
            )
        try:
            digest = told.pop("digest")
            index = cls(**told)
            same = digest == index.digest
        except (KeyError, TypeError) as error:
            raise RecordError(f"{source}: its {INDEX} cannot be read. {GET_ANOTHER}") from error
        if not same:
            raise tampered(source, INDEX)
        return index


GET_ANOTHER = "Copy it again from where it came, or export it anew: asp model export N FILE."


def tampered(source: object, name: str) -> RecordError:
    """Return the error for a member that is not as it was written."""
    return RecordError(f"{source}: {name} is not as it was written (its sha256 differs). {GET_ANOTHER}")


def artifact_name(key: str, digest: str, basename: str) -> str:
    """Return an artifact's name in the archive: a hash of key and content keeps equal basenames apart.

    Args:
        key: Its `config_path`.
        digest: SHA-256 of the file.
        basename: Of the file that was registered.
    """
    return f"{hashlib.sha256(f'{key} {digest}'.encode()).hexdigest()[:HASH]}_{basename}"


def basename_of(name: str) -> str:
    """Return the basename that an artifact's name in the archive was made from."""
    return name[HASH + 1 :] if ARTIFACT.fullmatch(name) else name
