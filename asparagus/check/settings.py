"""Our own settings: numbers that have a least, names that are one of a few, and what excludes what."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from asparagus.checkpoint.folder import no_weights
from asparagus.checkpoint.retention import Rule
from asparagus.data import CASE_DATA, LOADER_DATA
from asparagus.errors import ConfigError, one_of
from asparagus.paths import expanded
from asparagus.secrets import missing, references, reveal, without_passwords
from asparagus.spec import MODES, Spec
from asparagus.stages import STAGES

FOLDER_NAME = re.compile(r"(?!\.)[^/\\\x00]+")
ADDRESS = re.compile(r"local|auto|[\w.\-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks", "file")
"""Schemes of a tracking URI, without the driver (`postgresql+psycopg2`)."""
PART_OF = {"fit": "train", "validate": "val", "test": "test"}
"""Which data a `run.mode` looks at."""
LONGEST_NAME = 100
"""It becomes the name of a file, and a line in a list."""
OWN = "own"
"""The kind of a stage whose module is one's own."""
RETRIES = ("smaller_batch", "nan_loss", "hardware", "hung", "preemption")
"""The settings of `failures` that are counts."""
LARGEST_SEED = 2**32 - 1
"""Of numpy's generators, which are seeded as well."""


def settings(spec: Spec) -> Iterator[str]:
    """Yield what is wrong with the typed part of a spec; the open sections have modules of their own."""
    for rule in (_numbers, _epoch, _values, _kept, _run, _saved, _where):
        yield from rule(spec)
    yield from writable("paths.models", spec.paths.models, "ASPARAGUS_MODELS")
    yield from writable("paths.results", spec.paths.results, "ASPARAGUS_RESULTS")


def _numbers(spec: Spec) -> Iterator[str]:
    """Check what has to be at least so much: Lightning, Ray and arithmetic would find out late, or never."""
    least: list[tuple[str, Any, float]] = [
        ("resources.workers", spec.resources.workers, 0),
        ("resources.gpus_per_worker", spec.resources.gpus_per_worker, 0),
        ("data.batch_size", spec.data.get("batch_size"), 1),
        ("checkpoint.every_n_epochs", spec.checkpoint.every_n_epochs, 1),
        ("checkpoint.keep_best", spec.checkpoint.keep_best, 0),
        ("checkpoint.keep_every_n_epochs", spec.checkpoint.keep_every_n_epochs, 1),
        ("figures.every_n_epochs", spec.figures.every_n_epochs, 1),
        ("figures.cases", spec.figures.cases, 1),
        ("run.max_failures", spec.run.max_failures, 0),
        *((f"failures.{name}", getattr(spec.failures, name), 0) for name in RETRIES),
        ("seed", spec.seed, 0),
        ("run.id", spec.run.id, 1),
        ("data.num_workers", spec.data.get("num_workers"), 0),
        ("data.cache_gb", spec.data.get("cache_gb"), 0),
        ("data.samples_per_epoch", spec.data.get("samples_per_epoch"), 1),
        ("data.iterations_per_epoch", spec.data.get("iterations_per_epoch"), 1),
        ("site.nodes", spec.site.nodes, 1),
        ("site.cpus_per_node", spec.site.cpus_per_node, 1),
        ("site.gpus_per_node", spec.site.gpus_per_node, 0),
    ]
    for name, value, bound in least:
        if isinstance(value, (int, float)) and not value >= bound:
            yield f"{name}: {value} is too small. The least is {bound}."
    if spec.seed > LARGEST_SEED:
        yield f"seed: {spec.seed} is too large. The most is {LARGEST_SEED}."
    for name, number in (
        ("resources.cpus_per_worker", spec.resources.cpus_per_worker),
        ("site.poll_interval_s", spec.site.poll_interval_s),
        ("site.start_timeout_s", spec.site.start_timeout_s),
        ("site.idle_minutes", spec.site.idle_minutes),
        ("failures.hung_after_min", spec.failures.hung_after_min),
        ("failures.grace_s", spec.failures.grace_s),
        ("data.validation_time_limit", spec.data.get("validation_time_limit")),
        ("run.system_metrics_s", spec.run.system_metrics_s),
    ):
        if number is not None and not (isinstance(number, (int, float)) and 0 < number < math.inf):
            yield f"{name}: {number} has to be positive."
    if isinstance(patch := spec.data.get("patch_size"), list):
        wrong = [size for size in patch if not isinstance(size, int) or size < 1]
        if wrong:
            yield f"data.patch_size: {patch} has to be whole numbers of voxels, each at least 1."


def _epoch(spec: Spec) -> Iterator[str]:
    """Check that an epoch has one length."""
    samples, iterations = (spec.data.get(f"{unit}_per_epoch") for unit in ("samples", "iterations"))
    if samples is not None and iterations is not None and spec.data.get("_target_") == CASE_DATA:
        yield f"data.iterations_per_epoch: {iterations} and data.samples_per_epoch: {samples} exclude each other."


def _values(spec: Spec) -> Iterator[str]:
    """Check what has to be one of a few, or of a form."""
    if spec.checkpoint.mode not in (None, "min", "max"):
        yield one_of("checkpoint.mode", spec.checkpoint.mode, ("min", "max"))
    if not ADDRESS.fullmatch(spec.site.address):
        yield f"site.address: {spec.site.address!r} is no address. Give local, auto, or host:port."
    if not FOLDER_NAME.fullmatch(spec.task) or "${" in spec.task:
        advice = "Leave out slashes, dots at its start and $."
        yield f"task: {spec.task!r} is no name of a folder, and runs lie under it. {advice}"
    uri = spec.site.tracking_uri or ""
    if without_passwords(uri) != uri and not any(references(uri)):
        yield (
            "site.tracking_uri: a password is written here in plain text. Put it into an environment variable (or "
            ".env), and write ${secret:NAME_OF_THE_VARIABLE} in its place."
        )
    uri = without_passwords(uri if any(missing(uri)) else reveal(uri))
    if not uri.startswith("${") and uri.partition("://")[0].partition("+")[0] not in STORES and uri != "databricks":
        yield one_of("site.tracking_uri", uri, [f"{scheme}://..." for scheme in STORES])
    elif uri.startswith("sqlite://"):
        yield from _sqlite(uri)


def _kept(spec: Spec) -> Iterator[str]:
    """Check which checkpoints are kept: the n-th epochs have to be among those that have one, the quota a size."""
    asked = spec.checkpoint
    each, kept = asked.every_n_epochs, asked.keep_every_n_epochs
    if kept is not None and min(kept, each) >= 1 and kept % each:
        near = " or ".join(str(number) for number in (kept - kept % each, kept - kept % each + each) if number)
        yield (
            f"checkpoint.keep_every_n_epochs: {kept} is no multiple of checkpoint.every_n_epochs={each}, so the "
            f"epoch {kept} has no checkpoint to keep. Nearest: {near}."
        )
    try:
        Rule.of(asked)
    except ConfigError as error:
        yield f"checkpoint.quota: {error}"


def _sqlite(uri: str) -> Iterator[str]:
    file = uri.removeprefix("sqlite:///")
    if file in (uri, "", ":memory:"):
        yield f"site.tracking_uri: {uri} names no file. Give sqlite:////absolute/path/of/a.db."
    else:
        yield from writable("site.tracking_uri", str(Path(file).parent), "MLFLOW_TRACKING_URI")


def _run(spec: Spec) -> Iterator[str]:
    """Check how it is carried out: what it does with the weights, and that they are there."""
    run = spec.run
    for key, text in (("run.name", run.name), ("run.label", run.label)):
        if text is not None and not 0 < len(text) <= LONGEST_NAME:
            yield f"{key}: {text!r} has {len(text)} characters. Give 1 to {LONGEST_NAME}."
    if run.mode not in MODES:
        yield one_of("run.mode", run.mode, MODES)
    elif run.mode != "fit" and spec.init_from is None and run.resume_from_checkpoint is None:
        yield f"run.mode: {run.mode} needs weights to look at. Give init_from=run:<id>/best or file:/path/to/weights."
    elif (
        spec.data.get("_target_") == LOADER_DATA
        and not spec.script
        and spec.data.get(part := PART_OF[run.mode]) is None
    ):
        yield f"data.{part}: is missing, and run.mode={run.mode} needs it. Give it a loader section."
    if run.mode == "test" and spec.own_module is None and spec.stage == "pretrain":
        advice = "Use run.mode=validate, or a module of your own with a test_step."
        yield f"run.mode: test runs a test loop, and the module of {spec.stage} has none. {advice}"
    if run.resume_from_checkpoint is not None and (problem := no_weights(expanded(run.resume_from_checkpoint))):
        yield f"run.resume_from_checkpoint: {problem} Give a Lightning checkpoint."


def _saved(spec: Spec) -> Iterator[str]:
    """Check that a test has what it is to write."""
    kind = STAGES[spec.stage].kind if spec.stage in STAGES else OWN
    if spec.run.save_predictions and spec.own_module is None and kind not in ("seg", OWN):
        yield (
            f"run.save_predictions: writes the class maps of a segmentation, and {spec.stage} has none. What a test "
            "finds of each case is in predictions/*.json without it."
        )


def _where(spec: Spec) -> Iterator[str]:
    """Check that what it runs on and what it asks for go together."""
    if not spec.resources.workers and spec.resources.gpus_per_worker:
        gpus = f"resources.gpus_per_worker: {spec.resources.gpus_per_worker:g}"
        yield (
            f"{gpus} and resources.workers=0 exclude each other: "
            "in this process the Trainer takes what trainer.accelerator says. Give resources.workers=1 or more."
        )
    if spec.site.address != "local" and not spec.resources.workers:
        yield (
            f"resources.workers: 0 trains in this process, and site.address={spec.site.address} is a cluster: they "
            "exclude each other. Give resources.workers=1 or more, or site=local."
        )
    if spec.site.address != "local" and spec.site.stays_up:
        yield (
            f"site.idle_minutes: {spec.site.idle_minutes:g} is for a Ray of our own (site.address=local), and "
            f"site.address={spec.site.address} is somebody else's to end. Leave it out, or use site=local-warm."
        )


def writable(key: str, folder: str, variable: str) -> Iterable[str]:
    """Try to write where the folder is, or would come to be. Nothing stays behind."""
    if "://" in folder:
        yield f"{key}: {folder!r} is a URI, and only folders work yet. Set {variable} to one that every node sees."
        return
    path = Path(folder)
    existing = next(place for place in [path, *path.parents] if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return
    except OSError as error:
        yield f"{key}: nothing can be written to {folder} ({error.strerror}). Set {variable} to a place of yours."
