"""Files and overrides in, a checked-for-shape `Spec` out: the only room that opens configuration files."""

from asparagus.compose.composer import Request, compose, compose_config, config_as_yaml, known_configs

__all__ = ["Request", "compose", "compose_config", "config_as_yaml", "known_configs"]
