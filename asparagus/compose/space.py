"""What `-m` searches: several values among the words that were typed and the section `sweep` of a file, into a `Space`.

What is typed wins: over a dimension of the same key in a file, and as one value it leaves nothing of it to search.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asparagus.compose import constraints
from asparagus.compose.composer import Request
from asparagus.compose.dimensions import arranged
from asparagus.compose.domains import Domain, conditions_in, domain_in, domain_of, spelled, value_of
from asparagus.compose.experiment import EVAL_BOX, PIPELINE, config_of
from asparagus.compose.origins import COMMAND_LINE, located
from asparagus.compose.overrides import is_group, is_option, key_of, normalise, options_of
from asparagus.compose.points import is_empty, placed
from asparagus.compose.resolve import plain_values
from asparagus.compose.schema import SWEEP as SECTION
from asparagus.compose.sweep_section import options_of as read_options
from asparagus.compose.sweep_section import settled
from asparagus.compose.trial import folders_of, words_of
from asparagus.errors import ConfigError, one_of
from asparagus.space import Choice, Dimension, Interval, Space, SweepOptions, Values

__all__ = ["ComposedSweep", "compose_sweep", "settled", "split_words", "words_of"]

STAGED = re.compile(r"([\w-]+):(?=.)")
"""What a key of a pipeline's stage begins with: `pretrain:optim.lr`."""
SEVERAL = {PIPELINE, EVAL_BOX}


@dataclass(frozen=True)
class ComposedSweep:
    """What a sweep was asked to be."""

    base: Request
    """What its trials have in common: without the words that are searched, and without those of the section `sweep`."""
    options: SweepOptions
    space: Space
    asked: Request
    """What the section `sweep` was composed from."""

    def located(self, problems: Iterable[str]) -> list[str]:
        """Return problems that a check found, those of the section `sweep` each with where it was written."""
        return [
            text for one in problems for text in (located((one,), self.asked) if one.startswith(SECTION) else (one,))
        ]


def compose_sweep(request: Request) -> ComposedSweep:
    """Compose what `-m` asks for.

    Raises:
        ConfigError: Every problem of the space and of the section `sweep`, each with where it was written.
    """
    folders = folders_of(request)
    words, swept = split_words(request.overrides, folders)
    asked, section, problems = _composed(request, words, dict(swept))
    options, found = read_options(section)
    problems += found
    space, found = _space(options, dict(swept), _typed(words), folders)
    problems += found
    options, found = _with_points(options, space) if not problems else (options, [])
    problems += found
    if problems:
        raise ConfigError(*located(tuple(problems), asked))
    base = dataclasses.replace(request, overrides=tuple(word for word in words if not _is_ours(word)))
    return ComposedSweep(base, options, space, asked)


def split_words(words: Iterable[str], folders: Sequence[Path]) -> tuple[list[str], list[tuple[str, Domain]]]:
    """Tell words that set one value from those that search several, in Hydra's sweep grammar.

    Args:
        words: Overrides, as typed.
        folders: The search path: the options of a group are looked up there.

    Returns:
        The words that set one value, and the keys that are searched, as an override spells them.

    Raises:
        ConfigError: Every word that cannot be meant.
    """
    base: dict[str, str] = {}
    swept: dict[str, tuple[str, Domain]] = {}
    problems: list[str] = []
    left = []
    for word in words:
        key = _key(word)
        try:
            domain = _searched(word, folders)
        except ConfigError as error:
            problems += [_at(problem, word) for problem in error.problems]
            continue
        if domain is None:
            left.append(word)
            base[key] = word
            continue
        if key in swept:
            problems.append(f"{key}: is searched twice: {swept[key][0]} and {word}. Leave one out.")
        swept[key] = (word, domain)
    both = [key for key in swept if key in base]
    problems += [f"{key}: has one value ({base[key]}) and several ({swept[key][0]}). Leave one out." for key in both]
    if problems:
        raise ConfigError(*problems)
    return left, [(key, domain) for key, (_, domain) in swept.items()]


def _searched(word: str, folders: Sequence[Path]) -> Domain | None:
    """Return what a word searches; None where it sets one value.

    Raises:
        ConfigError: It is several values, and they cannot be meant.
    """
    key, value = _key(word), word.partition("=")[2]
    if not value or word.startswith("~"):
        return None
    domain = domain_of(key, value, options=options_of(_bare(key), folders))
    if domain is not None and _is_ours(word):
        raise ConfigError(
            f"{key}: {value} is several values, and a sweep has one of each setting. Give one; a list is [a,b], and "
            "what is searched stands without sweep.space (optim.lr=1e-3,1e-2)."
        )
    return None if domain is None else _usable(key, domain, folders)


def _usable(key: str, domain: Domain, folders: Sequence[Path]) -> Domain:
    """Return a domain whose values can be chosen: options of a group are texts, and are there.

    Raises:
        ConfigError: One is not.
    """
    bare = _bare(key)
    if isinstance(domain, Interval):
        normalise(words_of({bare: domain.low}), list(folders))
        return domain
    if is_group(bare, folders):
        domain = Choice(tuple(_option(key, value, folders) for value in domain.values))
    normalise([word for value in domain.values for word in words_of({bare: value})], list(folders))
    return domain


def _option(key: str, value: Any, folders: Sequence[Path]) -> Any:
    if isinstance(value, list):
        return [_option(key, part, folders) for part in value]
    if value is None or isinstance(value, (bool, dict)):
        return value
    option, group = str(value), _bare(key)
    if "${" not in option and not is_option(group, option, folders):
        inside, slash, _ = option.rpartition("/")
        beside = [f"{inside}{slash}{name}" for name in options_of(f"{group}{slash}{inside}", folders)]
        raise ConfigError(one_of(key, option, beside or options_of(group, folders)))
    return option


def _composed(request: Request, words: list[str], swept: dict[str, Domain]) -> tuple[Request, Any, list[str]]:
    """Return the section `sweep` of the experiment, with what it was composed from and what is wrong with it.

    The experiment is composed with the first value of all that is searched: it may be incomplete without. Words for a
    pipeline's stages are not for the pipeline itself.
    """
    first = words_of(
        {key: domain.values[0] if isinstance(domain, Choice) else domain.low for key, domain in swept.items()}
    )
    asked = dataclasses.replace(request, overrides=tuple(word for word in [*words, *first] if not _is_staged(word)))
    try:
        config = config_of(asked)
    except ConfigError as error:
        alone = dataclasses.replace(request, overrides=tuple(filter(_is_ours, words)))
        if not _is_pipeline(alone):
            raise ConfigError(*located(error.problems, asked)) from error
        asked, config = alone, config_of(alone)
    values = plain_values(config)
    problems = [problem for problem in values.problems if problem.startswith(f"{SECTION}.")]
    problems += [f"{key}: is open (???). Give it." for key in values.missing if key.startswith(f"{SECTION}.")]
    return asked, values.tree.get(SECTION), problems


def _is_pipeline(request: Request) -> bool:
    """Tell whether an experiment is several, each composed for itself."""
    try:
        return not SEVERAL.isdisjoint(config_of(request))
    except ConfigError:
        return False


def _space(
    options: SweepOptions, swept: dict[str, Domain], typed: Mapping[str, Any], folders: Sequence[Path]
) -> tuple[Space, list[str]]:
    """Return the space of a file and of what was typed, and what is wrong with it."""
    dimensions, problems = _of_file(options.space, folders)
    over = [key for key in dimensions if key in swept or key in typed]
    for key in over:
        domain = swept.get(key) or Choice((typed[key],))
        dimensions[key] = dataclasses.replace(dimensions[key], domain=domain)
    dimensions |= {key: Dimension(key, domain) for key, domain in swept.items() if key not in dimensions}
    if not dimensions and not problems:
        problems.append(
            "-m: nothing is searched, for no word has several values and there is no sweep.space. Write key=1,2,3, "
            "key=range(1,5), key=interval(0,1), or take -m away."
        )
    if problems:
        return Space(()), problems
    try:
        space = Space(arranged(dimensions, over), options.constraints)
    except ConfigError as error:
        return Space(()), list(error.problems)
    problems += constraints.problems_of(space.constraints, space.dimensions)
    if not problems and is_empty(space):
        all_of = " and ".join(space.constraints)
        problems.append(f"{constraints.WHERE}: no point of the space meets {all_of}. Loosen them, or widen the space.")
    return space, problems


def _of_file(section: Mapping[str, Any], folders: Sequence[Path]) -> tuple[dict[str, Dimension], list[str]]:
    dimensions: dict[str, Dimension] = {}
    problems: list[str] = []
    for key, node in spelled(section):
        where = f"{SECTION}.space.{key}"
        try:
            domain = domain_in(key, node, options=options_of(_bare(key), folders))
            dimensions[key] = Dimension(key, _usable(key, domain, folders), conditions_in(key, node))
        except ConfigError as error:
            problems += [text if text.startswith(where) else f"{where}: {text}" for text in error.problems]
    return dimensions, problems


def _with_points(options: SweepOptions, space: Space) -> tuple[SweepOptions, list[str]]:
    """Return the options with the points to try first as the space spells them, and what is wrong with those."""
    keys = {dimension.key for dimension in space.dimensions}
    points: list[Values] = []
    problems: list[str] = []
    for place, point in enumerate(options.points):
        try:
            points.append(placed(space, dict(_flat(point, keys)), f"{SECTION}.points[{place}]"))
        except ConfigError as error:
            problems += error.problems
    return dataclasses.replace(options, points=tuple(points)), problems


def _flat(point: Mapping[str, Any], keys: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in point.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in keys:
            yield from _flat(value, keys, f"{key}.")
        else:
            yield key, value


def _typed(words: list[str]) -> dict[str, Any]:
    """Return the values that were typed, by key."""
    return {_key(word): value_of(word.partition("=")[2]) for word in words if "=" in word and not word.startswith("~")}


def _key(word: str) -> str:
    """Return the key of a word as a dimension is called: with its stage and package, without signs."""
    return word.partition("=")[0].lstrip("+").lstrip("/")


def _bare(key: str) -> str:
    """Return a key without the stage of a pipeline that it is for."""
    return STAGED.sub("", key, count=1) if STAGED.match(key) else key


def _is_staged(word: str) -> bool:
    return STAGED.match(word.partition("=")[0].lstrip("+~")) is not None


def _is_ours(word: str) -> bool:
    """Tell a word of the section `sweep`."""
    return key_of(word).partition(".")[0] == SECTION


def _at(problem: str, word: str) -> str:
    return problem if word in problem else f"{problem} [{COMMAND_LINE}: {word}]"
