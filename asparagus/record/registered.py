"""A registered model as the record answers it: the checkpoint that an alias stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asparagus.errors import RecordError, did_you_mean
from asparagus.record import tracking

BY_ID = "models:/"
"""How the source of a model version names a logged model."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and the checkpoint that it is."""

    name: str
    version: str
    alias: str
    mlflow_run_id: str
    run_id: int | None
    """Our number of the run that wrote the checkpoint."""
    checkpoint: str
    digest: str


def version_in(alias: str) -> int | None:
    """Return the number in `v3`, which MLflow allows nobody as an alias: it stands for version 3 here."""
    return int(alias[1:]) if alias.startswith("v") and alias[1:].isascii() and alias[1:].isdigit() else None


def model_id_of(name: str, version: str, source: str) -> str:
    """Return the logged model that a model version is.

    Raises:
        RecordError: It is some files, and no checkpoint of ours.
    """
    if not source.startswith(BY_ID):
        raise _not_ours(name, version, f"its source is {source}")
    return source.removeprefix(BY_ID)


def of_model(name: str, version: str, *, alias: str, tags: Mapping[str, str], run: tuple[str, str]) -> Registered:
    """Return a registered model from the tags of its logged model.

    Args:
        name: Of the registered model.
        version: Of it.
        alias: Which points to it.
        tags: Of the logged model.
        run: Its source run: the MLflow run id, and our number or an empty text.

    Raises:
        RecordError: The logged model is no checkpoint of ours.
    """
    checkpoint, digest = tags.get(tracking.CHECKPOINT), tags.get(tracking.DIGEST)
    if not checkpoint or not digest:
        raise _not_ours(name, version, "its logged model has no checkpoint of asparagus, or is deleted")
    mlflow_run_id, number = run
    return Registered(
        name, version, alias, mlflow_run_id, int(number) if number.isdigit() else None, checkpoint, digest
    )


def unknown(name: str, alias: str, known: Mapping[str, Sequence[str]]) -> RecordError:
    """Return the error for a model or alias that is not there.

    Args:
        name: The model that was asked for.
        alias: The alias that was asked for.
        known: The aliases of every registered model.
    """
    version = version_in(alias)
    meant = f"{name}@{alias}" if version is None else f"{name}/{version}"
    promote = f"asp model promote N --name {name}" + (f" --alias {alias}" if version is None else "")
    if name not in known:
        listed = ", ".join(f"{model} ({', '.join(known[model]) or 'no alias'})" for model in sorted(known)) or "none"
        told = [f"no model {name!r} is registered.", did_you_mean(name, known), f"Registered: {listed}."]
    elif version is not None:
        told = [f"{name!r} has no version {version}; asp model list shows those that it has."]
    else:
        aliases = ", ".join(sorted(known[name])) or "none"
        told = [f"{name!r} has no alias {alias!r}.", did_you_mean(alias, known[name]), f"Its aliases: {aliases}."]
    return RecordError(" ".join(filter(None, [f"model {meant}:", *told, f"Make it: {promote}."])))


def _not_ours(name: str, version: str, why: str) -> RecordError:
    return RecordError(
        f"model {name}: version {version} is no checkpoint that asparagus wrote: {why}. Give its file instead "
        f"(init_from=file:PATH), or register a checkpoint: asp model promote N --name {name}."
    )
