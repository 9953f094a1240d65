"""One composer, Hydra's: find the experiment file, apply the overrides, fill the schema."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from asparagus.compose.overrides import normalise
from asparagus.compose.schema import fill
from asparagus.errors import ConfigError, did_you_mean, one_of
from asparagus.paths import family_folders, get_paths, get_tracking_uri, packaged

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asparagus.spec import Paths, Site, Spec

MISSING = "???"
"""How OmegaConf writes a mandatory value that is still to be given."""


@dataclass(frozen=True)
class Request:
    """What the command line asks to compose."""

    config: str
    """A name on the search path (`pretrain`, `experiment/digits`), or the path of a `.yaml` file."""
    overrides: tuple[str, ...] = ()
    config_dirs: tuple[Path, ...] = ()
    """Further folders, searched first (`-cd`)."""


def compose(request: Request) -> Spec:
    """Compose an experiment down to the last key.

    Raises:
        ConfigError: Every problem that the files and overrides have, one line each.
    """
    paths = get_paths()
    values = _resolved(compose_config(request, paths))
    missing = _take_missing(values)
    spec, problems = fill(values, paths, missing)
    if spec is None or problems:
        raise ConfigError("\n".join(problems))
    return dataclasses.replace(spec, site=_with_this_machine(spec))


def compose_config(request: Request, paths: Paths | None = None) -> DictConfig:
    """Compose with Hydra and return its config, unresolved and unchecked: what `--cfg job` shows."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    name, folders = _locate(request, paths or get_paths())
    overrides = normalise(request.overrides, folders)
    searchpath = ",".join(f"'file://{folder}'" for folder in folders[1:])
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folders[0])):
            return hydra_compose(name, overrides=[f"hydra.searchpath=[{searchpath}]", *overrides])
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_explain(error, name)) from error


def config_as_yaml(config: DictConfig) -> str:
    """Return a composed config as YAML, interpolations left as they are written."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(config)


def known_configs(folders: list[Path]) -> list[str]:
    """Return the names that can be launched: root files, and those under `experiment/`."""
    names = set()
    for folder in folders:
        names |= {path.stem for path in folder.glob("*.yaml")}
        names |= {str(path.relative_to(folder).with_suffix("")) for path in folder.glob("experiment/**/*.yaml")}
    return sorted(names)


def _locate(request: Request, paths: Paths) -> tuple[str, list[Path]]:
    """Return the config's name and the folders to search, first one first; the config lies under one of them."""
    folders = [folder.absolute() for folder in request.config_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                f"--config-dir: {folder} is not a folder. Give the folder that holds your experiment files."
            )
    if paths.configs and Path(paths.configs).is_dir():
        folders.append(Path(paths.configs))
    stage = Path(request.config).stem
    folders += [folder for folder in family_folders(stage) if folder.is_dir()]
    folders += [packaged("configs"), packaged("launch")]
    file = Path(request.config)
    if file.suffix in {".yaml", ".yml"}:
        if not file.is_file():
            raise ConfigError(f"{file}: there is no such file in {Path.cwd()}. {_names(file.stem, folders)}")
        return file.stem, [file.parent.absolute(), *folders]
    if not any((folder / f"{request.config}.yaml").is_file() for folder in folders):
        raise ConfigError(f"config {request.config!r} is not known. {_names(request.config, folders)}")
    return request.config, folders


def _names(given: str, folders: list[Path]) -> str:
    names = known_configs(folders)
    searched = ", ".join(map(str, folders))
    return f"{did_you_mean(given, names)} Known: {', '.join(names)}. Searched: {searched}."


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain values with every interpolation resolved; mandatory values stay out."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or "config"
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}. Check the name between ${{ and }}.") from error
    if not isinstance(values, dict):
        raise ConfigError("the experiment file has to be a mapping of keys to values.")
    return {str(key): value for key, value in values.items()}


def _take_missing(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Take the mandatory values that were not given out of `values`, and return their dotted names."""
    missing = [key for key, value in values.items() if value == MISSING]
    for key in missing:
        del values[key]
    below = [_take_missing(value, f"{prefix}{key}.") for key, value in values.items() if isinstance(value, dict)]
    return [f"{prefix}{key}" for key in missing] + [key for keys in below for key in keys]


def _explain(error: Exception, name: str) -> str:
    """Say what Hydra's error means in our words; the cause carries the useful half."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        typed = str(error.override).lstrip("+")
        return f"{typed}: cannot be read as an override. Write key=value; quote odd values: \"key='...'\"."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if error.options:
            return one_of(group, option, error.options)
        return f"{name}: its defaults list names {error.missing_cfg_file!r}, which is on no search path."
    text = str(error)
    if "No match in the defaults list" in text:
        key = text.split("'")[1]
        return f"{key}: this group is not in the defaults list of {name}. To add it: +{key}=OPTION."
    cause = f" {error.__cause__}" if error.__cause__ else ""
    return f"{name}: {' '.join(text.split())}{cause}"


def _with_this_machine(spec: Spec) -> Site:
    """Fill in where runs are recorded and what a local site can ever hold, unless the site says so itself."""
    site = spec.site
    if site.tracking_uri is None:
        site = dataclasses.replace(site, tracking_uri=get_tracking_uri(spec.paths))
    if site.address != "local":
        return site
    cpus = site.cpus_per_node if site.cpus_per_node is not None else len(os.sched_getaffinity(0))
    gpus = site.gpus_per_node if site.gpus_per_node is not None else len(list(Path("/dev").glob("nvidia[0-9]*")))
    return dataclasses.replace(site, cpus_per_node=cpus, gpus_per_node=gpus)
