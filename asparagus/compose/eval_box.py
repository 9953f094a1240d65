"""An evaluation box: `eval_box:` lists experiments that checkpoints are judged by, each a row of one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from asparagus.compose.composer import PYTHON, Request
from asparagus.compose.domains import value_of
from asparagus.compose.experiment import EVAL_BOX, config_of
from asparagus.compose.origins import located
from asparagus.compose.overrides import key_of
from asparagus.compose.pipeline import StageRequest, must_name_a_stage, one_of_several
from asparagus.compose.space import split_words
from asparagus.compose.trial import folders_of, words_of
from asparagus.errors import ConfigError, one_of
from asparagus.space import Choice

ROW, INIT_FROM = "row", "init_from"
"""What is varied: a row of the box, and the checkpoint that it starts from."""
SCRATCH = "scratch"
"""In place of a checkpoint: the row is trained without any."""
KEYS = ("config", "overrides")
NONE_GIVEN = (
    "init_from: an evaluation box judges checkpoints, and none was given. Give one or several: "
    "asp eval-box run run:<id>/best run:<id>/best (asp runs lists the ids)."
)


@dataclasses.dataclass(frozen=True)
class EvalBox:
    """What a request for an evaluation box asks to compare."""

    rows: tuple[StageRequest, ...]
    """All that the file lists, with the words that are meant for each."""
    chosen: tuple[str, ...]
    """The rows that are trained."""
    init_from: tuple[str, ...]
    """The checkpoints, as they were written."""
    rest: tuple[str, ...]
    """Words that say neither: settings of all rows, of one, or of the sweep; some with several values."""

    def swept(self, baselines: Sequence[str]) -> tuple[str, ...]:
        """Return the words of a sweep over rows and checkpoints.

        Args:
            baselines: Rows that are trained from scratch too.
        """
        first = [SCRATCH] if set(baselines) & set(self.chosen) else []
        values = {ROW: self.chosen, INIT_FROM: [*first, *self.init_from]}
        words = (f"{key}=choice({','.join(_written(key, one) for one in every)})" for key, every in values.items())
        return (*words, *self.rest)


def eval_box_of(request: Request) -> EvalBox | None:
    """Return what an evaluation box asks for; None where the experiment is none.

    Raises:
        ConfigError: The box is not as it has to be, or a word names none of its rows.
    """
    if request.config.endswith(PYTHON):
        return None
    try:
        config = config_of(dataclasses.replace(request, overrides=()))
    except ConfigError:  # it may need its words, which no box does; if not, that is told when they are there
        return None
    if EVAL_BOX not in config:
        return None
    from omegaconf import OmegaConf

    try:
        return _eval_box(OmegaConf.to_container(config, resolve=False), request)
    except ConfigError as error:
        raise ConfigError(*located(error.problems, request)) from error


def _eval_box(config: Any, request: Request) -> EvalBox:
    section = config[EVAL_BOX]
    if not isinstance(section, dict) or not section:
        raise ConfigError(f"{EVAL_BOX}: has no rows. Write below it NAME: {{config: NAME_OF_A_CONFIG}}.")
    names = [str(name) for name in section]
    must_name_a_stage(request.overrides, names)
    asked = {key: _listed(request, key) for key in (ROW, INIT_FROM)}
    rest = tuple(word for word in request.overrides if key_of(word) not in asked)
    chosen = tuple(map(str, asked[ROW] or names))
    for unknown in [name for name in chosen if name not in names]:
        raise ConfigError(one_of(ROW, unknown, names))
    written = config.get(INIT_FROM)
    given = asked[INIT_FROM] or (written if isinstance(written, list) else [written])
    checkpoints = tuple(dict.fromkeys(str(one) for one in given if one not in (None, SCRATCH)))
    alone = dataclasses.replace(request, overrides=tuple(split_words(rest, folders_of(request))[0]))
    rows = []
    for name in names:
        _, row = one_of_several(EVAL_BOX, name, section[name], alone, KEYS)
        rows.append(StageRequest(name, row))
    return EvalBox(tuple(rows), tuple(dict.fromkeys(chosen)), checkpoints, rest)


def _listed(request: Request, key: str) -> list[Any]:
    """Return the values that a word gives, one or several."""
    words = [word for word in request.overrides if key_of(word) == key]
    if len(words) > 1:
        raise ConfigError(f"{key}: is given twice: {' and '.join(words)}. Give several as {key}=A,B.")
    left, swept = split_words(words, folders_of(request))
    if swept and isinstance(swept[0][1], Choice):
        return list(swept[0][1].values)
    values = [value_of(word.partition("=")[2]) for word in left]
    return values[0] if values and isinstance(values[0], list) else values


def _written(key: str, value: Any) -> str:
    return words_of({key: value})[0].partition("=")[2]
