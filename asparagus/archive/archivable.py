"""What a module inherits to be saved as one file and restored from it: `class Net(Archivable)`, with a `cfg`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from asparagus.archive import hub
from asparagus.archive.artifacts import artifact_of
from asparagus.archive.kept import MARK, Kept, kept_by
from asparagus.archive.lineage import lineage_of, run_folder_of
from asparagus.archive.restoring import config_in, restore
from asparagus.archive.save import save
from asparagus.errors import RecordError


class Archivable(nn.Module):
    """A module that is built from a config, `Net(cfg)`, and so can be built again from an archive.

    ```python
    class Net(Archivable):  # or (Archivable, pl.LightningModule), in this order
        def __init__(self, cfg, trainer=None):
            super().__init__(cfg, trainer=trainer)
            self.names = Path(self.register_artifact("names", self.cfg.names)).read_text().split()
            self.layer = nn.Linear(self.cfg.width, len(self.names))

    Net({"width": 8, "names": "names.txt"}).save_to("net.asparagus")
    net = Net.restore_from("net.asparagus")
    ```
    """

    def __init__(
        self,
        cfg: Mapping[str, Any] | DictConfig | None = None,
        *,
        trainer: Any = None,  # noqa: ARG002 - subclasses pass it on
        **rest: Any,
    ) -> None:
        """Keep a copy of the config.

        Args:
            cfg: All that the model is built from.
            trainer: Accepted for the sake of subclasses; Lightning sets it when training starts.
            rest: For the next class, e.g. the arguments of a stage's module.
        """
        super().__init__(**rest)
        self._asparagus = Kept(_own(cfg))
        if isinstance(self, pl.LightningModule):
            plain = OmegaConf.to_container(self.cfg, resolve=False)
            self.save_hyperparameters({"cfg": plain}, logger=False)

    @property
    def cfg(self) -> DictConfig:
        """The config; archives have it as it is now."""
        return _kept(self, "cfg").cfg

    @property
    def lineage(self) -> dict[str, Any]:
        """The run that the weights are of and its ancestors; empty for a model that no run and no archive gave them."""
        kept, folder = _kept(self, "lineage"), run_folder_of(self)
        return lineage_of(folder, None) if folder else dict(kept.lineage)

    def save_to(self, save_path: str | Path) -> Path:
        """Write the model as one file: config, weights, artifacts, ancestry. Rank 0 writes, other ranks do nothing.

        Args:
            save_path: Of the archive; folders above it are made, an archive that is there is replaced.

        Raises:
            RecordError: An artifact is gone, or the class could not be found again.
        """
        path = Path(save_path).absolute()
        if _is_first_rank():
            save(self, path, self.lineage)
        return path

    @classmethod
    def restore_from(
        cls,
        restore_path: str | Path,
        override_config_path: str | Path | Mapping[str, Any] | DictConfig | None = None,
        map_location: str | torch.device | None = None,
        *,
        strict: bool = True,
        return_config: bool = False,
        trainer: Any = None,
    ) -> Self:
        """Return the model of an archive: of the class in it, or of this one if that is its subclass.

        Args:
            restore_path: The archive; `Archivable.restore_from` takes any.
            override_config_path: A config, or the path of one, in place of the archive's own; the parameters must stay.
            map_location: Where it goes; a GPU if there is one.
            strict: Refuse weights that are missing or left over.
            return_config: Return the config alone; nothing is built.
            trainer: Passed on to a class that takes one.

        Raises:
            MissingFileError: There is no such archive (a FileNotFoundError).
            RecordError: It is cut short, changed, of a newer format, or holds something else.
        """
        if return_config:
            config: Any = config_in(restore_path)
            return config  # type: ignore[no-any-return]
        asked: type[nn.Module] = nn.Module if cls is Archivable else cls
        model: Any = restore(
            restore_path,
            override_config_path,
            map_location=map_location,
            strict=strict,
            trainer=trainer,
            cls=asked,
        )
        return model  # type: ignore[no-any-return]

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **options: Any) -> Self:
        """Return the model of an archive by its path, or by its address on the Hugging Face hub.

        Args:
            name: A path, or `https://huggingface.co/USER/REPOSITORY/blob/main/FILE`, which is downloaded once.
            args: As for `restore_from`.
            options: As for `restore_from`.

        Raises:
            RecordError: It is neither, or cannot be downloaded.
        """
        return cls.restore_from(hub.local(name), *args, **options)

    def register_artifact(
        self, config_path: str, src: str | Path | None, *, verify_src_exists: bool = True
    ) -> str | None:
        """Have a file travel with the model; returns where it lies: here, or what was taken out of an archive.

        Args:
            config_path: Its key; the config says there where the file is.
            src: The file. None and "" are returned as they are: there is none.
            verify_src_exists: Whether it is an error if there is no such file; else None is returned.

        Raises:
            MissingFileError: There is no such file (a FileNotFoundError).
            RecordError: It is an archive or a folder, or `super().__init__` has not been called.
        """
        kept = _kept(self, "register_artifact")
        if src is None or src == "":
            return src
        artifact = artifact_of(config_path, src, must_exist=verify_src_exists)
        if artifact is None:
            return None
        kept.register(config_path, artifact)
        return str(artifact.path)

    def register_submodule(self, name: str, config_field: str, model: nn.Module) -> None:
        """Set another archivable model as `self.<name>`; it is saved with this one, config and artifacts too.

        Args:
            name: Of the attribute.
            config_field: Where its config stands in this one's; so it is built from there when this is restored.
            model: The other one.

        Raises:
            RecordError: It is not archivable, or `super().__init__` has not been called.
        """
        kept = _kept(self, "register_submodule")
        if not isinstance(model, Archivable):
            raise RecordError(
                f"register_submodule: {name} is a {type(model).__name__}, which is not Archivable, so nobody could "
                f"build it again. Let {type(model).__name__} inherit from Archivable, or set self.{name} plainly."
            )
        setattr(self, name, model)
        kept.submodules[config_field] = name
        OmegaConf.update(kept.cfg, config_field, model.cfg, merge=False, force_add=True)


def _own(cfg: Mapping[str, Any] | DictConfig | None) -> DictConfig:
    """Return a config that nobody else changes, and in which keys may be added."""
    config = copy.deepcopy(cfg) if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg or {}))
    OmegaConf.set_struct(config, value=False)
    OmegaConf.set_readonly(config, value=False)
    return config


def _kept(model: Archivable, asked: str) -> Kept:
    kept = kept_by(model)
    if kept is None:
        raise RecordError(
            f"{type(model).__name__}.{asked}: nothing is kept in {MARK} yet. Call super().__init__(cfg) first in "
            f"{type(model).__name__}.__init__."
        )
    return kept


def _is_first_rank() -> bool:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0
