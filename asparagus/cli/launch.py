"""`asp-launch CONFIG [OVERRIDE ...]`: compose, check, plan, and go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asparagus.compose import Request
    from asparagus.driver import Outcome
    from asparagus.plan import Plan

DESCRIPTION = (
    "Train an experiment file: checked to the last key here, then run in this process or on Ray, and recorded."
)
EPILOG = """CONFIG is a name on the search path (pretrain, experiment/digits) or the path of a .yaml file.
An OVERRIDE is Hydra's: trainer.max_epochs=5   model=unet   +callbacks.stop._target_=...   ~callbacks.stop

  asp-launch experiment/digits
  asp-launch pretrain task=Task998_LauritSyn resources.workers=2
  asp-launch finetune_seg task=Task997_LauritSynSeg init_from=run:1/best --dry-run

exit status: 0 done, 2 the request is wrong and nothing was started, 3 the run failed, 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `asp-launch`."""
    made = argparse.ArgumentParser(
        "asp-launch",
        usage="asp-launch CONFIG [OVERRIDE ...] [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("words", nargs="*", metavar="CONFIG OVERRIDE", help="what to train, and changes to it")
    made.add_argument("--config-name", "-cn", metavar="CONFIG", help="CONFIG, as in Hydra")
    made.add_argument(
        "--config-dir", "-cd", metavar="DIR", action="append", default=[], type=Path, help="a folder to search first"
    )
    made.add_argument("--cfg", choices=["job"], help="print the composed config; nothing is run")
    made.add_argument("--dry-run", action="store_true", help="check everything and print the plan; nothing is run")
    made.add_argument("--json", action="store_true", help="the last line of standard output is one JSON object")
    return made


def launch(arguments: Sequence[str]) -> int:
    """Run the command."""
    options = parser().parse_intermixed_args(arguments)
    from asparagus.compose import compose_config, config_as_yaml
    from asparagus.paths import load_environment

    load_environment()
    request = _request(options)
    if options.cfg:
        print(config_as_yaml(compose_config(request)), end="")
        return 0
    plan = plan_request(request)
    if options.dry_run:
        print(json.dumps(plan.to_dict()) if options.json else plan.describe())
        return 0
    outcome = carry_out(plan)
    if options.json:
        print(json.dumps(outcome.to_dict()))
    return 0


def plan_request(request: Request) -> Plan:
    """Compose, check and plan: all that happens on the client."""
    from asparagus.check import check
    from asparagus.compose import compose
    from asparagus.plan import make_plan

    spec = compose(request)
    found = check(spec)
    return make_plan(spec, cases=found.cases, parent=found.parent)


def carry_out(plan: Plan) -> Outcome:
    """Run a plan and show how it goes."""
    from asparagus.cli.progress import Progress
    from asparagus.submit import submit

    with Progress(plan) as progress:
        outcome = submit(plan, progress.show)
    progress.summary(outcome)
    return outcome


def _request(options: argparse.Namespace) -> Request:
    """Take CONFIG from `-cn` or the first word; with an alias of a stage, `-cn` replaces the stage's own config."""
    from asparagus.compose import Request
    from asparagus.errors import ConfigError

    words = list(options.words)
    named = bool(words) and (_is_file(words[0]) or not ("=" in words[0] or words[0].startswith(("+", "~"))))
    config = words.pop(0) if named else None
    config = options.config_name or config
    if config is None:
        raise ConfigError(
            "CONFIG is missing. Give a name (asp-launch pretrain) or a .yaml file; asp-launch --help shows more."
        )
    return Request(config, tuple(words), tuple(options.config_dir))


def _is_file(word: str) -> bool:
    """Tell a path from an override: run folders have `=` in their names."""
    return word.endswith((".yaml", ".yml")) and Path(word).is_file()
