"""What all who speak to a tracking store share, without MLflow: the tags of a run, and how to say that it is away."""

from __future__ import annotations

from asparagus.secrets import without_passwords

SYSTEM_METRIC = "system/"
"""What MLflow's names of measurements of machines begin with."""
SCHEMA = "database schema"
"""In what MLflow says of a store whose tables are not its own."""
SQLITE = "sqlite:///"
TAG = "asparagus."
RUN_ID = f"{TAG}run_id"
STAGE, TASK, STATE, FOLDER = f"{TAG}stage", f"{TAG}task", f"{TAG}state", f"{TAG}folder"
MONITOR, MODE, BEST = f"{TAG}monitor", f"{TAG}mode", f"{TAG}best"
PARENT, PARENT_CHECKPOINT = f"{TAG}init_from.run_id", f"{TAG}init_from.checkpoint"
RERUN_OF, SWEEP_ID = f"{TAG}rerun_of", f"{TAG}sweep_id"
CHECKPOINT, DIGEST = f"{TAG}checkpoint", f"{TAG}digest"
"""Of the logged model that stands for a checkpoint."""

STATES = ("starting", "running", "finished", "failed", "interrupted")

EDGES = {"init_from": PARENT, "rerun": RERUN_OF, "sweep": SWEEP_ID}
"""The kinds of lineage edges, and the tag of the younger run that holds the older one's number."""

SUMMARY = (RUN_ID, STAGE, TASK, STATE, FOLDER, MONITOR, MODE, BEST, PARENT_CHECKPOINT, *EDGES.values())
"""What a list shows of a run."""

SERVER_HINT = (
    "Is the server up (curl <uri>/health)? A 403 for a server reached by name means that it has to be started "
    "with --allowed-hosts. With credentials: MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN."
)
HINTS = {
    "sqlite": "Is it a file of MLflow's, its folder writable and the disk not full?",
    "http": SERVER_HINT,
    "https": SERVER_HINT,
}


def unreachable(uri: str, error: object) -> str:
    """Say that a tracking store cannot be used, why, and what to look at; without passwords."""
    if SCHEMA in str(error):
        return without_passwords(
            f"tracking: {uri} cannot be used: its tables are those of another MLflow. asp doctor says which; "
            "asp doctor --fix upgrades those of an older one, and keeps a copy. Nothing was changed."
        )
    hint = HINTS.get(uri.partition(":")[0], "Does the database take connections, from here and with this user?")
    told = f"tracking: {uri} cannot be used: {error}. {hint} Another store: MLFLOW_TRACKING_URI or site.tracking_uri."
    return without_passwords(told)
