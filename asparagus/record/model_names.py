"""Names of registered models: what may be in one, and how `init_from` refers to it. Without MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asparagus.errors import ConfigError

NAME = re.compile(r"\w(?:[\w. -]*\w)?")
ALIAS = re.compile(r"[\w-]+")
RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
LONGEST = 250
FORMS = "model:<name>@<alias>, e.g. model:brain-mae@best, or model:<name>/<version>, e.g. model:brain-mae/3"


@dataclass(frozen=True)
class ModelReference:
    """A version of a registered model, by its alias or its number: one of the two is given."""

    name: str
    alias: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}/{self.version}"


def parse(reference: str) -> ModelReference:
    """Read `<name>@<alias>` or `<name>/<version>`.

    Raises:
        ConfigError: It is neither.
    """
    name, at, alias = reference.rpartition("@")
    if at:
        check_name(name)
        check_alias(alias)
        return ModelReference(name, alias=alias)
    name, slash, version = reference.partition("/")
    if not slash or not (version.isascii() and version.isdigit()):
        raise ConfigError(f"model:{reference}: says neither which alias nor which version. Write {FORMS}.")
    check_name(name)
    return ModelReference(name, version=str(int(version)))


def check_name(name: str) -> None:
    """Check the name of a registered model.

    Raises:
        ConfigError: MLflow refuses it, or it could not be written in `init_from`.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST or ".." in name:
        raise ConfigError(
            f"model name {name!r}: a name may have letters, digits, _ and -, with dots and spaces between them, and "
            f"{LONGEST} characters at most: MLflow refuses / and :, and @ begins an alias. For example: brain-mae."
        )


def check_alias(alias: str) -> None:
    """Check an alias of a registered model.

    Raises:
        ConfigError: MLflow refuses it.
    """
    if not ALIAS.fullmatch(alias) or RESERVED.fullmatch(alias) or len(alias) > LONGEST:
        raise ConfigError(
            f"model alias {alias!r}: an alias may have letters, digits, _ and -, and {LONGEST} characters at most; "
            "latest and v1, v2, ... are MLflow's own. For example: best."
        )
