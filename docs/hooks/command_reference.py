"""Every command with its options, as its own parser knows them: what stands on the site is what `--help` says."""

from __future__ import annotations

import argparse
import importlib
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from markdown_table import plain, table

from asparagus.cli import main
from asparagus.cli.data import SUBCOMMANDS

Command = Callable[[Sequence[str]], int]

ROOT = Path(__file__).parents[2]
WIDTH = 100
"""Columns of a usage line."""
DEPTH = 2
"""Of a command's heading; one more for what stands below it."""
LAUNCH, USAGE = "launch", "usage: "
PARSING = ("parse_args", "parse_intermixed_args", "parse_known_args")


class Stopped(Exception):  # noqa: N818 - it is no error
    """A command got as far as its parser."""

    def __init__(self, parser: argparse.ArgumentParser, found: object = None) -> None:
        super().__init__(parser.prog)
        self.parser, self.found = parser, found


def commands() -> Iterator[tuple[str, Command]]:
    """Yield what is typed (`asp runs`, `asp data make`) and the function behind it, in the order of `asp --help`."""
    for name, (place, _) in main.COMMANDS.items():
        yield ("asp-launch" if name == LAUNCH else f"asp {name}"), _function(place)
        if name == "data":
            yield from ((f"asp data {word}", _function(place)) for word, (place, _) in SUBCOMMANDS.items())


def parser_of(command: Command) -> argparse.ArgumentParser:
    """Return the parser that a command makes."""
    with _stopping(lambda parser, _, words: Stopped(parser, words)):
        try:
            command(["--help"])  # some say what is missing before they parse
        except Stopped as stopped:
            return stopped.parser
    raise AssertionError("it has no parser")


def parsed(command: Command, words: Sequence[str]) -> object:
    """Parse a line as the command does, and go no further.

    Raises:
        SystemExit: It is no such line; argparse has said why.
    """
    with _stopping(lambda parser, parse, given: Stopped(parser, parse(parser, given))):
        try:
            command(words)
        except Stopped as stopped:
            return stopped.found
    raise AssertionError("it has no parser")


def page() -> str:
    """Return the reference as Markdown."""
    parsers = [(name, parser_of(command)) for name, command in commands()]
    sections = [line for name, parser in parsers for line in _section(name, parser, DEPTH + name.count(" data "))]
    return "\n\n".join([*sections, "## Other names", table(["installed as", "what it is"], _other_names())])


def _function(place: str) -> Command:
    module, _, name = place.partition(":")
    found: Command = getattr(importlib.import_module(module), name)
    return found


@contextmanager
def _stopping(stop: Callable[..., Stopped]) -> Iterator[None]:
    """Have every parser raise what `stop` makes of it; commands make theirs where they need them."""
    before = {name: getattr(argparse.ArgumentParser, name) for name in PARSING}

    def asked(parse: Callable[..., object], parser: argparse.ArgumentParser, words: Sequence[str]) -> object:
        _restore(before)  # to parse, one of them calls the next
        raise stop(parser, parse, words)

    for name, parse in before.items():
        setattr(argparse.ArgumentParser, name, lambda parser, words, parse=parse: asked(parse, parser, words))
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict[str, Callable[..., object]]) -> None:
    for name, parse in before.items():
        setattr(argparse.ArgumentParser, name, parse)


def _section(name: str, parser: argparse.ArgumentParser, depth: int) -> Iterator[str]:
    yield f"{'#' * depth} {name}"
    if parser.description:
        yield plain(parser.description)
    yield f"```text\n{_usage(parser)}\n```"
    known = [action for action in parser._actions if _is_shown(action)]  # noqa: SLF001 - argparse has no other way
    if known:
        yield table(["", "what it does"], [(_written(action), _help(parser, action)) for action in known])
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```"
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            about = {choice.dest: choice.help for choice in action._choices_actions}  # noqa: SLF001
            for word, below in action.choices.items():
                below.description = below.description or about[word]
                yield from _section(f"{name} {word}", below, depth + 1)


def _usage(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = partial(parser.formatter_class, width=WIDTH)  # type: ignore[assignment]
    return parser.format_usage().removeprefix(USAGE).replace(f"\n{' ' * len(USAGE)}", "\n").strip()


def _is_shown(action: argparse.Action) -> bool:
    is_help = isinstance(action, argparse._HelpAction)  # noqa: SLF001
    return not is_help and action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001


def _written(action: argparse.Action) -> str:
    """Return how an option is typed: `--cfg {job,hydra,all}`, `-c`."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
    metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
    value = metavar or choices or (action.dest.upper() if action.option_strings else action.dest)
    if not action.option_strings:
        return f"`{value}`"
    takes = "" if action.nargs == 0 else f" [{value}]" if action.nargs == "?" else f" {value}"
    names = sorted(action.option_strings, key=len, reverse=True)
    return ", ".join([f"`{names[0]}{takes}`", *(f"`{name}`" for name in names[1:])])


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return plain(text) + (" (needed)" if action.option_strings and action.required else "")


def _other_names() -> list[tuple[str, str]]:
    """Return the commands that are installed under a name of their own, and what their functions say that they are."""
    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    doc = {name: getattr(main, place.partition(":")[2]).__doc__.partition("\n")[0] for name, place in scripts.items()}
    return [(f"`{name}`", plain(text)) for name, text in doc.items() if name.startswith("asp_")]
