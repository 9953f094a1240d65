"""The five folders: from environment variables and `.env`, never from an experiment file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asparagus.errors import ConfigError
from asparagus.spec import Paths
from asparagus.storage.names import is_uri, working_copy

FOLDERS = {
    "configs": "experiment files of your own",
    "source": "raw data",
    "data": "converted tasks",
    "models": "run folders",
    "results": "the MLflow store and outputs",
}
STORED = ("models", "data")
"""Folders that may be stores."""
SQLITE = "sqlite:///"
FAMILIES = {
    "pretrain": "ASPARAGUS_PRETRAIN_CONFIGS",
    "train": "ASPARAGUS_TRAIN_CONFIGS",
    "finetune": "ASPARAGUS_FINETUNE_CONFIGS",
}
"""Optional colon-separated lists of further config folders, seen by the stages of that family alone (SEEDS A2, A3)."""


def load_environment(start: Path | None = None) -> None:
    """Read `.env` in `start` (default: here) or the nearest folder above; what is already set wins."""
    for folder in [here := (start or Path.cwd()).absolute(), *here.parents]:
        if (folder / ".env").is_file():
            from dotenv import load_dotenv

            load_dotenv(folder / ".env", override=False)
            return


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Have environment variables of this process and its children for a while; afterwards they are what they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def get_paths(environment: Mapping[str, str] | None = None) -> Paths:
    """Return the five folders, absolute: `ASPARAGUS_<NAME>`, else a folder of that name under `ASPARAGUS_HOME`.

    Nothing is created: a folder comes to be when something is written into it.

    Raises:
        ConfigError: A variable is set to nothing.
    """
    env = os.environ if environment is None else environment
    home = expanded(env.get("ASPARAGUS_HOME") or "~/asparagus")
    folders: dict[str, Any] = {name: _folder(env, name, home) for name in FOLDERS}
    return in_working_copies(Paths(**folders), env)


def in_working_copies(paths: Paths, environment: Mapping[str, str] | None = None) -> Paths:
    """Return the folders with this machine's working copy in place of each store.

    Raises:
        ConfigError: One is no store that is known, or its working copy cannot be made.
    """
    folders = {name: getattr(paths, name) for name in STORED}
    stores = {name: place.rstrip("/") for name, place in folders.items() if is_uri(place)}
    copies: dict[str, Any] = {name: str(working_copy(uri, environment)) for name, uri in stores.items()}
    kept = {name: uri for name, uri in paths.stores.items() if folders[name] == str(working_copy(uri, environment))}
    return dataclasses.replace(paths, **copies, stores=kept | stores)


def get_tracking_uri(paths: Paths, environment: Mapping[str, str] | None = None) -> str:
    """Return `MLFLOW_TRACKING_URI`, made absolute, else a sqlite file in the results folder: nothing to start."""
    env = os.environ if environment is None else environment
    uri = env.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{paths.results}/mlflow.db"
    if uri.startswith(SQLITE):  # relative ones are relative to here, and workers are elsewhere
        return f"{SQLITE}{expanded(uri.removeprefix(SQLITE))}"
    return uri


def get_config_path() -> str:
    """Return the folder for a `@hydra.main(config_path=...)` of your own: of your experiment files, or of ours.

    Hydra is told the rest at the same time, so that a script of your own composes as `asp-launch` does: where the
    shipped configs and sites lie, and our resolvers (SEEDS A51).
    """
    from asparagus import hydra_plugin

    configs = get_paths().configs
    own = configs if configs and Path(configs).is_dir() else str(packaged("configs"))
    further = [folder for folder in family_folders("") if folder.is_dir()]
    hydra_plugin.register([*further, packaged("configs"), packaged("launch")])
    return own


def family_folders(stage: str, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Return the further config folders that a config of this name sees: its family's; all, if it is of none."""
    env = os.environ if environment is None else environment
    variable = FAMILIES.get(stage.split("_", maxsplit=1)[0])
    variables = [variable] if variable else list(FAMILIES.values())
    return [expanded(part) for name in variables for part in env.get(name, "").split(":") if part]


def packaged(folder: str) -> Path:
    """Return the shipped `configs` or `launch` folder: inside an installed wheel, else beside the package."""
    here = Path(__file__).parent
    inside = here / folder
    return inside if inside.is_dir() else here.parent / folder


def expanded(path: str | Path) -> Path:
    """Return a path, absolute, with `~` and `~user` spelled out.

    Raises:
        ConfigError: There is no such user here.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{path}: there is no user of that name here. Write the path out.") from error


def _folder(env: Mapping[str, str], name: str, home: Path) -> str:
    variable = f"ASPARAGUS_{name.upper()}"
    given = env.get(variable)
    if given == "":
        raise ConfigError(
            f"{variable}: is set but empty. Set it to a folder ({FOLDERS[name]}), or unset it to use "
            f"{home / name} (under ASPARAGUS_HOME)."
        )
    if given and is_uri(given):
        return given
    return str(expanded(given or str(home / name)))
