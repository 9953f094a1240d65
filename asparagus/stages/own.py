"""What a module of one's own may inherit: a section for its network, and specs for its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from asparagus.errors import ConfigError
from asparagus.optim.specs import optimizer_of, scheduler_of
from asparagus.section import section_of

MODEL = "model"
"""Where a module keeps its network."""


class BaseModule(pl.LightningModule):
    """A network that a section describes, and how to train it; a subclass writes `initialize_model` and the steps.

    ```python
    class Classifier(asparagus.BaseModule):
        def initialize_model(self):
            self.model = torch.nn.Linear(64, self.hparams.model_config.num_classes)

        def training_step(self, batch, index):
            return cross_entropy(self.model(batch[0]), batch[1])
    ```

    `validation_step` and `test_step` are its own as well. Checkpoints have the arguments: `load_from_checkpoint(path)`
    needs no others.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        optimizer_spec: str | Mapping[str, Any] | None = None,
        scheduler_spec: str | Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the arguments as `self.hparams`, and build the network.

        Args:
            model_config: What `initialize_model` asks for, as `self.hparams.model_config.key`.
            optimizer_spec: `{id: Adam, lr: 3e-5}`: see `asparagus.optim.specs.optimizer_of`.
            scheduler_spec: `{id: StepLR, step_size: 20}`: see `asparagus.optim.specs.scheduler_of`.

        Raises:
            ConfigError: An argument is no plain value, or a subclass lacks `initialize_model`.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.hparams.update({name: section_of(value, name) for name, value in self.hparams.items()})
        self.initialize_model()

    def initialize_model(self) -> None:
        """Build the network from `self.hparams.model_config` and assign it to `self.model`; a subclass writes it.

        Raises:
            ConfigError: It does not.
        """
        raise ConfigError(
            f"model.module: {type(self).__name__} has no initialize_model. Write one that assigns self.model, from "
            "self.hparams.model_config."
        )

    def configure_optimizers(self) -> Any:
        """Return what `optimizer_spec` and `scheduler_spec` describe; paths begin at the module, or at `self.model`.

        Raises:
            ConfigError: There is no optimizer_spec, or one of the two does not fit.
        """
        hparams: Any = self.hparams
        if not hparams.optimizer_spec:
            raise ConfigError(
                "optimizer_spec: Module has no optimizer_spec! Give module.optimizer_spec={id: Adam, lr: 1e-3}, or "
                f"write configure_optimizers in {type(self).__name__}."
            )
        optimizer = optimizer_of(hparams.optimizer_spec, self, inner=MODEL)
        scheduler = scheduler_of(hparams.scheduler_spec or None, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler} if scheduler else optimizer
