"""Hydra's errors in our words: which key or file is wrong, where it stands, and what to write instead."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from asparagus.errors import did_you_mean, one_of

if TYPE_CHECKING:
    from asparagus.compose.composer import Source

Meaning = Callable[[re.Match[str], "Source"], str]


def explain(error: Exception, source: Source) -> str:
    """Say what an error of Hydra's means; the cause carries the useful half."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        typed = str(error.override).lstrip("+")
        return f"{typed}: cannot be read as an override. Write key=value; quote odd values: \"key='...'\"."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _not_found(str(error.missing_cfg_file), error.options, source, str(error))
    if isinstance(error, (yaml.YAMLError, UnicodeDecodeError)):
        return _unreadable(error, source)
    text = f"{error} {error.__cause__ or ''}".strip()
    for pattern, meaning in MEANINGS:
        if (found := pattern.search(text)) and (meant := meaning(found, source)):
            return meant
    return f"{source.name}: {' '.join(text.split()).replace('++', '')}"


def _not_there(found: re.Match[str], source: Source) -> str:
    key = found[1]
    return f"~{key}: there is no such key in {source.name}, so it cannot be taken out. --cfg job shows them."


def _there(found: re.Match[str], source: Source) -> str:  # noqa: ARG001 - one of the meanings
    return f"{found[1]}: is there already, and + adds what is not. Write {found[1]}=..., without the plus."


def _no_choice(found: re.Match[str], source: Source) -> str:
    """Say why a line `override /group: option` overrides nothing."""
    name = found[1]
    group, _, package = found[2].partition("@")
    groups = {path.name for folder in source.folders for path in folder.iterdir() if path.is_dir()}
    if group in groups and package.startswith(f"{name.rpartition('/')[0].replace('/', '.')}."):
        below = package.rpartition(".")[0]
        text = f"{name}: its keys go below {below!r}. Begin it with the line `# @package _global_`."
        return text + _line(name, source, "")
    if group not in groups:
        return one_of(f"{name}: override", group, groups) + _line(name, source, rf"override\s+/?{re.escape(group)}\b")
    return (
        f"{name}: says `override`, and there is nothing below it to override. Choose it on top of a stage: "
        f"asp-launch train_cls experiment={name.removeprefix('experiment/')}; or name the stage in its defaults list "
        f"(- /train_cls)."
    )


def _no_mapping(found: re.Match[str], source: Source) -> str:  # noqa: ARG001 - one of the meanings
    text = "an experiment file has to be a mapping of keys to values, and this one is none."
    return f"{source.name}: {text}{_line(source.name, source, '')}"


def _no_list(found: re.Match[str], source: Source) -> str:
    text = f"defaults is a {found[2]}, and it is a list: defaults: [/train_cls, _self_]."
    return f"{found[1]}: {text}{_line(found[1], source, '^defaults')}"


def _twice(found: re.Match[str], source: Source) -> str:
    group = found[1]
    text = f"{group}: is chosen below already. Write `- override /{group}: {found[2]}` after the other entries."
    names = [source.name, *(str(word).partition("=")[2] for word in source.overrides)]
    return text + next(filter(None, (_line(name, source, rf"^\s*-\s*/?{group}\b") for name in names)), "")


def _too_early(found: re.Match[str], source: Source) -> str:
    name, group = found[1], found[2].strip()
    text = f"{name}: `override {group}` stands above what it overrides. Write such lines at the end, before _self_."
    return text + _line(name, source, rf"override\s+/?{re.escape(group.partition(':')[0].strip())}\b")


def _line(name: str, source: Source, pattern: str) -> str:
    """Return where a config has a line like this, as ` [file:line]`; nothing if nowhere."""
    from asparagus.compose.origins import shown

    file = next((file for folder in source.folders if (file := folder / f"{name}.yaml").is_file()), None)
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file else []
    number = next((number for number, line in enumerate(lines, start=1) if re.search(pattern, line)), None)
    return f" [{shown(file)}:{number}]" if file and number else ""


def _at_key(found: re.Match[str], source: Source) -> str:  # noqa: ARG001 - one of the meanings
    return f"{found[2]}: {' '.join(found[1].split())}"


def _typed_clash(found: re.Match[str], source: Source) -> str:  # noqa: ARG001 - one of the meanings
    return f"{found[1]}: {found[2]} cannot take the place of what is there: one is a list, the other a section."


def _clash(found: re.Match[str], source: Source) -> str:  # noqa: ARG001 - one of the meanings
    """Say which key is a list in one file and a section in another."""
    from asparagus.compose.origins import written_in

    first: dict[str, str] = {}
    names = {"[...]": "a list", "{...}": "a section", "{}": "a section"}
    for setting in written_in(source):
        for depth in range(1, setting.key.count(".") + 1):
            first.setdefault(".".join(setting.key.split(".")[:depth]), "{...}")
        before = first.setdefault(setting.key, setting.value)
        if len({names.get(before), names.get(setting.value)} - {None}) > 1:
            return f"{setting.key}: {names[setting.value]} given, but it is {names[before]}. [{setting.where}]"
    return ""


MEANINGS: tuple[tuple[re.Pattern[str], Meaning], ...] = (
    (re.compile(r"Could not delete from config.*?'([^']*)'"), _not_there),
    (re.compile(r"An item is already at '([^']+)'"), _there),
    (re.compile(r"In '([^']+)': Could not override '([^']+)'"), _no_choice),
    (re.compile(r"Invalid defaults list in '([^']+)', defaults must be a list \(got (\w+)\)"), _no_list),
    (re.compile(r"Multiple values for (\S+)\. To override a value use 'override [^:]+: ([^']+)'"), _twice),
    (re.compile(r"In ([^:']+): Override '([^']+)' is defined before"), _too_early),
    (re.compile(r"Error merging override \+*([^=\s]+)=(.*?)\s+Cannot merge"), _typed_clash),
    (re.compile(r"Cannot merge DictConfig with ListConfig|Cannot merge ListConfig with DictConfig"), _clash),
    (re.compile(r"Invalid loaded object type|must be a DictConfig"), _no_mapping),
    (re.compile(r"^(?:[^\n]*raised while composing config:)?(.*?)\s*full_key: (\S+)", re.DOTALL), _at_key),
)
"""What Hydra and OmegaConf say, and what it means; the first that fits."""


def _unreadable(error: yaml.YAMLError | UnicodeDecodeError, source: Source) -> str:
    """Say which file is no YAML, and on which line."""
    from asparagus.compose.origins import shown

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        name, line = shown(Path(error.problem_mark.name)), error.problem_mark.line + 1
        why = " ".join(filter(None, (error.context, error.problem)))
        return f"{name}: is no YAML: {why}{_colons(Path(error.problem_mark.name), line)} [{name}:{line}]"
    for file in (file for folder in source.folders for file in files_in(folder)):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError as found:
            line = file.read_bytes()[: found.start].count(b"\n") + 1
            return f"{shown(file)}: is no text in UTF-8. Save it as such. [{shown(file)}:{line}]"
    return f"{source.name}: {' '.join(str(error).split())}"


def _colons(file: Path, line: int) -> str:
    """Show a line with a colon too many, `min_lr: 1e-9:`; nothing for any other."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    text = lines[line - 1].partition(" #")[0].strip() if 0 < line <= len(lines) else ""
    key, colon, value = text.partition(": ")
    if not colon or ":" not in value or value.startswith(("'", '"')):
        return ""
    return f", in `{text}`. Take out the colon after {key}'s value, or quote the value."


def _not_found(missing: str, options: Any, source: Source, text: str) -> str:
    """Say that a file of the defaults list, or the option of a group, is not there."""
    place = _place(missing, source, text)
    if posixpath.normpath(missing).startswith(".."):
        plain = missing.rpartition("../")[2]
        outside = f"{source.name}: {missing!r} leads out of the folder of experiment files."
        return f"{outside} Write {plain!r} at its top.{place}"
    group, _, option = missing.rpartition("/")
    if options and ".." not in group:  # Hydra's are those of the group, and the option may lie deeper
        beside = {file.stem for top in source.folders for file in (top / group).glob("*.yaml")}
        return one_of(group, option, beside or options) + place
    names = {str(file.relative_to(top).with_suffix("")) for top in source.folders for file in files_in(top)}
    near = did_you_mean(missing, names)
    return f"{source.name}: its defaults list names {missing!r}, which is on no search path. {near}".rstrip() + place


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the experiment files of a folder, three levels deep: an own file may lie in a home directory."""
    for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml"):
        yield from (file for file in folder.glob(pattern) if file.is_file())


def _place(missing: str, source: Source, text: str) -> str:
    """Return where a defaults list names what is missing, as ` [file:line]`; nothing if it was typed."""
    from asparagus.compose.origins import shown

    option = re.escape(missing.rpartition("/")[2])
    if any(re.search(rf"[=/]'?{option}'?$", word) for word in source.overrides):
        return ""
    configs = [*re.findall(r"In '([^']+)'", text), source.name]
    for file in (folder / f"{config}.yaml" for config in configs for folder in source.folders):
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, start=1):
            if re.search(rf"(^|[\s/:\[,]){option}([\s,\]@]|$)", line.partition("#")[0]):
                return f" [{shown(file)}:{number}]"
    return ""
