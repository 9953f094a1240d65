"""The commands that are installed. Each imports its stage of the corridor when called: `--help` takes a blink."""

from __future__ import annotations

import atexit
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from asparagus.errors import AsparagusError, LeftError

Command = Callable[[Sequence[str]], int]

PIPE_CLOSED = 141
"""What a shell calls a process that ended because nobody reads on."""

COMMANDS: dict[str, tuple[str, str]] = {
    "launch": ("asparagus.cli.launch:launch", "train an experiment file"),
    "runs": ("asparagus.cli.runs:runs", "list recorded runs"),
    "lineage": ("asparagus.cli.lineage:lineage", "show what a run came from and what came from it"),
    "show": ("asparagus.cli.show_run:show", "show one run: what it is, where from, what came of it"),
    "diff": ("asparagus.cli.diff:diff", "show what differs between two runs"),
    "model": ("asparagus.cli.model:model", "make a checkpoint a named model or a file, and list those"),
    "rerun": ("asparagus.cli.rerun:rerun", "repeat a run from its record"),
    "test": ("asparagus.cli.test:test", "test a run's checkpoint, on any task and split"),
    "eval-box": ("asparagus.cli.eval_box:eval_box", "judge checkpoints by a matrix of finetunes"),
    "record": ("asparagus.cli.record:record", "restore the tracking store from the run folders"),
    "gc": ("asparagus.cli.gc:gc", "show which checkpoints can go, and free them"),
    "rm": ("asparagus.cli.rm:rm", "move runs to the trash, bring them back, empty it"),
    "ui": ("asparagus.cli.ui:ui", "open the MLflow UI on the store"),
    "doctor": ("asparagus.cli.doctor:doctor", "look at the environment, and say what to mend"),
    "logs": ("asparagus.cli.jobs:logs", "show what a job or a run said, -f also what comes"),
    "stop": ("asparagus.cli.jobs:stop", "end a job or a run; the same command goes on"),
    "getid": ("asparagus.cli.runs:getid", "print the run number that a log speaks of"),
    "completion": ("asparagus.cli.completion:completion", "print the completion script of bash, zsh or fish"),
    "split": ("asparagus.cli.data:split", "divide a task's cases into training, validation and test"),
    "data": ("asparagus.cli.data:data", "convert, register, check and describe data; make the demo tasks"),
    "demo": ("asparagus.cli.demo:demo", "data, pretraining, two finetunings, runs and lineage in one go"),
}
"""`asp COMMAND`: where each lives and what it does."""

USAGE = """usage: asp COMMAND [ARGUMENT ...]

{commands}

asp COMMAND --help says more. Each is also installed as asp-COMMAND.
"""


OF_DISKS = {
    errno.EACCES: "Whose is it? ls -l; or set another folder.",
    errno.EPERM: "Whose is it? ls -l; or set another folder.",
    errno.EROFS: "Set another folder.",
    errno.ENOTDIR: "A part of that path is a file: move it, or set another folder.",
    errno.ENOSPC: "Make some room (asp gc shows what can go), and say the same again.",
    errno.EDQUOT: "Make some room (asp gc shows what can go), and say the same again.",
    errno.ENAMETOOLONG: "Give it a shorter name.",
}
"""What to do about a disk that does not take what is written."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit status: 0 done, 2 wrong request, 3 failed run, 130 interrupted."""
    module, _, function = COMMANDS[name][0].partition(":")

    def command(words: Sequence[str]) -> int:
        found: Command = getattr(importlib.import_module(module), function)
        return found(words)

    return status_of(command, arguments)


def status_of(command: Command, arguments: Sequence[str]) -> int:
    """Call a command and return its exit status; what the user can mend is said in one message."""
    try:
        return command(arguments)
    except LeftError as left:
        print(f"interrupted: {left} The same command goes on from there.", file=sys.stderr)
        return left.exit_status
    except AsparagusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if error.errno not in OF_DISKS:
            raise
        print(f"error: {error.filename}: {error.strerror}. {OF_DISKS[error.errno]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def main(name: str, arguments: Sequence[str]) -> NoReturn:
    """Be the process of a command."""
    be(lambda words: run(name, words), arguments)


def be(command: Command, arguments: Sequence[str]) -> NoReturn:
    """Be a process that does one thing.

    Taking torch, Lightning and MLflow apart at exit costs a second in which nobody is served: exit functions run,
    streams are flushed, and the process ends.
    """
    try:
        status = status_of(command, arguments)
        atexit._run_exitfuncs()  # noqa: SLF001 - what a normal exit would run first
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # `| head` has seen enough
        status = PIPE_CLOSED
    os._exit(status)


def asp() -> int:
    """The umbrella: `asp COMMAND ...`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from asparagus import __version__

        print(f"asparagus {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        from asparagus.errors import one_of

        print(f"error: {one_of('command', arguments[0], COMMANDS)}", file=sys.stderr)
        return 2
    main(arguments[0], arguments[1:])


def launch() -> NoReturn:
    """`asp-launch CONFIG ...`."""
    main("launch", sys.argv[1:])


def runs() -> NoReturn:
    """`asp-runs`."""
    main("runs", sys.argv[1:])


def lineage() -> NoReturn:
    """`asp-lineage N`."""
    main("lineage", sys.argv[1:])


def show() -> NoReturn:
    """`asp-show N`."""
    main("show", sys.argv[1:])


def diff() -> NoReturn:
    """`asp-diff A B`."""
    main("diff", sys.argv[1:])


def model() -> NoReturn:
    """`asp-model promote|list`."""
    main("model", sys.argv[1:])


def rerun() -> NoReturn:
    """`asp-rerun N`."""
    main("rerun", sys.argv[1:])


def record() -> NoReturn:
    """`asp-record rebuild`."""
    main("record", sys.argv[1:])


def gc() -> NoReturn:
    """`asp-gc`."""
    main("gc", sys.argv[1:])


def rm() -> NoReturn:
    """`asp-rm N`."""
    main("rm", sys.argv[1:])


def ui() -> NoReturn:
    """`asp-ui`."""
    main("ui", sys.argv[1:])


def split() -> NoReturn:
    """`asp-split` and `asp_split`."""
    main("split", sys.argv[1:])


def data() -> NoReturn:
    """`asp-data`."""
    main("data", sys.argv[1:])


def process() -> NoReturn:
    """`asp_process --dataset TASK` is `asp data convert`."""
    main("data", ["convert", *sys.argv[1:]])


def update_paths() -> NoReturn:
    """`asp_update_paths` is `asp data update-paths`."""
    main("data", ["update-paths", *sys.argv[1:]])


def register_dataset() -> NoReturn:
    """`asp_register_dataset` is `asp data register`."""
    main("data", ["register", *sys.argv[1:]])


def doctor() -> NoReturn:
    """`asp-doctor`."""
    main("doctor", sys.argv[1:])


def logs() -> NoReturn:
    """`asp-logs JOB_OR_RUN`."""
    main("logs", sys.argv[1:])


def stop() -> NoReturn:
    """`asp-stop JOB_OR_RUN`."""
    main("stop", sys.argv[1:])


def getid() -> NoReturn:
    """`asp-getid` and `asp_getid`."""
    main("getid", sys.argv[1:])


def completion() -> NoReturn:
    """`asp-completion`."""
    main("completion", sys.argv[1:])


def demo() -> NoReturn:
    """`asp-demo`."""
    main("demo", sys.argv[1:])


def pretrain() -> NoReturn:
    """`asp_pretrain ...` is `asp-launch pretrain ...`."""
    main("launch", ["pretrain", *sys.argv[1:]])


def train_seg() -> NoReturn:
    """`asp_train_seg ...` is `asp-launch train_seg ...`."""
    main("launch", ["train_seg", *sys.argv[1:]])


def train_cls() -> NoReturn:
    """`asp_train_cls ...` is `asp-launch train_cls ...`."""
    main("launch", ["train_cls", *sys.argv[1:]])


def train() -> NoReturn:
    """`asp_train ...` is `asp-launch train ...`."""
    main("launch", ["train", *sys.argv[1:]])


def finetune() -> NoReturn:
    """`asp_finetune ...` is `asp-launch finetune ...`."""
    main("launch", ["finetune", *sys.argv[1:]])


def finetune_seg() -> NoReturn:
    """`asp_finetune_seg ...` is `asp-launch finetune_seg ...`."""
    main("launch", ["finetune_seg", *sys.argv[1:]])


def finetune_cls() -> NoReturn:
    """`asp_finetune_cls ...` is `asp-launch finetune_cls ...`."""
    main("launch", ["finetune_cls", *sys.argv[1:]])


def train_reg() -> NoReturn:
    """`asp_train_reg ...` is `asp-launch train_reg ...`."""
    main("launch", ["train_reg", *sys.argv[1:]])


def finetune_reg() -> NoReturn:
    """`asp_finetune_reg ...` is `asp-launch finetune_reg ...`."""
    main("launch", ["finetune_reg", *sys.argv[1:]])


def linear_probe() -> NoReturn:
    """`asp_linear_probe ...` is `asp-launch linear_probe ...`."""
    main("launch", ["linear_probe", *sys.argv[1:]])


def eval_box() -> NoReturn:
    """`asp-eval-box run|prepare|collect`."""
    main("eval-box", sys.argv[1:])


def eval_box_run() -> NoReturn:
    """`asp_eval_box_run ...` is `asp eval-box run ...`."""
    main("eval-box", ["run", *sys.argv[1:]])


def eval_box_prepare_data() -> NoReturn:
    """`asp_eval_box_prepare_data ...` is `asp eval-box prepare ...`."""
    main("eval-box", ["prepare", *sys.argv[1:]])


def eval_box_collect_results() -> NoReturn:
    """`asp_eval_box_collect_results N` is `asp eval-box collect N`."""
    main("eval-box", ["collect", *sys.argv[1:]])


def test() -> NoReturn:
    """`asp-test N`."""
    main("test", sys.argv[1:])


def test_seg() -> NoReturn:
    """`asp_test_seg N` tests run N, which segments."""
    main("test", ["--kind", "seg", *sys.argv[1:]])


def test_cls() -> NoReturn:
    """`asp_test_cls N` tests run N, which classifies."""
    main("test", ["--kind", "cls", *sys.argv[1:]])


def test_reg() -> NoReturn:
    """`asp_test_reg N` tests run N, which regresses."""
    main("test", ["--kind", "reg", *sys.argv[1:]])
