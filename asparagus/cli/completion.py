"""`asp completion SHELL`: a script for the shell, and the candidates that it asks for whenever TAB is pressed.

The scripts know nothing: they hand over the line up to the cursor and show what comes back. What can come next is found
where everything else finds it: argparse, the search path, the composed config, the schema, the signatures of targets.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from asparagus.cli.data import SUBCOMMANDS
from asparagus.cli.known_keys import keys, removable, sections, tasks, values_of
from asparagus.cli.launch import YAML_OR_PYTHON, parser
from asparagus.cli.main import COMMANDS
from asparagus.cli.runs import SORTS
from asparagus.cli.show import groups_in
from asparagus.compose import Request, compose_config, known_configs, search_folders
from asparagus.compose.tree import Tree
from asparagus.data import CONVERSIONS, MAKERS
from asparagus.data.split import SPLITS
from asparagus.errors import AsparagusError
from asparagus.paths import get_paths, load_environment
from asparagus.record.tracking import STATES
from asparagus.stages import STAGES

EPILOG = """Load it where your shell starts:
  bash   source <(asp completion bash)    in ~/.bashrc (bash 4.4 or newer)
  zsh    source <(asp completion zsh)     in ~/.zshrc, after compinit if you call it
  fish   asp completion fish | source     in ~/.config/fish/config.fish

Completed are commands, options, config names, groups and their options, keys level by level (che<TAB> is checkpoint.,
checkpoint.k<TAB> is checkpoint.keep_best=), and the values of a key where they are few. Your environment is looked at
when TAB is pressed, not when the script is loaded.
"""

# The part of a word behind the last `=` or `:` is all that bash replaces ($2), so it is told where the word began.
BASH = r"""_asp_complete() {
    local asp=asp-completion
    [[ $1 == */* ]] && asp=${1%/*}/asp-completion
    mapfile -t COMPREPLY < <("${asp/#\~\//$HOME/}" --line="${COMP_LINE:0:COMP_POINT}" --word="$2" 2>/dev/null)
    [[ $2 == [\"\']* ]] || COMPREPLY=("${COMPREPLY[@]// /\\ }")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[.=/] ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}
complete -F _asp_complete PROGRAMS
"""
ZSH = r"""_asp_complete() {
    local asp=asp-completion
    [[ $words[1] == */* ]] && asp=${~words[1]:h}/asp-completion
    local -a found=(${(f)"$($asp --line="${words[1,CURRENT-1]} $PREFIX" 2>/dev/null)"})
    compadd -S '' -- ${(M)found:#*[.=/]}
    compadd -- ${found:#*[.=/]}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
compdef _asp_complete PROGRAMS
"""
FISH = r"""function __asp_complete
    set -l line (commandline -cp)
    set -l typed (commandline -opc)
    set -l asp asp-completion
    if string match -q '*/*' -- $typed[1]
        set asp (string replace -r '[^/]*$' asp-completion -- $typed[1])
    end
    command $asp "--line=$line" 2>/dev/null
end
# fish brings completions of another program called asp: once loaded and erased, they stay away
complete -C 'asp ' >/dev/null 2>&1
for program in PROGRAMS
    complete -c $program -e
    complete -c $program -f -a '(__asp_complete)'
end
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

TESTS = ("test_seg", "test_cls", "test_reg")
"""`asp_test_cls` is `asp test`."""
BOXES = {"eval_box_run": "run", "eval_box_prepare_data": "prepare", "eval_box_collect_results": "collect"}
"""`asp_eval_box_run` is `asp eval-box run`."""
DATA = {"process": "convert", "update_paths": "update-paths", "register_dataset": "register"}
"""`asp_process` is `asp data convert`."""
OTHERS = ("asp_split", "asp_getid", *(f"asp_{name}" for name in (*STAGES, *TESTS, *BOXES, *DATA)))
PROGRAMS = ("asp", *(f"asp-{name}" for name in COMMANDS), *OTHERS)
"""What is completed: everything that is installed."""

HELP = ("-h", "--help")
OPTIONS: dict[str, tuple[str, ...]] = {
    "": (*HELP, "--version"),
    "runs": (
        *(*HELP, "--stage", "--task", "--state", "--metric", "--tag"),
        *("--sort", "--reverse", "--columns", "--limit", "--all", "--json", "--jobs"),
    ),
    "logs": (*HELP, "--follow", "-f", "--rank", "--attempt", "--address"),
    "stop": (*HELP, "--no-wait", "--address", "--ray"),
    "lineage": (*HELP, "--json", "--html", "--all"),
    "show": (*HELP, "--timing", "--json"),
    "diff": (*HELP, "--json"),
    "model": (*HELP, "--name", "--alias", "--checkpoint", "--json"),
    "test": (*HELP, "--checkpoint"),
    "eval-box": (*HELP, "--dry-run", "--json"),
    "gc": (*HELP, "--task", "--stage", "--keep-best", "--quota", "--json", "--apply", "--pin", "--unpin"),
    "rm": (*HELP, "--restore", "--empty", "--json"),
    "ui": (*HELP, "--port"),
    "doctor": (*HELP, "--fix", "--json"),
    "split": (*HELP, "--task", "-t", "--fn", "--vals"),
    "data": (
        *(*HELP, "--cases", "--num_workers", "--ray", "--save_as_tensor", "--save_as_nifti", "--json", "--all"),
        *("--task", "-t", "--kind", "--folder", "--extension", "--train", "--val", "--test", "--n_folds", "--seed"),
        *("--n_classes", "--n_modalities", "--dimensions", "--subjects", "--dataset", "-d", "--dry-run", "--use-s3"),
        *("--classes", "--validate-ratio", "--datasets", "--crops", "--search-path", "--raw-name", "--crop-name"),
        *("--csv-path", "--force-all-classes", "--force-all-classes-train", "--force-all-classes-validate"),
        *("--scale", "-s"),
    ),
}
"""Options of the commands that do not train; a command that is not listed has its help alone."""

ANY_FILE = ("",)
NO_FILE = ()
FILE = "file:"
"""How `init_from` names a path."""

END = "\0"
"""Marks the cursor: no line holds it."""


def completion(arguments: Sequence[str]) -> int:
    """Print the script of a shell; or, as the scripts ask for it, what can come next on a line."""
    made = argparse.ArgumentParser(
        "asp completion",
        description="Print the completion script of a shell.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("shell", nargs="?", choices=SCRIPTS, help="whose script to print")
    made.add_argument("--line", help=argparse.SUPPRESS)
    made.add_argument("--word", help=argparse.SUPPRESS)
    options = made.parse_args(arguments)
    if options.line is not None:
        for word in _without_a_sound(options.line, options.word):
            print(word)
        return 0
    if options.shell is None:
        made.error(f"which shell? Choose from {', '.join(SCRIPTS)}")
    print(SCRIPTS[options.shell].replace("PROGRAMS", " ".join(PROGRAMS)), end="")
    return 0


def candidates(line: str, word: str | None = None) -> list[str]:
    """Return what the last word of a line can become.

    Args:
        line: The command line up to the cursor, quoted as typed.
        word: The part of its last word that the shell is going to replace; None for all of it.
    """
    words, typed = split(line)
    program = next((place for place, name in enumerate(words) if Path(name).name in PROGRAMS), None)
    if program is None:
        return []
    found = sorted({found for found in _found(*_command(words[program:]), typed) if found.startswith(typed)})
    replaced = typed if word is None else split(f"asp {word}")[1]
    kept = len(typed) - len(replaced) if typed.endswith(replaced) else 0
    return [whole[kept:] for whole in found]


def split(line: str) -> tuple[list[str], str]:
    """Return the finished words of a line and the one at its end, empty after a space; quotes may still be open."""
    for closing in ("", "'", '"'):
        with contextlib.suppress(ValueError):
            *words, last = shlex.split(f"{line}{END}{closing}")
            return words, last.removesuffix(END)
    return [], ""


def _without_a_sound(line: str, word: str | None) -> list[str]:
    """Return the candidates; none where finding them fails: the prompt is no place for errors."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            load_environment()
            return candidates(line, word)
        except (Exception, SystemExit):  # noqa: BLE001 - argparse exits; whatever it is, launching says it better
            return []


def _command(words: list[str]) -> tuple[str, list[str]]:
    """Return the command's name and its finished words; `asp_train_seg` is `launch` with its CONFIG given."""
    program, *rest = Path(words[0]).name, *words[1:]
    if program == "asp":
        return (rest[0], rest[1:]) if rest else ("", [])
    name = program[len("asp-") :]
    if name in TESTS:
        return "test", rest
    if name in BOXES:
        return "eval-box", [BOXES[name], *rest]
    if name in DATA:
        return "data", [DATA[name], *rest]
    return ("launch", [name, *rest]) if name in STAGES else (name, rest)


def _found(name: str, words: list[str], typed: str) -> Iterable[str]:
    """Return every candidate of a command, fitting or not."""
    trains = name in ("launch", "doctor")
    options = _launch_options() if name == "launch" else dict.fromkeys(OPTIONS.get(name, HELP), False)
    if typed.startswith("-"):
        option, equals, _ = typed.partition("=")
        return [f"{option}={value}" for value in _of_option(option, words, typed)] if equals else options
    if words and words[-1].startswith("-") and (found := list(_of_option(words[-1], words[:-1], typed))):
        return found
    if words and options.get(words[-1]):
        return ()
    return _of_launch(words, typed) if trains else _plain_words(name, words, typed)


def _launch_options() -> dict[str, bool]:
    """Return the options of a launch, and which of them need a value."""
    actions = parser()._actions  # noqa: SLF001 - argparse has no other way to ask
    return {option: action.nargs is None for action in actions for option in action.option_strings}


def _of_option(option: str, words: list[str], typed: str) -> Iterable[str]:
    """Return the values of an option of whichever command: they mean the same in all."""
    typed = typed.partition("=")[2] if typed.startswith("-") else typed
    table: dict[str, Callable[[], Iterable[str]]] = {
        "--stage": lambda: STAGES,
        "--task": tasks,
        "--state": lambda: STATES,
        "--sort": lambda: SORTS,
        "--html": lambda: _files(typed, ANY_FILE),
        "--fn": lambda: SPLITS,
        "--cfg": lambda: ("job", "hydra", "all"),
        "--config-name": lambda: _configs(_request(words), typed),
        "--config-dir": lambda: _files(typed, NO_FILE),
        "--info": lambda: removable(typed, _tree(_request(words))),
        "--package": lambda: sections(_tree(_request(words))),
    }
    short = {"-t": "--task", "-c": "--cfg", "-cn": "--config-name", "-cd": "--config-dir", "-p": "--package"}
    return table.get(short.get(option, option), tuple)()


def _plain_words(name: str, words: list[str], typed: str) -> Iterable[str]:
    """Return what can stand at this place of a command that does not train."""
    places: dict[str, list[Iterable[str]]] = {
        "": [COMMANDS],
        "completion": [SCRIPTS],
        "data": [SUBCOMMANDS, _of_data(words)],
        "model": [("promote", "remove", "list", "export", "import")],
        "eval-box": [tuple(BOXES.values())],
        "getid": [_files(typed, ANY_FILE)],
    }
    known = places.get(name, [])
    return known[len(words)] if len(words) < len(known) else ()


def _of_data(words: list[str]) -> Iterable[str]:
    """Return what `asp data COMMAND` may be said of: what can be made, conversions, or the tasks that there are."""
    command = words[0] if words else ""
    if command == "convert":
        return sorted(path.stem for path in (Path(str(get_paths().configs)) / CONVERSIONS).glob("*.py"))
    return {"make": MAKERS, "register": (), "new-conversion": (), "datasplit": ()}.get(command) or tasks()


def _of_launch(words: list[str], typed: str) -> Iterable[str]:
    request = _request(words)
    if not request.config and "=" not in typed:
        return _configs(request, typed)
    return _overrides(request, typed)


def _request(words: list[str]) -> Request:
    """Return what has been typed so far as a request; its config is empty where it is still to come."""
    options, _ = parser().parse_known_intermixed_args(words)
    plain = list(options.words)
    first = bool(plain) and (Path(plain[0]).is_file() or not ("=" in plain[0] or plain[0].startswith(("+", "~"))))
    config = plain.pop(0) if first else ""
    return Request(options.config_name or config, tuple(plain), tuple(options.config_dir))


def _folders(request: Request) -> list[Path]:
    """Return the search path of a request; a config that is a file brings its own folder."""
    file = Path(request.config).expanduser()
    beside = [file.parent] if file.suffix in YAML_OR_PYTHON else []
    return [*beside, *(folder.expanduser() for folder in request.config_dirs), *search_folders(request.config)]


def _configs(request: Request, typed: str) -> list[str]:
    return [*known_configs(_folders(request)), *_files(typed, YAML_OR_PYTHON)]


def _files(typed: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Yield the files and folders that a path may go on to; folders once something is typed, for there are many."""
    start = typed[: typed.rfind("/") + 1]
    hidden = typed[len(start) :].startswith(".")
    folder = Path(start or ".").expanduser()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(".") and not hidden:
            continue
        if path.is_dir() and (typed or endings != YAML_OR_PYTHON):
            yield f"{start}{path.name}/"
        elif path.name.endswith(endings):
            yield f"{start}{path.name}"


def _overrides(request: Request, typed: str) -> Iterable[str]:
    """Return the overrides that a word may become: groups and their options, keys and their values."""
    body = typed.lstrip("+~")
    sign = typed.removesuffix(body)
    key, equals, value = body.partition("=")
    groups = groups_in(_folders(request))
    if equals:
        group = groups.get(key.lstrip("/").partition("@")[0])
        values = group or values_of(key, _tree(request)) or _paths(value)
        return [f"{sign}{key}={value}" for value in values]
    tree = _tree(request)
    if sign == "~":
        return [f"~{name}" for name in (*groups, *removable(body, tree))]
    return [f"{sign}{name}" for name in (*(f"{group}=" for group in groups), *keys(body, tree))]


def _tree(request: Request) -> Tree:
    """Return the composed config: without the overrides where they are wrong, empty where it is wrong itself.

    A config in Python is not run because somebody presses TAB: its keys are those of the stage that it starts from.
    """
    from omegaconf import OmegaConf

    from asparagus.compose.python_config import DEFAULT_STAGE

    if request.config.endswith(".py"):
        request = dataclasses.replace(request, config=DEFAULT_STAGE)
    for overrides in (request.overrides, ()):
        with contextlib.suppress(AsparagusError):
            tree = OmegaConf.to_container(compose_config(dataclasses.replace(request, overrides=overrides)))
            return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else {}
    return {}


def _paths(value: str) -> Iterable[str]:
    """Return what a value that looks like a path may go on to."""
    scheme = FILE if value.startswith(FILE) else ""
    path = value.removeprefix(scheme)
    return [f"{scheme}{file}" for file in _files(path, ANY_FILE)] if "/" in path else ()
