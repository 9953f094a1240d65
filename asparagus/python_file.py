"""Training configs written in Python: executed where the user names one, and only there.

This is no sandbox. `FORCE_SAFE_CONFIG=1` refuses a file that imports os, subprocess or sys, or calls eval, exec,
compile or `__import__`; without it these are reported. Neither makes a stranger's file safe to run.
"""

from __future__ import annotations

import ast
import hashlib
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asparagus.errors import ConfigError

FORCE = "FORCE_SAFE_CONFIG"
IMPORTS = frozenset({"os", "subprocess", "sys"})
CALLS = frozenset({"eval", "exec", "compile", "__import__"})
NAME = "__asparagus_config__"
"""`__name__` while a file is read: its `if __name__ == "__main__":` does not run."""

MODEL_OF = "asparagus.python_file.model_of"
"""The `_target_` of a network that a training config builds."""

_read: dict[tuple[str, str], dict[str, Any]] = {}


def execute(file: Path) -> dict[str, Any]:
    """Run a Python file in its own folder, once per content, and return its names.

    Raises:
        ConfigError: It cannot be read or run, or `FORCE_SAFE_CONFIG` refuses it.
    """
    file = file.absolute()
    key = (str(file), digest_of(file))
    _must_be_safe(file)
    if key not in _read:
        _read[key] = _run(file)
    return _read[key]


def suspicious(file: Path) -> list[str]:
    """Return what a file does that a config has no need of, each with its line."""
    return [f"{file.name}:{line} {what}" for line, what in _walk(_parsed(file))]


def lines_of(file: Path) -> dict[str, int]:
    """Return the line on which each name of a file is assigned last."""
    found: dict[str, int] = {}
    for node in _statements(_parsed(file)):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
        found |= {name.id: node.lineno for name in names if isinstance(name, ast.Name)}
    return found


def changed(file: str, digest: str) -> str:
    """Say that a training config is not what it was when a run was planned; nothing if it is.

    Raises:
        ConfigError: It is not there.
    """
    if digest_of(Path(file)) == digest:
        return ""
    return f"{file}: has changed since this run was planned, and its model may have too. Launch it anew."


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        ConfigError: There is no such file.
    """
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}).") from error


def model_of(file: str, digest: str, name: str = "model", home: str | None = None) -> Any:
    """Build the network of a training config; what a run's own config names as its `_target_`.

    The file is run once more, so that the first weights follow the seed of now.

    Args:
        file: Absolute path of the config.
        digest: Its SHA-256 when the run was planned.
        name: Of the network in it.
        home: The folder that the file is run in, where it is a copy; its neighbours are there.

    Raises:
        ConfigError: The file is not there, has changed since, or has no such name.
    """
    import torch

    if problem := changed(file, digest):
        raise ConfigError(problem)
    _must_be_safe(Path(file))
    with torch.device("cpu"):
        return _run(Path(file), Path(home) if home and Path(home).is_dir() else None)[name]


def _must_be_safe(file: Path) -> None:
    if os.environ.get(FORCE, "").lower() not in ("", "0", "false") and (unsafe := suspicious(file)):
        raise ConfigError(*(f"{FORCE} is set, and {line}. Take it out, or unset {FORCE}." for line in unsafe))


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a module in order, those inside conditions and loops too."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            if isinstance(part, ast.stmt):
                yield part
            if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _statements(part)


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ConfigError(f"{file}{f':{line}' if line else ''}: is no Python: {error.args[0]}.") from error


def _walk(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, f"imports {name}") for name in names if name.split(".")[0] in IMPORTS)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield node.lineno, f"calls {node.func.id}"


def _run(file: Path, home: Path | None = None) -> dict[str, Any]:
    _parsed(file)
    with _in_folder(home or file.parent):
        try:
            return runpy.run_path(str(file), run_name=NAME)
        except (Exception, SystemExit) as error:
            line = _line(error, file)
            raise ConfigError(f"{file}{line}: failed to execute: {type(error).__name__}: {error}") from error


def _line(error: BaseException, file: Path) -> str:
    trace, found = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            found = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return found


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Be where the config lies: its relative paths and its neighbours are meant from there."""
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
