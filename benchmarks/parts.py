"""The parts of the benchmark: what each measures, and where it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One thing that is measured, beside its rivals."""

    name: str
    module: str
    """Where its function is."""
    title: str
    about: str
    packages: tuple[str, ...]
    """Whose versions stand beside its figures."""
    usual: bool = True
    """Measured unless others are named."""
    function: str = "measure"
    """Takes an `Asked` and returns a `Measured`."""


TRAINING = ("asparagus", "ray", "torch", "pytorch-lightning", "mlflow", "hydra-core")
SEARCHING = ("asparagus", "ray", "optuna", "torch", "pytorch-lightning", "mlflow")
PARTS = {
    part.name: part
    for part in (
        Part(
            "launch", "benchmarks.launch", "What a launch costs",
            "whole trainings, the stall per checkpoint, --help, --dry-run", TRAINING,
        ),
        Part(
            "record", "benchmarks.record", "What recording costs a step",
            "five metrics a step, over no logger", ("asparagus", "torch", "pytorch-lightning", "mlflow"),
        ),
        Part(
            "sweep", "benchmarks.sweep", "What a sweep costs a trial",
            "beside Optuna alone, Hydra's sweeper and Ray Tune as documented", (*SEARCHING, "hydra-core"),
        ),
        Part(
            "data", "benchmarks.data", "How fast patches come",
            "beside MONAI's CacheDataset", ("asparagus", "torch", "monai"),
        ),
        Part(
            "crops", "benchmarks.crops", "What a crop of a Zarr volume costs",
            "beside cellmap-data, where CELLMAP_DATA names its folder", ("asparagus", "torch", "zarr"), usual=False,
        ),
        Part(
            "lineage", "benchmarks.many_runs", "How fast a full record answers",
            "asp runs and asp lineage over 10,000 runs, in a file and from a server",
            ("asparagus", "mlflow", "SQLAlchemy"),
        ),
        Part(
            "recovery", "benchmarks.recovery", "How long a kill holds a training up",
            "a worker and a node, beside Ray Train as documented", ("asparagus", "ray", "torch", "pytorch-lightning"),
        ),
        Part(
            "scale", "benchmarks.scale", "What more workers cost",
            "start, step, checkpoint and end with 0 to 16 workers", ("asparagus", "ray", "torch"),
        ),
        Part(
            "search", "benchmarks.many_trials", "Whether a long search grows",
            "a thousand trials that train nothing: time and memory", SEARCHING,
        ),
        Part(
            "trials", "benchmarks.many_trials", "Whether a long sweep grows",
            "a thousand real trials, half an hour; only when named", SEARCHING, usual=False, function="measure_real",
        ),
        Part(
            "gpu", "benchmarks.gpu", "Throughput on a GPU",
            "beside the plain script; left out where there is none", ("asparagus", "ray", "torch", "pytorch-lightning"),
        ),
    )
}  # fmt: skip
