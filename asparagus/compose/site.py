"""A site by itself, without an experiment; and the folders as its nodes see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asparagus.compose.schema import filled
from asparagus.errors import ConfigError
from asparagus.paths import get_paths, get_tracking_uri
from asparagus.spec import Paths

if TYPE_CHECKING:
    from asparagus.spec import Site

FOLDERS = ("data", "models", "results")
"""Those that a site may have elsewhere than this machine."""
ANY = "train"
"""A config with a site in it; which one does not matter."""


def at_site(paths: Paths, site: Any) -> Paths:
    """Return the folders, those that the site has of its own in place of this machine's.

    Args:
        paths: Of this machine.
        site: Its section, as resolved.
    """
    if not isinstance(site, dict):
        return paths
    given: dict[str, Any] = {name: str(site[name]) for name in FOLDERS if site.get(name)}
    return dataclasses.replace(paths, **given)


def compose_site(overrides: Sequence[str]) -> tuple[Site, Paths]:
    """Compose a site alone.

    Args:
        overrides: As typed: `site=slurm`, `site.address=host:port`.

    Raises:
        ConfigError: There is no such site, or its file has what no site has.
    """
    from asparagus.compose.composer import Request, compose_config
    from asparagus.compose.resolve import plain_values
    from asparagus.spec import Site

    tree = plain_values(compose_config(Request(ANY, tuple(overrides)))).tree
    values, problems = filled(Site, tree["site"], "site")
    if problems:
        raise ConfigError(*problems)
    site, paths = Site(**values), at_site(get_paths(), tree["site"])
    if site.tracking_uri is None:
        site = dataclasses.replace(site, tracking_uri=get_tracking_uri(paths))
    return site, paths
