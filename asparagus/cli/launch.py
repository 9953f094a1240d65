"""`asp-launch CONFIG [OVERRIDE ...]`: compose, check, plan, and go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asparagus.errors import EvalBoxError, PipelineError
from asparagus.faults import REHEARSE
from asparagus.ray_job import job_id

if TYPE_CHECKING:
    from asparagus.compose import Request
    from asparagus.driver import Outcome
    from asparagus.plan import Plan

DESCRIPTION = (
    "Train an experiment file: checked to the last key here, then run in this process or on Ray, and recorded."
)
EPILOG = """CONFIG is a name on the search path (pretrain, experiment/digits), the path of a .yaml file, or a training
config in Python (train_2D.py). An OVERRIDE is Hydra's:
  trainer.max_epochs=5   model=unet   +logger=csv   callbacks.stop._target_=...   ~callbacks.stop

  asp-launch experiment/digits
  asp-launch pretrain task=Task998_LauritSyn resources.workers=2
  asp-launch finetune_seg task=Task997_LauritSynSeg init_from=run:1/best --dry-run
  asp-launch experiment/digits -m optim.lr='tag(log,interval(1e-4,1e-1))' model.net.width=64,128 sweep.trials=20
  asp-launch experiment/digits --submit http://head:8265    on a cluster; Ctrl-C leaves it alone
  asp-launch experiment/digits rehearse=kill_worker@step=50      what breaks, on a cluster that is simulated here
  asp-launch train_cls --help               the groups to choose from, and every key with its default
  asp-launch experiment/digits --info optim.lr     which file or override set it

exit status: 0 done, 2 the request is wrong and nothing was started, 3 the run failed, 130 interrupted
"""
YAML_OR_PYTHON = (".yaml", ".yml", ".py")


def parser() -> argparse.ArgumentParser:
    """Return the parser of `asp-launch`."""
    made = argparse.ArgumentParser(
        "asp-launch",
        usage="asp-launch CONFIG [OVERRIDE ...] [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    made.add_argument("words", nargs="*", metavar="CONFIG OVERRIDE", help="what to train, and changes to it")
    made.add_argument("--help", "-h", action="store_true", help="this; of a CONFIG: its groups and default values")
    made.add_argument("--config-name", "-cn", metavar="CONFIG", help="CONFIG, as in Hydra")
    made.add_argument(
        "--config-dir", "-cd", metavar="DIR", action="append", default=[], type=Path, help="a folder to search first"
    )
    made.add_argument("--cfg", "-c", choices=["job", "hydra", "all"], help="print the composed config; nothing is run")
    made.add_argument("--resolve", action="store_true", help="with --cfg: show what interpolations stand for")
    made.add_argument("--package", "-p", metavar="SECTION", help="with --cfg: this section of it")
    made.add_argument("--info", nargs="?", const="", metavar="KEY", help="where the config, or a KEY of it, comes from")
    made.add_argument(
        "--multirun", "-m", action="store_true", help="a sweep: key=1,2,3, choice(), range(), interval(), sweep.space"
    )
    made.add_argument("--dry-run", action="store_true", help="check everything and print the plan; nothing is run")
    made.add_argument("--check", action="store_true", help="as --dry-run, and deeper: a batch goes through the model")
    made.add_argument(
        "--experimental-rerun", metavar="FILE", type=Path, help="repeat the run whose saved config.yaml FILE is"
    )
    made.add_argument(
        "--strict", action="store_true", help="go on with a run, or repeat one, only if code and packages are the same"
    )
    made.add_argument(
        "--submit",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="have a Ray cluster do it: http://host:8265, else the site's or RAY_API_SERVER_ADDRESS",
    )
    made.add_argument("--no-wait", action="store_true", help="with --submit: print the job's id and leave it alone")
    made.add_argument(
        "--runtime-env",
        metavar="FILE",
        type=Path,
        help="with --submit: packages to bring, as in constraints.txt",
    )
    made.add_argument("--json", action="store_true", help="the last line of standard output is one JSON object")
    return made


def launch(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parser().parse_intermixed_args(arguments)
    if options.help and not (options.words or options.config_name):
        parser().print_help()
        return 0
    from asparagus.paths import load_environment

    load_environment()
    request = _request(options)
    if shown := _shown(request, options):
        print(shown)
        return 0
    return _carried_out(request, options)


def _carried_out(request: Request, options: argparse.Namespace) -> int:
    """Do what is asked for: break it, send it away, search, or run it here; returns the exit status."""
    if any(word.startswith(REHEARSE) for word in request.overrides):
        return _rehearse(request, options)
    if options.submit is not None:
        return _submit(request, options)
    if job_id() is not None:
        request = _for_this_job(request, options)
    from asparagus.cli.sweep import launch_sweep

    if options.multirun:
        return launch_sweep(request, dry_run=options.dry_run or options.check, as_json=options.json)
    from asparagus.compose.pipeline import names_a_stage

    try:
        return _pipeline(request, options) if names_a_stage(request) else _run(request, options)
    except EvalBoxError:
        return launch_sweep(request, dry_run=options.dry_run or options.check, as_json=options.json)
    except PipelineError:
        return _pipeline(request, options)


def _rehearse(request: Request, options: argparse.Namespace) -> int:
    """Break something in a run on a simulated cluster, and report what that cost."""
    from asparagus.cli.rehearse import rehearse
    from asparagus.errors import ConfigError

    flags = {"--submit": options.submit is not None, "-m": options.multirun}
    if others := [flag for flag, given in flags.items() if given]:
        raise ConfigError(
            f"rehearse: goes with one run on a cluster of its own on this machine, not with {', '.join(others)}. Leave "
            "one of them out."
        )
    return rehearse(request, only_checked=options.dry_run or options.check, as_json=options.json)


def _submit(request: Request, options: argparse.Namespace) -> int:
    """Send a request to a cluster."""
    from asparagus.cli.submit import Asked, submit

    asked = Asked(
        address=options.submit or None,
        searched=options.multirun,
        only_looked_at=options.dry_run or options.check,
        wait=not options.no_wait,
        as_json=options.json,
        runtime_env=options.runtime_env,
    )
    return submit(request, asked)


def _for_this_job(request: Request, options: argparse.Namespace) -> Request:
    """Return a request as it is meant in a job (ray job submit -- asp-launch ...): for the cluster that it is on."""
    from asparagus.submit.elsewhere import for_cluster, sweep_for_cluster

    return sweep_for_cluster(request) if options.multirun else for_cluster(request)


def _run(request: Request, options: argparse.Namespace) -> int:
    """Carry out one run, or show its plan."""
    plan = plan_request(request)
    if options.dry_run or options.check:
        if not (options.json and options.check):
            print(json.dumps(plan.to_dict()) if options.json else plan.describe(), flush=True)
        return _check(plan, request, as_json=options.json) if options.check else 0
    outcome = carry_out(plan)
    if options.json:
        print(json.dumps(outcome.to_dict()))
    return 0


def _pipeline(request: Request, options: argparse.Namespace) -> int:
    """Carry out one stage after the other, or show their plans."""
    from asparagus.pipelines import plans_of, run_pipeline

    if options.dry_run or options.check:
        plans = plans_of(request)
        if options.json:
            print(json.dumps({"stages": {name: plan.to_dict() for name, plan in plans}}))
        else:
            print("\n\n".join(f"--- {name} ---\n{plan.describe()}" for name, plan in plans))
        return 0
    outcomes = {name: outcome.to_dict() for name, outcome in run_pipeline(request, carry_out)}
    if options.json:
        *_, last = outcomes.values()
        print(json.dumps({**last, "stages": outcomes}))
    return 0


def plan_request(request: Request) -> Plan:
    """Compose, check and plan: all that happens on the client."""
    from asparagus.api import plan_of

    return plan_of(request)


def carry_out(plan: Plan) -> Outcome:
    """Run a plan and show how it goes."""
    from asparagus.cli.progress import Progress
    from asparagus.submit import submit

    with Progress(plan) as progress:
        outcome = submit(plan, progress.show)
    progress.summary(outcome)
    return outcome


def _shown(request: Request, options: argparse.Namespace) -> str:
    """Return what is to be printed instead of a run; nothing where a run is wanted."""
    if not options.cfg and (options.resolve or options.package):
        from asparagus.errors import ConfigError

        raise ConfigError("--resolve and --package say what --cfg prints: --cfg job --package model.")
    if not (options.help or options.cfg or options.info is not None):
        return ""
    from asparagus.cli import show

    if options.help:
        return show.help_of(request)
    if options.cfg:
        return show.config(request, options.cfg, resolve=options.resolve, package=options.package).rstrip("\n")
    return show.info(request, options.info)


def _check(plan: Plan, request: Request, *, as_json: bool) -> int:
    """Rehearse the run, print what was looked at line by line, and return the exit status."""
    import dataclasses
    import sys

    from asparagus.cli.screen import waiting
    from asparagus.compose.origins import located
    from asparagus.submit.package import package_of

    with waiting("importing torch and Lightning"):
        from asparagus.worker.rehearsal import rehearse

    findings = []
    for seen in rehearse(plan.spec, plan.parent):
        found = seen.found if seen.ok else "\n".join(located(tuple(seen.found.split("\n")), request))
        finding = dataclasses.replace(seen, found=found)
        print(finding.line(), flush=True, file=sys.stderr if as_json else sys.stdout)
        findings.append(finding)
    travels = package_of(Path.cwd()).describe()
    if as_json:
        told = [*map(dataclasses.asdict, findings), {"what": "package", "found": travels, "ok": True}]
        print(json.dumps({"plan": plan.to_dict(), "check": told}))
    else:
        print(f"{'ok':<4} {'package':<10} {travels}")
    return 0 if all(finding.ok for finding in findings) else 2


def _request(options: argparse.Namespace) -> Request:
    """Take CONFIG from `-cn` or the first word; with an alias of a stage, `-cn` replaces the stage's own config."""
    from asparagus.compose import Request
    from asparagus.errors import ConfigError
    from asparagus.submit.address import is_address

    words = list(options.words)
    if options.submit and not is_address(options.submit):  # `--submit CONFIG`: it names no address
        words.insert(0, options.submit)
        options.submit = ""
    if options.experimental_rerun:
        from asparagus.cli.rerun import words_of

        words = [*words_of(options.experimental_rerun), *words]
    if options.info and not words and not options.config_name:  # `--info CONFIG`
        words, options.info = [options.info], ""
    named = bool(words) and (_is_file(words[0]) or not ("=" in words[0] or words[0].startswith(("+", "~"))))
    config = words.pop(0) if named else None
    command = config if config and options.config_name else ""
    config = options.config_name or config
    if config is None:
        raise ConfigError(
            "CONFIG is missing. Give a name (asp-launch pretrain) or a .yaml file; asp-launch --help shows more."
        )
    if options.strict:
        words.append("run.strict=true")
    return Request(config, tuple(words), tuple(options.config_dir), command)


def _is_file(word: str) -> bool:
    """Tell a path from an override: run folders have `=` in their names."""
    return word.endswith(YAML_OR_PYTHON) and Path(word).is_file()
