"""`asp model promote N`, `list`, `export N`, `import FILE`: checkpoints as named models, and as files that travel."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.cli.show_run import folder_of

if TYPE_CHECKING:
    from asparagus.record.registry import Version
    from asparagus.record.store import Store

DIGITS = 12
"""So many digits tell two digests apart."""


def model(arguments: Sequence[str]) -> int:
    """Run `asp model`."""
    parser = argparse.ArgumentParser(
        "asp model",
        description="Checkpoints as named models (init_from=model:<name>@<alias> starts from one) and as archives.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    promote = commands.add_parser("promote", help="make a checkpoint a version of a model")
    promote.add_argument("run_id", type=int, metavar="N", help="the run that wrote it")
    promote.add_argument("--name", required=True, help="the model's name, e.g. brain-mae")
    promote.add_argument("--alias", help="let this alias point to it, e.g. best: away from where it points now")
    promote.add_argument(
        "--checkpoint", metavar="WHICH", help="best, last, or its name (default: best; last where nothing was measured)"
    )
    taking = commands.add_parser(
        "remove", help="take a version back; the checkpoint itself stays until nobody needs it"
    )
    taking.add_argument("version", metavar="NAME/VERSION", help="as asp model list shows them: brain-mae/3")
    listing = commands.add_parser("list", help="list models, their versions and aliases")
    exporting, importing = _archive_commands(commands)
    for command in (promote, taking, listing, exporting, importing):
        command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    known = {"promote": _promote, "remove": _remove, "list": _list, "export": _export, "import": _import}
    return known[options.command](options)


def _archive_commands(commands: Any) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    exporting = commands.add_parser("export", help="write a checkpoint as one file: config, weights, ancestry")
    exporting.add_argument("run_id", type=int, metavar="N", help="the run that wrote it")
    exporting.add_argument(
        "file", nargs="?", metavar="FILE", help="where to; nothing is overwritten (default: <stage>-<N>.asparagus here)"
    )
    exporting.add_argument("--checkpoint", metavar="WHICH", help="as for promote")
    exporting.add_argument("--mlflow", action="store_true", help="FILE becomes a folder that mlflow models serve takes")
    importing = commands.add_parser("import", help="unpack an archive, so that init_from can start from its weights")
    importing.add_argument("file", metavar="FILE", help="what asp model export or save_to wrote")
    return exporting, importing


def _export(options: argparse.Namespace) -> int:
    folder = folder_of(options.run_id)  # what is wrong with the request is said before torch is imported
    from asparagus.api import prepare

    prepare()
    from asparagus.archive import SUFFIX, export_to_mlflow, lines, must_be_free, save_run

    ending = "-mlflow" if options.mlflow else SUFFIX
    place = must_be_free(Path(options.file or f"{folder.parent.name}-{options.run_id}{ending}"))
    index = (export_to_mlflow if options.mlflow else save_run)(folder, place, options.checkpoint)
    if options.json:
        print(json.dumps({"file": str(place), "digest": index.digest, "lineage": index.lineage}))
        return 0
    use = f"Serve it: mlflow models serve -m {place} --env-manager local" if options.mlflow else ""
    print("\n".join([f"{place} · sha256 {index.digest[:DIGITS]}", *lines(index.lineage)]))
    print(use or f"Elsewhere: asp model import {place.name}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from asparagus.archive import import_archive, lines
    from asparagus.paths import get_paths, load_environment

    load_environment()
    imported = import_archive(Path(options.file).expanduser(), get_paths().models)
    reference = f"file:{imported.weights}"
    if options.json:
        told = {"folder": str(imported.folder), "digest": imported.index.digest, "lineage": imported.index.lineage}
        print(json.dumps({**told, "init_from": reference}))
        return 0
    print("\n".join([str(imported.weights), *lines(imported.index.lineage), f"Start from it: init_from={reference}"]))
    return 0


def _remove(options: argparse.Namespace) -> int:
    from asparagus.errors import RecordError

    name, _, version = options.version.rpartition("/")
    if not name or not version.isdigit():
        raise RecordError(
            f"{options.version}: is no version of a model. Give NAME/VERSION, as asp model list shows them."
        )
    from asparagus.record.registry import remove

    checkpoint = remove(_store(), name, version)
    if options.json:
        print(json.dumps({"name": name, "version": version, "checkpoint": str(checkpoint)}))
    else:
        print(f"{name}/{version} is taken back; {checkpoint} is not held for it any more")
    return 0


def _promote(options: argparse.Namespace) -> int:
    folder = folder_of(options.run_id)  # what is wrong with the request is said before MLflow is imported
    from asparagus.record.model_names import check_alias, check_name

    check_name(options.name)
    if options.alias is not None:
        check_alias(options.alias)
    from asparagus.record.registry import promote
    from asparagus.record.run_folder import RunFolder

    promotion = promote(
        _store(),
        RunFolder(folder, folder.parent.name),
        options.run_id,
        name=options.name,
        alias=options.alias,
        which=options.checkpoint,
    )
    reference = promotion.label if promotion.alias else f"{promotion.name}/{promotion.version}"
    if options.json:
        print(json.dumps({**promotion.to_dict(), "run_id": options.run_id, "init_from": f"model:{reference}"}))
        return 0
    print(
        f"{promotion.label}: version {promotion.version} is run {options.run_id}, {promotion.checkpoint}\n"
        f"Start from it: init_from=model:{reference}"
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    from asparagus.record.registry import versions

    found = versions(_store())
    if options.json:
        print(json.dumps([version.to_dict() for version in found]))
        return 0
    if not found:
        print("No model is registered yet: asp model promote N --name NAME --alias best")
        return 0
    _print_table(found)
    return 0


def _store() -> Store:
    """Open the store of the runs; looking must not make one."""
    from asparagus.cli.runs import open_store, tracking_uri
    from asparagus.record.tracking import SQLITE

    uri = tracking_uri()
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        from asparagus.errors import RecordError

        raise RecordError(f"{uri}: nothing has been recorded there yet. Train something: asp-launch experiment/digits.")
    return open_store(uri)


def _print_table(found: Sequence[Version]) -> None:
    from rich import box
    from rich.table import Table

    from asparagus.cli.runs import console
    from asparagus.record.run_page import moment

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("model", "version", "alias", "run", "checkpoint", "sha256", "promoted"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("model", "checkpoint"))
    for one in found:
        name = Path(one.checkpoint).name if one.checkpoint else "not a checkpoint of ours"
        there = "" if Path(one.checkpoint).is_dir() else " (not there now)"
        aliases, run = ", ".join(one.aliases) or "-", "-" if one.run_id is None else str(one.run_id)
        table.add_row(one.name, one.version, aliases, run, name + there, one.digest[:DIGITS], moment(one.created))
    console().print(table)
