"""Sample predictions as figures: into `plots/` of the run folder, and to TensorBoard (SEEDS E25)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn

from asparagus.callbacks.drawing import Drawn, file_name, of_answers, of_samples
from asparagus.callbacks.predictions import Predictions, of_each_rank
from asparagus.checkpoint.folder import name_of
from asparagus.spec import Figures as Asked
from asparagus.stages.shown import Answers

FOLDER = Path("plots")
"""In the run folder; what lies in it goes to MLflow with the run."""
DOTS_PER_INCH = 110
FAST = {"compress_level": 1}
"""Of PNG: the smallest file takes three times as long."""

log = logging.getLogger("asparagus")


class Figures(Callback):
    """Draw what a module shows of the last validation, by `shown(batch, outputs, most)`, and the table of a test.

    Planes are those of rank 0's last batch; answers are those of all cases of all ranks. Rank 0 draws. That something
    cannot be drawn is a warning in the log: a picture is not worth a run.

    Args:
        folder: The run folder.
        asked: When, and how much.
        predictions: What a test has found.
    """

    def __init__(self, folder: Path, asked: Asked, predictions: Predictions) -> None:
        self._folder = folder / FOLDER
        self._asked = asked
        self._predictions = predictions
        self._samples: Any = []
        self._answers: list[Answers] = []
        self._waiting: tuple[int, int] | None = None
        """Epoch and step of a validation that is not drawn."""
        self._warned = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing."""
        self._samples, self._answers, self._waiting = [], [], None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the module shows of this batch: all answers, and the newest planes."""
        show = getattr(pl_module, "shown", None)
        if trainer.sanity_checking or outputs is None or show is None:
            return
        with self._not_worth_a_run():
            shown = show(batch, outputs, self._asked.cases)
            if isinstance(shown, Answers):
                self._answers.append(shown)
            elif shown:
                self._samples = shown

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, if it is this epoch's turn; the last validation of a training has its turn when that ends."""
        if trainer.sanity_checking:
            return
        self._waiting = (trainer.current_epoch, trainer.global_step)
        every = self._asked.every_n_epochs
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._draw(trainer, pl_module, "validation", "validation")
        elif every is not None and (trainer.current_epoch + 1) % every == 0:
            self._draw_validation(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last validation, where it has not been drawn."""
        if self._waiting is not None:
            self._draw_validation(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table of the test's cases, the worst first, and draw the answers of all."""
        file, cases = self._predictions.file, self._predictions.cases
        if file is None:
            return
        with self._not_worth_a_run():
            from asparagus.callbacks.case_table import table_of, write_table

            place, names = self._folder / "test" / file.stem, names_in(pl_module)
            table = table_of(cases, names)
            if table is None:
                return
            write_table(table, file.stem, place / "cases.csv", place / "cases.html")
            if all("prediction" in case for case in cases.values()):
                predicted = [case["prediction"] for case in cases.values()]
                truth = [case["label"] for case in cases.values()]
                self._keep(trainer, of_answers(predicted, truth, names, file.stem), place)
            log.info("the test's cases, the worst first: %s", place / "cases.html")

    def _draw_validation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._waiting is not None
        epoch, step = self._waiting
        self._draw(trainer, pl_module, f"validation/{name_of(epoch, step)}", f"epoch {epoch}, step {step}")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, place: str, when: str) -> None:
        """Draw on rank 0 what all ranks have; each of them has to come here."""
        mine = [(answers.predicted.tolist(), answers.truth.tolist()) for answers in self._answers]
        shares = [pair for share in of_each_rank(mine, trainer) for pair in share]
        samples, names = self._samples, names_in(pl_module)
        self._samples, self._answers, self._waiting = [], [], None
        if trainer.global_rank != 0 or not (samples or shares):
            return
        with self._not_worth_a_run():
            self._keep(trainer, of_samples(samples, names, when), self._folder / place)
            predicted, truth = ([one for pair in shares for one in pair[side]] for side in (0, 1))
            self._keep(trainer, of_answers(predicted, truth, names, when), self._folder / place)

    def _keep(self, trainer: Trainer, drawn: Drawn, place: Path) -> None:
        """Write figures as files, and give them to TensorBoard where there is one."""
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for name, figure in drawn:
            place.mkdir(parents=True, exist_ok=True)
            writing = place / f".{file_name(name)}.writing"
            title = {"Title": figure.get_suptitle().replace("\n", ", ")}  # for who finds the file alone
            figure.savefig(writing, dpi=DOTS_PER_INCH, format="png", metadata=title, pil_kwargs=FAST)
            writing.replace(place / file_name(name))
            for board in boards:
                board.add_figure(name, figure, global_step=trainer.global_step)

    @contextmanager
    def _not_worth_a_run(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - values of anybody's module are drawn here: told once, and left out
            if not self._warned:
                log.warning("figures: something could not be drawn (%s: %s)", type(error).__name__, error)
            self._warned = True


def names_in(module: Any) -> Sequence[str]:
    """Return what a module calls its classes, or its numbers."""
    return [str(name) for name in getattr(module, "class_names", ())]
