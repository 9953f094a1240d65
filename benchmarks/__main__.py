"""Measure the parts, one after the other, and keep their figures.

python -m benchmarks                      all; writes RESULTS.md and figures.json beside this file
python -m benchmarks --only launch,data   these; the figures of the others stay
python -m benchmarks --quick              one repeat, small sizes: shows that it works, and is not kept
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.commands import Asked
from benchmarks.parts import PARTS, Part
from benchmarks.report import summary, verdict
from benchmarks.running import measure_all

HERE = Path(__file__).parent
DONE, A_PART_FAILED, INTERRUPTED = 0, 3, 130


def parsed(words: Sequence[str], parts: Mapping[str, Part]) -> argparse.Namespace:
    """Return what was typed."""
    listed = "\n".join(f"  {part.name:<10} {part.about}" for part in parts.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"parts:\n{listed}\n\nexit status: 0 measured, whether or not a goal was missed; 3 a part failed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def known(text: str) -> list[str]:
        names = text.split(",")
        if strange := [name for name in names if name not in parts]:
            raise argparse.ArgumentTypeError(f"no part is called {strange[0]!r}. Known: {', '.join(parts)}")
        return names

    def positive(text: str) -> int:
        if not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
        return int(text)

    usual = [part.name for part in parts.values() if part.usual]
    parser.add_argument("--only", type=known, default=usual, metavar="PART,...", help="these parts")
    parser.add_argument("--quick", action="store_true", help="one repeat, small sizes; prints, and keeps nothing")
    parser.add_argument(
        "--repeats", type=positive, metavar="N", help="measure N times in place of each part's own number"
    )
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="keep figures there, those of --quick too")
    parser.add_argument("--workers", type=int, nargs="+", default=[], metavar="N", help="scale: with so many workers")
    parser.add_argument("--hydra-python", default="", help="sweep: a Python with hydra-optuna-sweeper and Lightning")
    return parser.parse_args(words)


def main(words: Sequence[str], parts: Mapping[str, Part] = PARTS) -> int:
    """Measure what is asked for; returns the exit status."""
    options = parsed(words, parts)
    with tempfile.TemporaryDirectory() as nowhere:
        into = options.into or (Path(nowhere) if options.quick else HERE)
        into.mkdir(parents=True, exist_ok=True)
        asked = Asked(
            quick=options.quick,
            repeats=options.repeats,
            into=into,
            workers=tuple(options.workers),
            hydra_python=options.hydra_python,
        )
        try:
            made, failed = measure_all([parts[name] for name in options.only], asked, tuple(parts))
        except KeyboardInterrupt:
            print("\ninterrupted: the figures of the parts that were measured are kept", flush=True)
            return INTERRUPTED
    if made:
        quickly = ["", "Measured quickly: this shows that it works, not how fast."] if options.quick else []
        print("\n".join(["", *summary(made), "", *verdict(made), *quickly]))
    if failed:
        print(f"\nfailed, see above: {', '.join(failed)}. The figures of the others are whole.")
    return A_PART_FAILED if failed else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
