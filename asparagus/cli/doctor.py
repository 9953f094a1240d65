"""`asp doctor [CONFIG] [OVERRIDE ...]`, `asp doctor site=NAME`: is all there? Each line says ok, or what to do."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from asparagus.doctor import Finding, Surroundings
    from asparagus.plan import Plan

COLOURS = {"ok": "green", "warn": "yellow", "bad": "bold red"}
WIDTH = 18
"""Of the column that says what was looked at: lines come one by one, so it cannot be measured."""


def doctor(arguments: Sequence[str]) -> int:
    """Run `asp doctor`."""
    options = _parser().parse_intermixed_args(arguments)
    from rich.console import Console

    from asparagus.doctor import examine, look_around

    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    around, findings = look_around(), []
    asked = _site if options.words and all("=" in word for word in options.words) else _config
    for finding in chain(examine(around), asked(options.words, around)):
        _show(console, finding)
        findings.append(_mended(console, finding) if options.fix and finding.mend else finding)
    console.print(_summary(findings))
    if options.json:
        print(json.dumps([finding.to_dict() for finding in findings]))
    return 2 if any(finding.state == "bad" for finding in findings) else 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "asp doctor",
        usage="asp doctor [CONFIG] [OVERRIDE ...] [--fix] [--json], or asp doctor site=NAME [site.KEY=VALUE ...]",
        description="Look at the environment, folders, packages, GPUs, MLflow and Ray, and say ok or what to do.",
        epilog="exit status: 0 nothing is bad, 2 something is; warnings do not count",
        allow_abbrev=False,
    )
    made.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG OVERRIDE",
        help="check this experiment too, as asp-launch would; site=NAME alone asks every node of that site",
    )
    made.add_argument("--fix", action="store_true", help="mend what can be mended; what users made is not touched")
    made.add_argument("--json", action="store_true", help="the last line of standard output is one JSON list")
    return made


def _mended(console: Console, finding: Finding) -> Finding:
    """Mend what was found; what cannot be mended stays as bad as it is."""
    from asparagus.errors import AsparagusError

    assert finding.mend is not None
    try:
        done = finding.mend()
    except (AsparagusError, OSError) as error:
        console.print(f"{'':<{WIDTH + 8}}could not be mended: {error}", markup=False)
        return finding
    console.print(f"{'':<{WIDTH + 8}}mended: {done}", markup=False)
    return dataclasses.replace(finding, state="ok", found=f"{finding.found}; mended: {done}", do="", mend=None)


def _config(words: Sequence[str], around: Surroundings) -> Iterator[Finding]:
    """Check an experiment as a launch would, and the cluster that it asks for."""
    if not words:
        return
    from asparagus.cli.launch import plan_request
    from asparagus.compose import Request
    from asparagus.doctor import NO_CLUSTER, bad, cluster, ok
    from asparagus.errors import AsparagusError

    try:
        plan = plan_request(Request(words[0], tuple(words[1:])))
    except AsparagusError as error:
        for problem in filter(None, map(str.strip, str(error).splitlines())):
            yield bad("config", problem, "Change it in the file, or by an override.")
        return
    yield ok("config", _in_one_line(plan))
    address = plan.spec.site.address
    if plan.workers and address not in (*NO_CLUSTER, around.env.get("RAY_ADDRESS")):
        yield from cluster("site.address", address, around.env)


def _site(words: Sequence[str], around: Surroundings) -> Iterator[Finding]:
    """Look at a site, from here and from each of its nodes."""
    from asparagus.compose.site import compose_site
    from asparagus.doctor.site import examine_site

    yield from examine_site(*compose_site(words), around)


def _in_one_line(plan: Plan) -> str:
    spec, where = plan.spec, f"on {plan.workers} Ray worker(s)" if plan.workers else "in this process"
    batch = f", {plan.global_batch} samples per step" if plan.global_batch else ""
    return f"{spec.stage} of {spec.task}{batch}, {where}"


def _show(console: Console, finding: Finding) -> None:
    from rich.text import Text

    line = Text.assemble((f"{finding.state:<4}", COLOURS[finding.state]), f"  {finding.what:<{WIDTH}}  {finding.found}")
    console.print(line)
    if finding.do:
        console.print(Text(f"{'':<{WIDTH + 8}}→ {finding.do}"))


def _summary(findings: Sequence[Finding]) -> str:
    states = [finding.state for finding in findings]
    return f"{states.count('bad')} bad, {states.count('warn')} to look at, {states.count('ok')} ok"
