"""From an archive to the model: built by its config, filled with its weights, its artifacts at hand.

No pickle is executed, and what an archive's config names is built: classes that are installed here. Restore archives of
those whose code you would run; `read_index` and `asp model import` build nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from asparagus.archive.artifacts import Artifact, Extracted, references, restoring
from asparagus.archive.container import opened
from asparagus.archive.kept import Kept, kept_by, owner_of
from asparagus.archive.layout import RUN, WEIGHTS
from asparagus.archive.rebuild import module_of_run
from asparagus.archive.weights import load_weights
from asparagus.errors import RecordError
from asparagus.secrets import reveal
from asparagus.targets import locate, parameters_of

ROOT = "model"
"""The section of a training config that is the model's, where a whole one is given."""


def restore(
    path: str | Path,
    override_config_path: str | Path | Mapping[str, Any] | DictConfig | None = None,
    *,
    map_location: str | torch.device | None = None,
    strict: bool = True,
    trainer: Any = None,
    cls: type[nn.Module] = nn.Module,
) -> nn.Module:
    """Build the model of any archive, with its weights.

    Args:
        path: The archive: a tar, or a gzipped one.
        override_config_path: A config, or the path of one, in place of the archive's own; the parameters must stay.
        map_location: Where it goes; a GPU if there is one.
        strict: Refuse weights that are missing or left over.
        trainer: Passed on to a class that takes one.
        cls: What it has to be. Where it is a subclass of the class in the archive, that is what is built.

    Raises:
        MissingFileError: There is no such archive (a FileNotFoundError).
        RecordError: It is cut short, changed, of a newer format, or holds something else.
        ConfigError: What its config names is not installed here.
    """
    path, device = Path(path), str(map_location or ("cuda" if torch.cuda.is_available() else "cpu"))
    with opened(path) as archive:
        index, extracted = archive.index, Extracted(path)
        archive.extract([WEIGHTS, *archive.artifacts], extracted.folder)
        config = chosen(override_config_path) if override_config_path is not None else parsed(archive.config(), path)
    weights = extracted.folder / WEIGHTS
    with restoring(extracted):
        if index.kind == RUN:
            model: nn.Module = module_of_run(_plain(config), extracted)
            _must_be(cls, type(model), path)
            model._asparagus = Kept(config, kind=RUN)  # type: ignore[assignment]  # noqa: SLF001 - a mark of ours
        else:
            model = _of_class(config, cls, path, trainer)
        _give_rest(model, config, extracted)
    kept = kept_by(model)
    if kept is not None:
        kept.lineage = dict(index.lineage)
    load_weights(model, weights, source=path, strict=strict)
    weights.unlink()
    return model.to(device)


def config_in(path: str | Path) -> DictConfig:
    """Return the config of an archive; nothing is built and no weights are read.

    Raises:
        RecordError: As `restore`.
    """
    with opened(Path(path)) as archive:
        return parsed(archive.config(), path)


def parsed(text: str, source: object) -> DictConfig:
    """Return the config that a YAML text is.

    Raises:
        RecordError: It is none.
    """
    try:
        config = OmegaConf.create(text)
    except Exception as error:
        raise RecordError(f"{source}: its config is no YAML: {error}") from error
    if not isinstance(config, DictConfig):
        raise RecordError(f"{source}: its config holds no keys and values.")
    return config


def chosen(override: str | Path | Mapping[str, Any] | DictConfig) -> DictConfig:
    """Return the config that was given in place of an archive's own: its section `model`, if that is a whole one."""
    if isinstance(override, str | Path):
        if not Path(override).is_file():
            raise RecordError(f"override_config_path: there is no file {override}. Give a YAML file, or a config.")
        config = parsed(Path(override).read_text(encoding="utf-8"), override)
    else:
        config = override if isinstance(override, DictConfig) else OmegaConf.create(dict(override))
    if "stage" in config:  # an archive of a run holds a whole one itself
        return config
    return config[ROOT] if isinstance(config.get(ROOT), DictConfig) else config


def _of_class(config: DictConfig, cls: type[nn.Module], path: Path, trainer: Any) -> nn.Module:
    """Build the class that a config names, or the subclass of it that was asked for."""
    target = config.get("target")
    if target is None and cls is not nn.Module:  # a config of one's own need not name what is asked for
        target = f"{cls.__module__}.{cls.__qualname__}"
    if not isinstance(target, str) or "." not in target:
        raise RecordError(f"{path}: its config names no class: target is {target!r}. Call restore_from on the class.")
    found: Any = locate(target, key=f"{path}: target")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise RecordError(f"{path}: its target {target} is no class of torch.nn.Module, and is not called.")
    built = cls if issubclass(cls, found) else found
    _must_be(cls, built, path)
    extra = {"trainer": trainer} if trainer is not None and "trainer" in parameters_of(built) else {}
    return built(cfg=OmegaConf.create(reveal(_plain(config))), **extra)


def _must_be(asked: type, built: type, path: Path) -> None:
    if not issubclass(built, asked):
        raise RecordError(
            f"{path}: holds a {built.__name__}, and {asked.__name__}.restore_from was asked for a {asked.__name__}. "
            f"Call {built.__name__}.restore_from, or Archivable.restore_from for whatever it holds."
        )


def _give_rest(model: nn.Module, config: DictConfig, extracted: Extracted) -> None:
    """Register the artifacts that were registered from outside of the model's `__init__`."""
    if kept_by(model) is None:
        return
    for key, name in references(_plain(config)).items():
        owner, inner = owner_of(model, key)
        kept = kept_by(owner)
        assert kept is not None, "a submodule of one that archives are made of is one"
        if inner not in kept.artifacts:
            kept.register(inner, Artifact(extracted.path_of(name), extracted))


def _plain(config: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(config, resolve=False)
    return dict(values)


restore_run = restore
"""What `save_run` wrote is restored as any other archive."""
