"""An experiment that is several: `pipeline:` lists stages that feed each other, each with a config of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asparagus.compose.composer import PYTHON, Request
from asparagus.compose.experiment import EVAL_BOX, PIPELINE, config_of, several_rows
from asparagus.compose.origins import located
from asparagus.compose.trial import words_of
from asparagus.errors import ConfigError, did_you_mean

SEPARATOR = ":"
"""Between a stage of a pipeline and a key of it: `pretrain:optim.lr`."""
KEYS = ("config", "overrides", "from")


@dataclass(frozen=True)
class StageRequest:
    """One stage of a pipeline, or an experiment that is no pipeline."""

    name: str
    request: Request
    source: str | None = None
    """The stage whose best checkpoint it starts from."""


def stages_of(request: Request) -> tuple[StageRequest, ...]:
    """Return the stages that a request consists of, in the order in which they run; one, if it is no pipeline.

    Raises:
        ConfigError: The pipeline is not as it has to be, or a word names none of its stages.
    """
    try:
        return _stages(request)
    except ConfigError as error:
        raise ConfigError(*located(error.problems, request)) from error


def _stages(request: Request) -> tuple[StageRequest, ...]:
    own = dataclasses.replace(request, overrides=tuple(word for word in request.overrides if word.startswith("sweep")))
    if request.config.endswith(PYTHON):
        return (StageRequest("", request),)
    config = config_of(own)
    section = config.get(PIPELINE)
    if section is None and EVAL_BOX in config:
        raise several_rows(config[EVAL_BOX])
    if section is None:
        must_name_a_stage(request.overrides, ())
        return (StageRequest(str(config.get("stage") or ""), request),)
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(section, resolve=True)
    if not isinstance(plain, dict) or not plain:
        raise ConfigError(f"{PIPELINE}: is not a section of stages. Write below it NAME: {{config: NAME_OF_A_CONFIG}}.")
    names = [str(name) for name in plain]
    must_name_a_stage(request.overrides, names)
    made: list[StageRequest] = []
    for name, given in plain.items():
        made.append(_stage(str(name), given, request, made))
    return tuple(made)


def one_of_several(
    section: str, name: str, given: Any, request: Request, keys: Sequence[str] = KEYS
) -> tuple[dict[str, Any], Request]:
    """Return an experiment of a section that lists several: what is written there, and its own request.

    Args:
        section: What it is called.
        name: Of the experiment there; words `name:key=value` are meant for it, and bare ones for all.
        given: The name of a config, or `config`, `overrides` and what else there is.
        request: For all of them.
        keys: What may be written.

    Raises:
        ConfigError: It names no config, or has keys that are not known.
    """
    key = f"{section}.{name}"
    if isinstance(given, str):
        given = {"config": given}
    more = "".join(f", {other}: STAGE" for other in keys if other == "from")
    if not isinstance(given, dict) or "config" not in given:
        raise ConfigError(f"{key}: names no config. Write {key}: {{config: NAME, overrides: {{...}}{more}}}.")
    for unknown in [part for part in given if part not in keys]:
        raise ConfigError(f"{key}.{unknown}: no such key. {did_you_mean(unknown, keys)} Known: {', '.join(keys)}.")
    words = words_of(given.get("overrides") or {})
    words += [meant for word in request.overrides if (meant := _meant(word, name)) is not None]
    return given, dataclasses.replace(request, config=str(given["config"]), overrides=tuple(words))


def names_a_stage(request: Request) -> bool:
    """Tell whether a word is meant for a stage of a pipeline: `pretrain:optim.lr=1e-3`."""
    return any("=" in word and SEPARATOR in word.partition("=")[0] for word in request.overrides)


def of_stage(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are meant for a stage: its own, and those that name none."""
    found = {}
    for key, value in values.items():
        stage, separator, rest = key.partition(SEPARATOR)
        if not separator:
            found[key] = value
        elif stage == name:
            found[rest] = value
    return found


def _stage(name: str, given: Any, request: Request, before: list[StageRequest]) -> StageRequest:
    given, own = one_of_several(PIPELINE, name, given, request)
    known = [stage.name for stage in before]
    source = given.get("from", known[-1] if known else None)
    if source is not None and source not in known:
        there = ", ".join(known) or "none"
        raise ConfigError(f"{PIPELINE}.{name}.from: {source!r} is no stage before it. Those before it: {there}.")
    return StageRequest(name, own, source)


def _meant(word: str, name: str) -> str | None:
    """Return an override as the stage takes it; None if it is meant for another one, or for the sweep."""
    key, equals, value = word.partition("=")
    stage, separator, rest = key.lstrip("+~").partition(SEPARATOR)
    if not separator:
        return None if key.startswith("sweep") else word
    signs = key[: len(key) - len(key.lstrip("+~"))]
    return f"{signs}{rest}{equals}{value}" if stage == name else None


def must_name_a_stage(words: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a word for a stage that is not there.

    Raises:
        ConfigError: One is.
    """
    known = list(names)
    for word in words:
        key, equals, _ = word.partition("=")
        stage, separator, _ = key.lstrip("+~").partition(SEPARATOR)
        if equals and separator and stage not in known:
            where = f"Its stages: {', '.join(known)}." if known else "This experiment is no pipeline."
            near = did_you_mean(stage, known)
            told = key.lstrip("+~")  # not the value, which nobody may be meant to see
            raise ConfigError(" ".join(filter(None, (f"{told}: there is no stage {stage!r}.", near, where))))
