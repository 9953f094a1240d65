"""`asp lineage N`: what a run came from and what came from it, as a tree, as JSON, as a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.errors import RecordError

if TYPE_CHECKING:
    from asparagus.record.query import Lineage

MANY = 50
"""So many descendants are drawn unless all are asked for."""
BEGINNING = 1000
"""So many bytes tell what a file is."""


def lineage(arguments: Sequence[str]) -> int:
    """Run `asp lineage N`."""
    parser = argparse.ArgumentParser("asp lineage", description="What a run came from, and what came from it.")
    parser.add_argument("run_id", type=int, metavar="N", help="the run's number")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all descendants")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all of them, which needs no other")
    parser.add_argument("--all", action="store_true", help=f"draw all descendants, not only the nearest {MANY}")
    options = parser.parse_args(arguments)
    if options.html is not None:
        _must_be_free(options.html)

    is_whole = options.all or options.json or options.html is not None
    uri, found = _find(options.run_id, None if is_whole else MANY)
    if options.html is not None:
        _write(options.html, found, uri)
    if options.json:
        print(json.dumps(found.to_dict()))
    elif options.html is None:
        _draw(found)
    return 0


def _find(run_id: int, limit: int | None) -> tuple[str, Lineage]:
    from asparagus.cli.runs import tracking_uri
    from asparagus.paths import get_paths
    from asparagus.record.query import lineage as find
    from asparagus.record.reader import open_reader

    uri, models = tracking_uri(), get_paths().models
    here = None if "://" in models else Path(models)
    return uri, find(open_reader(uri), run_id, models=here, limit=limit)


def _must_be_free(file: Path) -> None:
    """Refuse to write over anything but an older page."""
    if not file.parent.is_dir():
        raise RecordError(f"--html: {file}: there is no folder {file.parent}. Make it first.")
    if file.exists() and not _is_page(file):
        raise RecordError(f"--html: {file} is there already, and no page of a lineage. Choose another name.")


def _is_page(file: Path) -> bool:
    from asparagus.record.lineage_page import MARK

    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return MARK.encode() in opened.read(BEGINNING)


def _write(file: Path, found: Lineage, uri: str) -> None:
    from asparagus.record.lineage_page import page

    try:
        file.write_text(page(found, tracking_uri=uri), encoding="utf-8")
    except OSError as error:
        raise RecordError(f"--html: {file} cannot be written ({error.strerror}).") from error
    print(file.absolute(), file=sys.stderr)


def _draw(found: Lineage) -> None:
    from rich.text import Text

    from asparagus.cli.runs import console
    from asparagus.record.descent import ASKED, MISSING, lines

    shown = Text("\n".join(lines(found)))
    for pattern, style in ((ASKED, "green"), (rf"  {MISSING} .*", "red"), (r"\brun \d+(?= )", "bold")):
        shown.highlight_regex(pattern, style)
    console().print(shown, soft_wrap=True)
    if found.is_cut:
        print(f"The nearest {len(found.descendants)} descendants are drawn; --all draws the rest too.", file=sys.stderr)
