"""Files and overrides in, a checked-for-shape `Spec` out: the only room that opens configuration files."""

from asparagus.compose.composer import Request, compose_config, known_configs, search_folders
from asparagus.compose.experiment import compose, config_as_yaml, config_of, spec_of

__all__ = [
    "Request",
    "compose",
    "compose_config",
    "config_as_yaml",
    "config_of",
    "known_configs",
    "search_folders",
    "spec_of",
]
