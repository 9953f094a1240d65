"""What a submitted job runs first, alone: it ends where Python, Ray or asparagus are others than the request was for.

It travels with the job and needs the standard library only, so that another Python can say that it is another one.
"""

import importlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path

MISSING = "none"


def _installed() -> "dict[str, str]":
    found = {"python": ".".join(map(str, sys.version_info[:2])), "ray": MISSING, "asparagus": MISSING}
    try:
        found["ray"] = metadata.version("ray")
        found["asparagus"] = importlib.import_module("asparagus").__version__
    except ImportError:
        return found
    return found


def _look_here_first(places: "list[Path]") -> None:
    """Have code that came along be found before what is installed, by this process and by workers."""
    there = [str(place) for place in places if place.is_dir()]
    sys.path[:0] = there
    known = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    os.environ["PYTHONPATH"] = os.pathsep.join(there + known)


def _main() -> None:
    ours = Path(__file__).absolute().parent
    wanted = json.loads((ours / "job.json").read_text(encoding="utf-8"))["versions"]
    _look_here_first([ours / "code", Path.cwd(), Path.cwd() / "src"])
    found = _installed()
    differ = [f"{name} {found[name]} there, {wanted[name]} here" for name in wanted if found[name] != wanted[name]]
    if differ:
        sys.stderr.write(
            f"error: the cluster is another one than the request was checked with: {'; '.join(differ)}. (Its Python is "
            f"{sys.executable}.) Install the same versions on either side, or bring the packages: --runtime-env "
            "constraints.txt. Nothing was trained.\n"
        )
        sys.exit(2)
    # By name: this file is no room of the corridor, it stands before it.
    importlib.import_module("asparagus.cli.job").main(str(ours))


if __name__ == "__main__":
    _main()
