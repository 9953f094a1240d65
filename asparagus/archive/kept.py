"""What a model knows of itself for the sake of archives: config, artifacts, submodules, ancestry."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from asparagus.archive.artifacts import Artifact
from asparagus.archive.layout import MODEL, PREFIX, artifact_name
from asparagus.checkpoint.folder import digest_of
from asparagus.secrets import concealed

MARK = "_asparagus"
"""The attribute that a model has it under."""

log = logging.getLogger("asparagus")


@dataclass
class Kept:
    """Of one model; its submodules have their own."""

    cfg: DictConfig
    kind: str = MODEL
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """By `config_path`."""
    submodules: dict[str, str] = field(default_factory=dict)
    """Names of attributes by `config_field`."""
    lineage: dict[str, Any] = field(default_factory=dict)

    def register(self, key: str, artifact: Artifact) -> None:
        """Keep an artifact, and let the config say where it lies; one under the same key is replaced."""
        if key in self.artifacts:
            log.warning("artifact %s is registered twice: %s replaces the first", key, artifact.path)
        self.artifacts[key] = artifact
        OmegaConf.update(self.cfg, key, str(artifact.path), force_add=True)


def kept_by(model: Any) -> Kept | None:
    """Return what a model keeps; None for one that archives are not made of, or that is not built yet."""
    found = vars(model).get(MARK)
    return found if isinstance(found, Kept) else None


def owner_of(model: nn.Module, key: str) -> tuple[nn.Module, str]:
    """Return the submodule, of any depth, that a key of the whole config belongs to, and the key in its own config."""
    kept = kept_by(model)
    for config_field, name in (kept.submodules if kept else {}).items():
        if key.startswith(f"{config_field}."):
            return owner_of(getattr(model, name), key.removeprefix(f"{config_field}."))
    return model, key


def whole_config(model: nn.Module) -> DictConfig:
    """Return the config of a model with those of its submodules, and their artifacts still as paths."""
    kept = kept_by(model)
    assert kept is not None, "only what was registered is saved"
    config = _copied(kept.cfg)
    for config_field, name in kept.submodules.items():
        OmegaConf.update(config, config_field, whole_config(getattr(model, name)), merge=False, force_add=True)
    config["target"] = f"{type(model).__module__}.{type(model).__qualname__}"
    return config


def every_artifact(model: nn.Module) -> dict[str, Artifact]:
    """Return the artifacts of a model and of its submodules, by their keys in the whole config."""
    kept = kept_by(model)
    assert kept is not None, "only what was registered is saved"
    found = dict(kept.artifacts)
    for config_field, name in kept.submodules.items():
        inner = every_artifact(getattr(model, name))
        found |= {f"{config_field}.{key}": artifact for key, artifact in inner.items()}
    return found


def packed(model: nn.Module) -> tuple[str, dict[str, Path]]:
    """Return the text of the config as an archive has it, and the files that it refers to by their names there.

    Raises:
        MissingFileError: An artifact is gone.
    """
    return packed_with(whole_config(model), every_artifact(model))


def packed_with(whole: DictConfig, artifacts: Mapping[str, Artifact]) -> tuple[str, dict[str, Path]]:
    """Return the same for a config and the artifacts that belong to it.

    Args:
        whole: The config; left as it is.
        artifacts: By their keys in it.

    Raises:
        MissingFileError: An artifact is gone.
    """
    config, files = _copied(whole), {}
    for key, artifact in artifacts.items():
        file = artifact.found(key)
        name = artifact_name(key, digest_of(file), artifact.basename)
        OmegaConf.update(config, key, f"{PREFIX}{name}", force_add=True)
        files[name] = file
    return concealed(OmegaConf.to_yaml(config)), files  # it is made to be given away


def _copied(config: DictConfig) -> DictConfig:
    copy = DictConfig(OmegaConf.to_container(config, resolve=False))
    assert isinstance(copy, DictConfig), "a config of keys and values stays one"
    return copy
