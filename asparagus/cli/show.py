"""What a config is, printed: as composed (`--cfg`), where keys come from (`--info`), what can be chosen (`--help`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.compose import Request, config_as_yaml, config_of, search_folders
from asparagus.errors import ConfigError, did_you_mean
from asparagus.spec import PARTS

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from asparagus.compose.origins import Origins, Setting

HYDRA = "hydra"
SECTION = "{...}"
EVERYTHING = ""
"""`--info` without a key."""


def config(request: Request, part: str, *, resolve: bool, package: str | None) -> str:
    """Return a composed config as YAML: `--cfg job|hydra|all`.

    Raises:
        ConfigError: It cannot be composed, or has no such package.
    """
    composed = config_of(request, whole=part != "job")
    _must_have(composed[HYDRA] if part == HYDRA else composed, package)
    return config_as_yaml(
        composed, resolve=resolve, section=".".join(filter(None, (HYDRA if part == HYDRA else "", package)))
    )


def info(request: Request, key: str) -> str:
    """Return the defaults list, the search path, and what set each key; of one key, everything that set it.

    Raises:
        ConfigError: It cannot be composed, or nothing sets the key.
    """
    from asparagus.compose.origins import origins_of

    origins = origins_of(request)
    if request.config.endswith(".py"):  # its names are as good as ours
        from asparagus.compose.python_config import RENAMED

        key = RENAMED.get(key, key)
    return "\n".join(_everything(origins) if key == EVERYTHING else _one(origins, key))


def help_of(request: Request) -> str:
    """Return a config's help: the groups that can be chosen from, and every key with its default value (SEEDS D1)."""
    composed = _with_defaults(config_of(request))
    folders = [*request.config_dirs, *search_folders(request.command or request.config)]
    groups = "\n".join(f"{group}: {', '.join(options)}" for group, options in groups_in(folders).items())
    return (
        f"usage: asp-launch {request.config} [OVERRIDE ...] [options]\n\n"
        f"== Configuration groups ==\nCompose your configuration from those groups (group=option)\n\n{groups}\n\n"
        f"== Config ==\nOverride anything in the config (foo.bar=value)\n\n{config_as_yaml(composed)}\n"
        "asp-launch --help shows the options; --info where each value comes from."
    )


def groups_in(folders: list[Path]) -> dict[str, list[str]]:
    """Return every config group of the search path with its options, sorted."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in [*folder.glob("*/*.yaml"), *folder.glob("*/*/*.yaml")]:
            found.setdefault(str(file.parent.relative_to(folder)), set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def _with_defaults(config: DictConfig) -> DictConfig:
    """Add what no file sets and a default has: the rest of the typed sections."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config, resolve=False)
    whole: DictConfig = OmegaConf.create(plain)
    for name, part in PARTS.items():
        section: Any = whole.get(name)
        if name != "paths" and OmegaConf.is_dict(section):  # paths come from the environment
            left = {key: value for key, value in asdict(part()).items() if key not in list(section)}
            whole[name] = OmegaConf.merge(section, left)
    return whole


def _must_have(config: DictConfig, package: str | None) -> None:
    from omegaconf import OmegaConf

    if not package:
        return
    found = OmegaConf.select(config, package, throw_on_missing=False)
    if not OmegaConf.is_dict(found):
        raise ConfigError(f"--package: there is no section {package!r}. Known: {', '.join(map(str, config))}.")


def _everything(origins: Origins) -> Iterator[str]:
    yield "Defaults list, in order; a later file wins:"
    yield from _columns([(name, f"@{package or '_global_'}", file) for name, package, file in origins.defaults])
    yield "\nSearch path, in order; the first one wins:"
    yield from (f"  {folder}" for folder in origins.folders)
    yield "\nKeys, and what set each in the end:"
    last = {setting.key: setting for setting in origins.settings if setting.value != SECTION}
    yield from _columns([(key, setting.value, setting.where) for key, setting in sorted(last.items())])


def _one(origins: Origins, key: str) -> Iterator[str]:
    settings = origins.of(key)
    if not settings:
        known = {setting.key for setting in origins.settings}
        raise ConfigError(f"--info: nothing sets {key!r}. {did_you_mean(key, known)} --cfg job shows every key.")
    last: dict[str, Setting] = {setting.key: setting for setting in settings}
    rows = [(item.key, item.value, item.where + ("  <- wins" if last[item.key] is item else "")) for item in settings]
    yield from _columns(rows)


def _columns(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    first, second = (max((len(row[place]) for row in rows), default=0) for place in (0, 1))
    for name, value, where in rows:
        yield f"  {name:<{first}}  {value:<{min(second, 40)}}  {where}"
