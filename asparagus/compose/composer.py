"""One composer, Hydra's: find the experiment file, apply the overrides, return what Hydra makes of them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml

from asparagus import hydra_plugin
from asparagus.compose.explain import explain
from asparagus.compose.overrides import normalise
from asparagus.errors import ConfigError, did_you_mean
from asparagus.paths import expanded, family_folders, get_paths, packaged

if TYPE_CHECKING:
    from omegaconf import DictConfig

Result = TypeVar("Result")
SEARCHED: dict[Path, None] = {}
"""Every folder that this process has looked for experiment files in."""
TWICE = re.compile(r"Multiple values for ([\w/.@-]+)\.")
NOT_THERE = re.compile(r"Could not override '([^']+)'.\s*No match in the defaults list")
PYTHON = ".py"
YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Request:
    """What the command line asks to compose."""

    config: str
    """A name on the search path (`pretrain`, `experiment/digits`), or the path of a `.yaml` or `.py` file."""
    overrides: tuple[str, ...] = ()
    config_dirs: tuple[Path, ...] = ()
    """Further folders, searched first (`-cd`)."""
    command: str = ""
    """The config that the command is named after, where `-cn` names another: its family's folders are seen."""


@dataclass(frozen=True)
class Source:
    """Where Hydra starts: the primary config, the folders it is looked for in, the overrides as Hydra reads them."""

    name: str
    folders: tuple[Path, ...]
    overrides: tuple[str, ...]


def compose_config(request: Request, *, whole: bool = False) -> DictConfig:
    """Compose with Hydra and return its config, unresolved and unchecked: what `--cfg job` shows.

    Args:
        request: What to compose.
        whole: Keep Hydra's own section `hydra` in it (`--cfg all`).

    Raises:
        ConfigError: There is no such config, or Hydra cannot compose it.
    """
    from hydra import compose as hydra_compose

    source = source_of(request)
    config = with_hydra(source, lambda name, words: hydra_compose(name, overrides=words, return_hydra_config=whole))
    if "" in config:  # where Hydra puts what `- ../file` brings
        raise ConfigError(
            f"{source.name}: its defaults list has an entry that begins with ../ and names no package. Write it from "
            "the top (/train_cls), or say where it goes (../hardware/cpu@hardware)."
        )
    return config


def with_hydra(source: Source, call: Callable[[str, list[str]], Result]) -> Result:
    """Call something while Hydra stands on our search path, with the config's name and the overrides.

    Two words are taken as they are meant: `+model=unet` chooses where there is a choice already, and `hardware=1gpu`
    adds where there is none.

    Raises:
        ConfigError: Hydra's error, in our words.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    words = list(source.overrides)
    for _ in range(len(words) + 1):
        try:
            with _standing_in(source):
                return call(_at_the_root(source.name), words)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            if (meant := _meant(str(error), words)) is None:
                raise ConfigError(explain(error, source)) from error
            words = meant
        except RecursionError as error:
            if _names_itself(source):
                raise ConfigError(
                    f"{source.name}: its defaults list names {source.name}, and that is this file: it comes before the "
                    "shipped one of that name. Rename it."
                ) from error
            raise ConfigError(
                f"{source.name}: its defaults list comes back to itself. An experiment file that extends a stage "
                "(defaults: [/train_cls]) is launched by its own name, asp-launch experiment/NAME; one that is chosen "
                "by experiment=NAME says only what differs."
            ) from error
    raise AssertionError("each round changes one of the words, for good")


def source_of(request: Request) -> Source:
    """Find the config of a request.

    Raises:
        ConfigError: There is no such config or folder, or a word is no override.
    """
    name, folders = _locate(request)
    return Source(name, tuple(folders), tuple(normalise(request.overrides, folders)))


def search_folders(name: str = "") -> list[Path]:
    """Return the folders that are always searched, first one first.

    Args:
        name: Of the config: a stage sees the further folders of its family alone, anything else those of all.

    Raises:
        ConfigError: `ASPARAGUS_CONFIGS` is set to what is no folder.
    """
    configs = get_paths().configs
    own = [Path(configs)] if configs and Path(configs).is_dir() else []
    if not own and os.environ.get("ASPARAGUS_CONFIGS"):
        raise ConfigError(f"ASPARAGUS_CONFIGS: {configs} is not a folder. Set it to that of your experiment files.")
    further = [folder for folder in family_folders(Path(name).name) if folder.is_dir()]
    return [*own, *further, packaged("configs"), packaged("launch")]


def known_configs(folders: list[Path]) -> list[str]:
    """Return the names that can be launched: root files, and those under `experiment/`."""
    names = set()
    for folder in folders:
        names |= {path.stem for path in folder.glob("*.yaml") if path.is_file()}
        names |= {str(path.relative_to(folder).with_suffix("")) for path in folder.glob("experiment/**/*.yaml")}
    return sorted(names)


def is_variable(key: str, files: Iterable[Path]) -> bool:
    """Tell whether one of these files refers to `${key}`."""
    use = re.compile(rf"\$\{{{re.escape(key)}[}}\[.]")
    return any(use.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)


def files_of_groups(groups: Iterable[str]) -> Iterator[Path]:
    """Yield the experiment files of these groups, chosen this time or not, in every folder that was searched."""
    patterns = ["*.yaml", *(f"{group}/{depth}" for group in groups for depth in ("*.yaml", "*/*.yaml"))]
    folders = [*SEARCHED, *_of_application()]
    found = (file for folder in folders for pattern in patterns for file in folder.glob(pattern))
    yield from (file for file in found if file.is_file())  # an editor's lock beside them is a link to nowhere


def _at_the_root(name: str) -> str:
    """Return a config at the root that is this one: what is added to it (`+logger=csv`) is looked for beside it."""
    if "/" not in name:
        return name
    from hydra.core.config_store import ConfigStore

    root = name.replace("/", ".")
    ConfigStore.instance().store(name=root, node={"defaults": [name]})
    return root


def _of_application() -> list[Path]:
    """Return the folders that an application of Hydra's own composed from; none outside of one."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return [Path(source.path) for source in sources if source.schema == "file"]


@contextmanager
def _standing_in(source: Source) -> Iterator[None]:
    """Have Hydra's global state be ours for a while; an application that is Hydra's own gets its state back."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    current = GlobalHydra.instance()
    before, searched = current.hydra, list(hydra_plugin.FOLDERS)
    current.clear()
    hydra_plugin.register(list(source.folders[1:]))
    SEARCHED.update(dict.fromkeys(source.folders))
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(source.folders[0])), warnings.catch_warnings():
            # A file without `_self_` comes after its defaults, here and in every Hydra that is not ancient.
            warnings.filterwarnings("ignore", message=r"In '.*': Defaults list is missing `_self_`")
            yield
    finally:
        GlobalHydra.instance().hydra = before  # asked for anew: Hydra has put a copy of `current` in its place
        hydra_plugin.FOLDERS[:] = searched


def _names_itself(source: Source) -> bool:
    file = next(file for folder in source.folders if (file := folder / f"{source.name}.yaml").is_file())
    own = rf"^\s*(?:defaults:\s*\[|-)\s*/?{re.escape(source.name)}\b"
    return re.search(own, file.read_text(encoding="utf-8"), flags=re.MULTILINE) is not None


def _meant(error: str, words: list[str]) -> list[str] | None:
    """Return the overrides with a group chosen instead of added, or the other way; None if that is not it."""
    if twice := TWICE.search(error):
        old, new = f"+{twice[1]}=", f"{twice[1]}="
    elif missing := NOT_THERE.search(error):
        old, new = f"{missing[1]}=", f"+{missing[1]}="
    else:
        return None
    changed = [new + word.removeprefix(old) if word.startswith(old) else word for word in words]
    return None if changed == words else changed


def _locate(request: Request) -> tuple[str, list[Path]]:
    """Return the config's name and the folders to search, first one first; the config lies under one of them."""
    given = [expanded(folder) for folder in request.config_dirs]
    for folder in given:
        if not folder.is_dir():
            raise ConfigError(
                f"--config-dir: {folder} is not a folder. Give the folder that holds your experiment files."
            )
    folders = [*given, *search_folders(request.command or request.config)]
    file = Path(request.config)
    file = expanded(file) if str(file).startswith("~") else file
    if file.suffix in YAML:
        if file.suffix != YAML[0]:
            raise ConfigError(f"{file}: Hydra reads .yaml alone. Rename it to {file.with_suffix('.yaml').name}.")
        if not file.is_file():
            raise ConfigError(f"{file}: there is no such file in {Path.cwd()}. {_names(file.stem, folders)}")
        return file.stem, [file.parent.absolute(), *folders]
    if not any((folder / f"{request.config}.yaml").is_file() for folder in folders):
        raise ConfigError(f"config {request.config!r} is not known. {_names(request.config, folders)}")
    return request.config, folders


def _names(given: str, folders: list[Path]) -> str:
    names = known_configs(folders)
    searched = ", ".join(map(str, folders))
    return f"{did_you_mean(given, names)} Known: {', '.join(names)}. Searched: {searched}.".strip()
