"""What Hydra is told about Asparagus: where more experiment files lie, and which resolvers there are."""

from __future__ import annotations

import importlib.metadata
import random
from functools import cache
from pathlib import Path
from typing import Any

PROVIDER = "asparagus"
PLANNED = ("num_gpus", "num_devices", "num_nodes", "world_size", "iterations_per_epoch", "max_iterations")
"""Attributes of a run that only its plan knows: they stay as written until it is made (SEEDS D26 to D28)."""
NAMESPACES = ("asparagus", "sesemi")
KNOWN = (*PLANNED, "version")
FOLDERS: list[Path] = []
"""Where Hydra looks after its primary folder; replaced before each composition."""


def register(folders: list[Path]) -> None:
    """Make Hydra look into these folders too, after its own, and know our resolvers. May be called again.

    Args:
        folders: Absolute, the first one wins.
    """
    FOLDERS[:] = folders
    _register_search_path()
    _register_resolvers()


@cache
def _register_search_path() -> None:
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class AsparagusSearchPath(SearchPathPlugin):  # type: ignore[misc,unused-ignore]
        """Appends our folders: whatever the application and its primary config name comes first."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in FOLDERS:
                search_path.append(provider=PROVIDER, path=f"file://{folder}")

    Plugins.instance().register(AsparagusSearchPath)


def _register_resolvers() -> None:
    from omegaconf import OmegaConf

    for namespace in NAMESPACES:
        OmegaConf.register_new_resolver(namespace, _attribute(namespace), replace=True)
    OmegaConf.register_new_resolver("secret", lambda name: f"${{secret:{name}}}", replace=True)
    # Drawn once per composition: whoever refers to it again sees the same number, and the spec records it.
    OmegaConf.register_new_resolver("random", _draw, replace=True, use_cache=True)


def _attribute(namespace: str) -> Any:
    def resolve(name: str) -> str:
        if name == "version":
            return importlib.metadata.version("asparagus")
        if name not in PLANNED:
            from asparagus.errors import ConfigError, one_of

            raise ConfigError(one_of(f"${{{namespace}:...}}", name, KNOWN))
        return f"${{asparagus:{name}}}"

    return resolve


def _draw(*span: object) -> int:
    """Resolve `${random:1,100}`."""
    from asparagus.errors import ConfigError

    try:
        least, most = map(int, map(str, span))
        return random.SystemRandom().randint(least, most)
    except ValueError:
        given = ",".join(map(str, span))
        raise ConfigError(f"${{random:{given}}} takes two whole numbers, the least and the most") from None
