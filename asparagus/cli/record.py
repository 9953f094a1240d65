"""`asp record rebuild`: the tracking store, restored or completed from the run folders."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def record(arguments: Sequence[str]) -> int:
    """Run `asp record rebuild`."""
    parser = argparse.ArgumentParser("asp record", description="The tracking store, and the run folders behind it.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    made = actions.add_parser(
        "rebuild",
        help="record every run that the store lacks, or has only in part",
        description="Record every run of ASPARAGUS_MODELS that the store lacks, or has only in part, from its folder: "
        "after the store was lost, or a server was away for long. What is recorded stays as it is.",
    )
    made.add_argument("--json", action="store_true", help="the last line of standard output is one JSON list")
    options = parser.parse_args(arguments)

    from asparagus.cli.runs import open_store, tracking_uri
    from asparagus.paths import get_paths

    uri, paths = tracking_uri(), get_paths()
    from asparagus.record.rebuild import rebuild

    found = []
    for one in rebuild(open_store(uri, Path(paths.results) / "mlartifacts"), Path(paths.models)):
        line = f"{'ok' if one.ok else 'bad':<4} {one.what:<10} {one.found}"
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
        found.append(dataclasses.asdict(one))
    if options.json:
        print(json.dumps(found))
    elif not found:
        print(f"There is no run under {paths.models}.")
    return 0 if all(one["ok"] for one in found) else 2
