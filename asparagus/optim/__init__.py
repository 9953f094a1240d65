"""Optimizers and learning-rate schedules by name; the tables are strings, so that listing them imports nothing."""

from __future__ import annotations

OPTIMIZERS: dict[str, str] = {
    "adadelta": "torch.optim.Adadelta",
    "adagrad": "torch.optim.Adagrad",
    "adam": "torch.optim.Adam",
    "adamax": "torch.optim.Adamax",
    "adamw": "torch.optim.AdamW",
    "asgd": "torch.optim.ASGD",
    "nadam": "torch.optim.NAdam",
    "novograd": "monai.optimizers.Novograd",
    "radam": "torch.optim.RAdam",
    "rmsprop": "torch.optim.RMSprop",
    "rprop": "torch.optim.Rprop",
    "sgd": "torch.optim.SGD",
}
"""`optim.name` -> dotted path of the class."""

SCHEDULES: dict[str, str] = {
    "constant": "asparagus.optim.schedules.constant",
    "cosine": "asparagus.optim.schedules.cosine",
    "linear": "asparagus.optim.schedules.linear",
}
"""`optim.sched.name` -> dotted path of a function `(step, Shape) -> learning rate`."""
