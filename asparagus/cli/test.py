"""`asp test N`: a run's checkpoint on test data of any task and split, as a run of its own (SEEDS A.2)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from asparagus.errors import ConfigError

KINDS = ("seg", "cls", "reg")
SAME = {"test_task": "task", "test_split": "data.test_split", "save_predictions": "run.save_predictions"}
"""Words of Asparagus' own `asp_test_*`, a short one, and what they are here."""
OF_PARENT = ("checkpoint_run_id", "load_checkpoint_name")


def test(arguments: Sequence[str]) -> int:
    """Run `asp test N`."""
    parser = argparse.ArgumentParser(
        "asp test",
        usage="asp test N [test_task=TASK] [test_split=SPLIT] [save_predictions=true] [OVERRIDE ...]\n"
        "                [--checkpoint NAME] [--dry-run] [--json]",
        description="Test a run's checkpoint with the run's own config, on its task or another one; what is found of "
        "each case is in predictions/ of the new run, and the record says which checkpoint was tested.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", default=None, metavar="NAME", help="best (default), last, or a name")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)  # which of the commands it is
    options, rest = parser.parse_known_args(arguments)
    from asparagus.cli.launch import launch

    run_id, checkpoint, words = _asked(options, rest)
    return launch([*_words_of(run_id, options.kind), f"init_from=run:{run_id}/{checkpoint}", *words])


def _asked(options: argparse.Namespace, rest: Sequence[str]) -> tuple[int, str, list[str]]:
    """Return the run, its checkpoint, and the rest of what was typed, in our words.

    Raises:
        ConfigError: No run is named, or two.
    """
    named = dict(word.split("=", 1) for word in rest if word.startswith(tuple(f"{key}=" for key in OF_PARENT)))
    words = [word for word in rest if word.partition("=")[0] not in OF_PARENT and not word.isdigit()]
    given = [word for word in rest if word.isdigit()]
    given += [named["checkpoint_run_id"]] if "checkpoint_run_id" in named else []
    if len(set(given)) != 1 or not given[0].isdigit():
        raise ConfigError(
            f"asp test: give the number of one run: asp test 12, or checkpoint_run_id=12 (found: "
            f"{', '.join(given) or 'none'}). asp runs lists them."
        )
    checkpoint = options.checkpoint or named.get("load_checkpoint_name") or "best"
    return int(given[0]), checkpoint, [_in_our_words(word) for word in words]


def _in_our_words(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{SAME[key]}={value}" if equals and key in SAME else word


def _words_of(run_id: int, kind: str | None) -> Iterator[str]:
    """Yield what repeats a run's experiment as a test.

    Raises:
        ConfigError: It is a run of another kind.
    """
    import yaml

    from asparagus.cli.rerun import words_of
    from asparagus.cli.show_run import folder_of
    from asparagus.paths import load_environment
    from asparagus.stages import STAGES

    load_environment()
    file = Path(folder_of(run_id)) / "config.yaml"
    stage = str((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("stage"))
    theirs = STAGES[stage].kind if stage in STAGES else ""
    if kind and theirs != kind:
        do = f"asp_test_{theirs} {run_id}" if theirs in KINDS else f"asp test {run_id}"
        raise ConfigError(f"asp_test_{kind}: run {run_id} is of stage {stage}. Write {do}.")
    yield from (word for word in words_of(file) if not word.startswith("run.rerun_of="))
    yield "run.mode=test"
