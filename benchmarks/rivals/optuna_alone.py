"""A sweep by Optuna alone: in this process, or in several that share a journal, as Optuna documents it.

python optuna_alone.py TRIALS PROCESSES
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from plain_lightning import loaders
from tuned_digits import HIGH, LOW, accuracy

NAME = "digits"


def work(storage, trials: int) -> None:
    torch.set_num_threads(1)  # with the default, two processes on two cores slow each other down
    data = loaders()  # once, not once a trial
    study = optuna.load_study(study_name=NAME, storage=storage)
    enough = MaxTrialsCallback(trials, states=(TrialState.COMPLETE, TrialState.RUNNING))
    study.optimize(lambda trial: accuracy(trial.suggest_float("lr", LOW, HIGH, log=True), *data), callbacks=[enough])


def main(trials: int, processes: int) -> None:
    if processes == 1:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")
        work(storage, trials)
    else:
        file = Path(tempfile.mkdtemp()) / "journal.log"
        storage = JournalStorage(JournalFileBackend(str(file)))
        study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")
        command = [sys.executable, __file__, str(trials), str(file)]
        workers = [subprocess.Popen(command) for _ in range(processes)]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            sys.exit("a process failed")
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    print("trials", len(finished), "accuracy", study.best_value)


if __name__ == "__main__":
    if sys.argv[2].isdigit():
        main(int(sys.argv[1]), int(sys.argv[2]))
    else:
        work(JournalStorage(JournalFileBackend(sys.argv[2])), int(sys.argv[1]))
