"""From a request, or a config that somebody composed, to the `Spec`: each step of the way in the order it is taken."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asparagus.compose.composer import PYTHON, Request, compose_config, files_of_groups, is_variable
from asparagus.compose.devices import outdone
from asparagus.compose.names import spelled_out
from asparagus.compose.overrides import key_of
from asparagus.compose.resolve import Values, masked, plain_values, written
from asparagus.compose.schema import SWEEP, fill, unread
from asparagus.compose.site import at_site
from asparagus.compose.spellings import older_of, spelled_our_way
from asparagus.compose.tree import get
from asparagus.errors import ConfigError, EvalBoxError, PipelineError
from asparagus.hardware import cpus_here, gpus_here
from asparagus.paths import expanded, get_paths, get_tracking_uri, in_working_copies
from asparagus.secrets import without_passwords
from asparagus.spec import Paths, Spec

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asparagus.spec import Site


PIPELINE = "pipeline"
"""The section of an experiment that is several."""
EVAL_BOX = "eval_box"
"""The section of an experiment that judges checkpoints by several."""

NAMES = frozenset({"name", "_target_"})
"""Keys that say what a section is."""
MANDATORY = "???"
"""How OmegaConf writes a value that somebody has to give."""

DATA_PATHS = ("root", "datasplit_path")
"""Of the section `data`, what is a path."""

log = logging.getLogger("asparagus")


def compose(request: Request) -> Spec:
    """Compose an experiment down to the last key.

    Raises:
        ConfigError: Every problem that the files and overrides have, one line each.
    """
    return spec_of(config_of(request), request)


def config_of(request: Request, *, whole: bool = False) -> DictConfig:
    """Return the composed config of a YAML file or of a training config in Python, unresolved and unchecked.

    Args:
        request: What to compose.
        whole: Keep Hydra's own section in it.

    Raises:
        ConfigError: There is no such config, or it cannot be composed.
    """
    if request.config.endswith(PYTHON):
        from asparagus.compose.python_config import compose_python

        return compose_python(request)
    return typed_last(compose_config(request, whole=whole), request.overrides)


def typed_last(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Have the command line win over a file that spells the same key otherwise (SEEDS D16).

    Args:
        config: With the overrides applied; is changed.
        overrides: As typed.
    """
    from omegaconf import OmegaConf

    typed = [key_of(override) for override in overrides]
    for place, override in enumerate(overrides):
        value = written(config, typed[place])
        if isinstance(value, dict) and "={" not in override:
            _chosen(config, typed[place], typed[place + 1 :])
            continue
        for old, section in older_of(typed[place]).items():
            inside = old.startswith(f"{typed[place]}.")  # task={name: x} says it itself
            if not inside and old not in typed[place:] and written(config, section) is not None:
                OmegaConf.update(config, old, value, merge=False, force_add=True)
        for old, left in outdone(typed[place], value, written(config, "run.gpus")):
            if old not in typed[place:] and written(config, old) is not None:
                OmegaConf.update(config, old, left, merge=False, force_add=True)
    return config


def _chosen(config: DictConfig, group: str, later: Sequence[str]) -> None:
    """Have a group that was typed (`optim=adam`) win over what a file chose under another name for the same section.

    Raises:
        ConfigError: What follows on the command line sets keys of the other one.
    """
    from omegaconf import OmegaConf

    for old in older_of(group):
        theirs = written(config, old)
        if theirs != MANDATORY and not (isinstance(theirs, dict) and NAMES.intersection(theirs)):
            continue
        if also := [key for key in later if f"{key}.".startswith(f"{old}.")]:
            raise ConfigError(
                f"{also[0]}: is of the {old} that {group}=... takes the place of. Spell it {group}"
                f"{also[0].removeprefix(old)}, or leave {group}=... out."
            )
        OmegaConf.update(config, old, None, force_add=True)


def spec_of(config: DictConfig, request: Request | None = None) -> Spec:
    """Resolve a composed config and fill the schema with it.

    Args:
        config: As Hydra composed it.
        request: What it was composed from, where that is known: a key that was typed has to be of use there.

    Raises:
        ConfigError: Every problem that it has, one line each.
    """
    values = plain_values(config)
    paths = at_site(get_paths(), values.tree.get("site"))
    if isinstance(stages := values.tree.get(PIPELINE), dict):
        raise PipelineError(
            f"{PIPELINE}: this experiment is several, {', '.join(map(str, stages))}: asp-launch runs them in turn. "
            "Here, name the config of one of them."
        )
    if EVAL_BOX in values.tree:
        raise several_rows(values.tree[EVAL_BOX])
    problems = values.problems
    problems += _of_sweep(values, request)
    tree = spelled_our_way(values.tree, gpus_of(values.tree), problems)
    tree = spelled_out(tree, problems)
    spec, found = fill(tree, paths, values.missing, values.referenced | _idle(tree, values, request))
    problems += found
    spec = dataclasses.replace(_absolute(spec), site=with_this_machine(spec))
    if problems:
        raise ConfigError(*problems, rest=spec)
    return spec


def several_rows(section: Any) -> EvalBoxError:
    """Return what is said where one experiment is expected and an evaluation box is given."""
    rows = ", ".join(map(str, section)) if isinstance(section, Mapping) else "none"
    return EvalBoxError(
        f"{EVAL_BOX}: this experiment is several, {rows}: asp eval-box run, or asp-launch -m, trains them all. Here, "
        "name the config of one of them."
    )


def _of_sweep(values: Values, request: Request | None) -> list[str]:
    """Take out how a search would go: a run is none; what is misspelt there is told all the same."""
    section = values.tree.pop(SWEEP, None)
    values.missing = [key for key in values.missing if key.partition(".")[0] != SWEEP]
    if section is None:
        return []
    from asparagus.compose.sweep_section import options_of  # a few milliseconds that most runs do not need

    _, problems = options_of(section)
    typed = [word for word in request.overrides if key_of(word).partition(".")[0] == SWEEP] if request else []
    if typed and not problems:
        log.warning("%s: is not used, for nothing is searched: -m does that", " ".join(typed))
    return problems


def _idle(tree: dict[str, Any], values: Values, request: Request | None) -> set[str]:
    """Return the variables at the root that nothing refers to this time: an override replaced what did.

    One in a file may be meant for a group that was not chosen; one that is typed is meant for what is there.
    """
    from asparagus.compose.origins import files_of

    typed = {key_of(override).partition(".")[0] for override in request.overrides} if request else set()
    found = set()
    for key in unread(tree, values.referenced):
        here = request is not None and key.partition(".")[0] in typed
        files = files_of(request) if here and request else files_of_groups([*values.tree, "experiment"])
        if is_variable(key, files):
            found.add(key)
    for key in sorted(found):
        log.warning("%s: is set, and nothing refers to it: what does so elsewhere was replaced here", key)
    return found


def config_as_yaml(config: DictConfig, *, resolve: bool = False, section: str = "") -> str:
    """Return a composed config as YAML.

    Args:
        config: As Hydra composed it.
        resolve: Show what interpolations stand for; secrets stay as they are written, always.
        section: Only this part of it, dotted; there has to be one. What it refers to may stand elsewhere.
    """
    from omegaconf import OmegaConf

    if not resolve:
        return OmegaConf.to_yaml(masked(OmegaConf.select(config, section) if section else config))
    import yaml

    values = plain_values(masked(config))
    # Of its own section, Hydra knows some only while it runs something; and what is masked was said to be so before.
    told = [problem for problem in values.problems if not problem.startswith("hydra.")]
    if problems := [problem for problem in told if problem.startswith(section)]:
        raise ConfigError(*problems)
    shown: str = yaml.safe_dump(get(values.tree, section) if section else values.tree, sort_keys=False)
    return shown


def _absolute(spec: Spec) -> Spec:
    """Have relative paths mean what they mean here: workers change directory."""
    resumed, told = spec.run.resume_from_checkpoint, {key: spec.data.get(key) for key in DATA_PATHS}
    data = {**spec.data, **{key: _path(place) for key, place in told.items() if isinstance(place, str)}}
    run = dataclasses.replace(spec.run, resume_from_checkpoint=_path(resumed)) if resumed else spec.run
    more = {name: _with_path(section) for name, section in spec.transfer.more.items()}
    given = dataclasses.asdict(spec.paths)
    folders = {name: _path(folder) for name, folder in given.items() if folder and isinstance(folder, str)}
    paths = in_working_copies(Paths(**folders, stores=spec.paths.stores))
    return dataclasses.replace(
        spec, data=data, run=run, paths=paths, transfer=dataclasses.replace(spec.transfer, more=more)
    )


def _with_path(section: Any) -> Any:
    is_one = isinstance(section, dict) and isinstance(section.get("path"), str)
    return {**section, "path": _path(section["path"])} if is_one else section


def _path(given: str) -> str:
    return given if "://" in given or "${" in given else str(expanded(given))


def gpus_of(tree: dict[str, Any]) -> int:
    """Return how many GPUs "all of them" are: what a node of the site has, else what this machine has."""
    asked = get(tree, "site.gpus_per_node")
    return asked if isinstance(asked, int) else gpus_here()


def with_this_machine(spec: Spec) -> Site:
    """Fill in where runs are recorded and what a local site can ever hold, unless the site says so itself."""
    site = spec.site
    if site.tracking_uri is None:
        uri = get_tracking_uri(spec.paths)
        known = uri if without_passwords(uri) == uri else "${secret:MLFLOW_TRACKING_URI}"
        site = dataclasses.replace(site, tracking_uri=known)
    if site.address != "local":
        return site
    cpus = site.cpus_per_node if site.cpus_per_node is not None else cpus_here()
    gpus = site.gpus_per_node if site.gpus_per_node is not None else gpus_here()
    return dataclasses.replace(site, cpus_per_node=cpus, gpus_per_node=gpus)
