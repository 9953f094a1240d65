"""What stands in for the agent that Ray has on each node: it says that it serves nothing, and ends with the raylet.

So does Ray's own where `ray[default]` is not installed, after a second of imports. A script that imports nothing of
ours.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
"""Files in the session's folder that the raylet waits for, by its node."""
NONE = "-1"
NODE, SESSION = "--node-id=", "--session-dir="
LOOK_S = 0.5


def main(words: list[str]) -> None:
    """Write down that there are no ports, and be there for as long as the raylet is."""
    raylet = os.getppid()
    node, session = (next(word.removeprefix(key) for word in words if word.startswith(key)) for key in (NODE, SESSION))
    for name in PORTS:
        file = Path(session) / f"{name}_{node}"
        writing = file.with_suffix(".writing")
        writing.write_text(NONE, encoding="ascii")
        writing.replace(file)
    while os.getppid() == raylet:
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main(sys.argv[1:])
