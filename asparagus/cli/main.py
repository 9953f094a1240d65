"""The commands that are installed. Each imports its stage of the corridor when called: `--help` takes a blink."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from asparagus.errors import AsparagusError

Command = Callable[[Sequence[str]], int]

COMMANDS: dict[str, tuple[str, str]] = {
    "launch": ("asparagus.cli.launch:launch", "train an experiment file"),
    "runs": ("asparagus.cli.runs:runs", "list recorded runs"),
    "lineage": ("asparagus.cli.runs:lineage", "show what a run came from and what came from it"),
    "ui": ("asparagus.cli.runs:ui", "open the MLflow UI on the store"),
    "split": ("asparagus.cli.data:split", "divide a task's cases into training and validation"),
    "data": ("asparagus.cli.data:data", "make the demo tasks"),
    "demo": ("asparagus.cli.demo:demo", "data, pretraining, two finetunings, runs and lineage in one go"),
}
"""`asp COMMAND`: where each lives and what it does."""

USAGE = """usage: asp COMMAND [ARGUMENT ...]

{commands}

asp COMMAND --help says more. Each is also installed as asp-COMMAND.
"""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit status: 0 done, 2 wrong request, 3 failed run, 130 interrupted."""
    module, _, function = COMMANDS[name][0].partition(":")
    sys.path.insert(0, "")  # own models and data modules are found from where the command is typed
    try:
        command: Command = getattr(importlib.import_module(module), function)
        return command(arguments)
    except AsparagusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def asp() -> int:
    """The umbrella: `asp COMMAND ...`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<9} {about}" for name, (_, about) in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from asparagus import __version__

        print(f"asparagus {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        from asparagus.errors import one_of

        print(f"error: {one_of('command', arguments[0], COMMANDS)}", file=sys.stderr)
        return 2
    return run(arguments[0], arguments[1:])


def launch() -> int:
    """`asp-launch CONFIG ...`."""
    return run("launch", sys.argv[1:])


def runs() -> int:
    """`asp-runs`."""
    return run("runs", sys.argv[1:])


def lineage() -> int:
    """`asp-lineage N`."""
    return run("lineage", sys.argv[1:])


def ui() -> int:
    """`asp-ui`."""
    return run("ui", sys.argv[1:])


def split() -> int:
    """`asp-split` and `asp_split`."""
    return run("split", sys.argv[1:])


def data() -> int:
    """`asp-data`."""
    return run("data", sys.argv[1:])


def pretrain() -> int:
    """`asp_pretrain ...` is `asp-launch pretrain ...`."""
    return run("launch", ["pretrain", *sys.argv[1:]])


def train_seg() -> int:
    """`asp_train_seg ...` is `asp-launch train_seg ...`."""
    return run("launch", ["train_seg", *sys.argv[1:]])


def train_cls() -> int:
    """`asp_train_cls ...` is `asp-launch train_cls ...`."""
    return run("launch", ["train_cls", *sys.argv[1:]])


def finetune_seg() -> int:
    """`asp_finetune_seg ...` is `asp-launch finetune_seg ...`."""
    return run("launch", ["finetune_seg", *sys.argv[1:]])


def finetune_cls() -> int:
    """`asp_finetune_cls ...` is `asp-launch finetune_cls ...`."""
    return run("launch", ["finetune_cls", *sys.argv[1:]])
