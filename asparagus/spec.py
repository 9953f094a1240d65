"""What was asked, resolved: frozen, typed, and plain enough to travel as JSON. Standard library only."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

Section = dict[str, Any]
"""An open section: plain values, checked against the signature of its `_target_` instead of a schema."""


@dataclass(frozen=True)
class Paths:
    """The five folders, absolute, and seen by every node that trains."""

    configs: str | None = None
    source: str = ""
    data: str = ""
    models: str = ""
    results: str = ""
    stores: dict[str, str] = field(default_factory=dict)
    """The stores that `models` and `data` are this machine's working copies of: `s3://...`, where they are any."""


@dataclass(frozen=True)
class Site:
    """Where it runs: what `launch/site/<name>.yaml` says. `None` means as much as there is."""

    name: str = "local"
    """Of its file: `site=<name>`."""
    address: str = "local"
    """`local` starts a Ray of our own on this machine; `auto` or `host:port` joins one that runs."""
    nodes: int | None = 1
    """How many machines there are; None: as many as Ray has or can grow to."""
    cpus_per_node: int | None = None
    """CPUs of each machine; None: whatever it has."""
    gpus_per_node: int | None = None
    """GPUs of each machine; None: whatever it has."""
    memory_per_node: int | str | None = None
    """Bytes, or `64GB`, `64GiB`."""
    max_workers: int | None = None
    """The most that one run may ask for here."""
    max_hours: float | None = None
    """How long one job may live here: shortly before, the run is asked to leave, and goes on in the next job."""
    jobs_address: str | None = None
    """Where jobs are submitted from outside, `http(s)://host:port`; None where one sits on the cluster."""
    data: str | None = None
    """The folder of tasks as this site's nodes see it; None: that of the environment."""
    models: str | None = None
    """The same for the run folders."""
    results: str | None = None
    """The same for what is neither."""
    tracking_uri: str | None = None
    """The MLflow server; None: `MLFLOW_TRACKING_URI`, else a file under the results."""
    poll_interval_s: float = 0.1
    """How often Ray Train's controller looks at its workers: the most that one checkpoint can be held up."""
    start_timeout_s: float = 30.0
    """How long a worker group may wait for its resources before the attempt is given up."""
    idle_minutes: float | None = None
    """How long a Ray of our own stays up after the last launch that used it; None: it ends with the run."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of driver and workers; a secret is `${secret:NAME}`."""

    @property
    def stays_up(self) -> bool:
        """Whether launches share a Ray of our own, which outlives them."""
        return self.idle_minutes is not None


@dataclass(frozen=True)
class Resources:
    """What the run asks for. `workers=0` trains in this process."""

    workers: int = 0
    """Ray workers, each a process with its share of the data; 0: this process."""
    min_workers: int | None = None
    """Train with as few when nodes go, and with more when they return; None: with all of them or not at all."""
    cpus_per_worker: float = 1
    """CPUs of a node that each takes: its own, and those of its loader processes."""
    gpus_per_worker: float = 0
    """GPUs of a node that each takes."""
    memory_per_worker: int | str | None = None
    """Bytes, or `8GiB`, that a node must have free for each; Ray counts it, nothing enforces it."""
    placement: str = "pack"
    """How workers share nodes: `pack` and `spread` try to, `strict_pack` and `strict_spread` have to."""
    accelerator_type: str | None = None
    """Of the GPUs, as Ray calls it: `A100`, `H100`."""
    labels: dict[str, str] = field(default_factory=dict)
    """What a node must be labelled as: `{zone: a}`, `{zone: "!b"}`, `{zone: "in(a,b)"}`."""

    @property
    def fewest(self) -> int:
        """Workers without which nothing is trained."""
        return self.workers if self.min_workers is None else self.min_workers

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while it trains."""
        return self.fewest < self.workers


@dataclass(frozen=True)
class RunOptions:
    """How this execution is numbered, named and retried."""

    id: int | None = None
    """The run's number; None: the next free one."""
    name: str | None = None
    """Stands for one experiment of a task and stage: another one may not have it."""
    label: str | None = None
    """What it is called where people look; many runs may be called the same."""
    resume: bool = True
    """Go on with the newest identical run if it is unfinished, and show it if it is finished; false: a new run."""
    strict: bool = False
    """Go on with a run, or repeat one, only where code and packages are what they were."""
    rerun_of: int | None = None
    """The run that this one repeats."""
    mode: str = "fit"
    """`fit` trains; `validate` and `test` run those loops once, on the weights of `init_from`."""
    resume_from_checkpoint: str | None = None
    """A checkpoint of any Lightning training, whose whole state this new run starts from; wins over `init_from`."""
    max_failures: int = 3
    """How often it is tried again after a worker was lost, or for a reason that nobody knows."""
    save_predictions: bool = False
    """A test of a segmentation writes the class map of each case as NIfTI too."""
    system_metrics_s: float | None = 10.0
    """How often GPU, CPU, memory and I/O of each node are measured; null: never."""


@dataclass(frozen=True)
class Failures:
    """What is done when a training fails, by kind: how often it is tried again, from its last checkpoint.

    A lost worker, and what nobody can name, are counted by `run.max_failures`; a bug and a wrong request never return.
    """

    smaller_batch: int = 0
    """Out of memory: how often `data.batch_size` is halved and `trainer.accumulate_grad_batches` doubled."""
    nan_loss: int = 0
    """A loss that was no number for twenty steps."""
    hardware: int = 2
    """A broken GPU or its memory; the node is left out, where others can take its work."""
    hung: int = 2
    """A rank that hangs."""
    hung_after_min: float | None = 20.0
    """Without a step for so long, it hangs: all stacks are written down and it starts anew; null: wait for ever."""
    preemption: int = 100
    """Nodes that were taken away with notice; they count for nothing else."""
    grace_s: float = 25.0
    """What a SIGTERM leaves time for: to end a step and to write a checkpoint."""


@dataclass(frozen=True)
class Checkpointing:
    """When a checkpoint is written, what makes one the best, and which are kept."""

    monitor: str | None = None
    """The metric that makes a checkpoint the best; None: what the stage measures."""
    mode: str | None = None
    """`min` or `max`: which way it is better; None: the stage's."""
    every_n_epochs: int = 1
    """How often a checkpoint is written."""
    keep_best: int = 1
    """So many of the best are kept, beside the last one."""
    keep_every_n_epochs: int | None = None
    """Keep each n-th epoch's too."""
    quota: int | str | None = None
    """Bytes that the checkpoints of the run may take, or `500MB`, `1.5GiB`; for it, all but the last may go."""


@dataclass(frozen=True)
class Figures:
    """Sample predictions as figures, in `plots/` of the run folder and in TensorBoard (SEEDS E25)."""

    enabled: bool = True
    """False: none. The trials of a sweep never have any."""
    every_n_epochs: int | None = None
    """Draw after the validation of each n-th epoch; None: once, of the last one, when the training has ended."""
    cases: int = 4
    """Rows of a figure: so many cases of the last batch, where it has them."""


@dataclass(frozen=True)
class Transfer:
    """How weights come over from `init_from` (SEEDS A31)."""

    decoder: bool = True
    """Take the decoder too, where it fits."""
    strict: bool = False
    """Refuse unless every weight is taken."""
    include: list[str] = field(default_factory=list)
    """Only weights whose names have one of these in them; empty: all."""
    exclude: list[str] = field(default_factory=list)
    """None whose names have one of these in them."""
    more: dict[str, Any] = field(default_factory=dict)
    """Files of weights that come over after `init_from`: `{decoder: {path: /d.ckpt, include: [decoder]}}`."""
    rename: dict[str, str] = field(default_factory=dict)
    """Beginnings of the source's names, and what they are here: `{backbone.: net.encoder.}`."""


@dataclass(frozen=True)
class Spec:
    """One experiment, composed and checked."""

    stage: str
    """What the run does: `pretrain`, `train_seg`, ...; the root config of that name sets it."""
    task: str
    """A folder of ASPARAGUS_DATA, or any name for data of one's own: runs lie under it."""
    seed: int = 0
    """Decides all that is random: weights, order, patches, augmentation."""
    init_from: str | None = None
    """Weights to start from: `run:<id>/best`, `/last` or `/<checkpoint>`, `model:<name>@<alias>`, `sweep:<id>@best`,
    `file:<path>`."""
    model: Section = field(default_factory=dict)
    """Networks and the module that trains them."""
    data: Section = field(default_factory=dict)
    """Where batches come from."""
    optim: Section = field(default_factory=dict)
    """The optimizer, and under `sched` its schedule."""
    loss: Section = field(default_factory=dict)
    """Arguments of the stage's loss, or another one by `_target_`."""
    trainer: Section = field(default_factory=dict)
    """Arguments of Lightning's Trainer."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Lightning callbacks by name, each with its `_target_`."""
    plugins: dict[str, Any] = field(default_factory=dict)
    """More callbacks, for what a run does beside its main business."""
    logger: dict[str, Any] = field(default_factory=dict)
    """Lightning loggers beside the record."""
    script: Section = field(default_factory=dict)
    """A function of one's own in place of `trainer.fit`."""
    transfer: Transfer = field(default_factory=Transfer)
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    figures: Figures = field(default_factory=Figures)
    resources: Resources = field(default_factory=Resources)
    run: RunOptions = field(default_factory=RunOptions)
    failures: Failures = field(default_factory=Failures)
    site: Site = field(default_factory=Site)
    paths: Paths = field(default_factory=Paths)

    @property
    def own_module(self) -> str | None:
        """Dotted path of the LightningModule that the experiment names; None where the stage brings one."""
        module = self.model.get("module")
        path = module.get("_target_") if isinstance(module, dict) else None
        return str(path) if path is not None else None

    def has_callback(self, path: str) -> bool:
        """Tell whether a section of `callbacks` is of the class with this dotted path."""
        return any((section or {}).get("_target_") == path for section in self.callbacks.values())

    @property
    def data_root(self) -> str:
        """The folder of tasks: `data.root` where the experiment says so, else the data folder of this machine."""
        return str(self.data.get("root") or self.paths.data)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as nested plain values, ready for YAML or JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the spec as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spec:
        """Rebuild a spec from `to_dict`'s result."""
        parts = {name: part(**values[name]) for name, part in PARTS.items() if name in values}
        return cls(**{**values, **parts})


OF_STAGE = "stage:"
"""`init_from` of a pipeline's stage while the run that it starts from is not there yet."""
ENDLESS = -1
"""`trainer.max_epochs` or `max_steps` without an end, as Lightning writes it."""

MODES = ("fit", "validate", "test")
"""`run.mode`."""

RAY_STRATEGIES = (
    "auto",
    "ddp",
    "ddp_find_unused_parameters_true",
    "ddp_find_unused_parameters_false",
    "fsdp",
    "deepspeed",
    "deepspeed_stage_1",
    "deepspeed_stage_2",
    "deepspeed_stage_3",
)
"""`trainer.strategy` on Ray workers; the worker has a row for each."""

PLACEMENTS = ("pack", "spread", "strict_pack", "strict_spread")
"""`resources.placement`."""

PARTS: dict[str, type] = {
    "transfer": Transfer,
    "checkpoint": Checkpointing,
    "figures": Figures,
    "resources": Resources,
    "run": RunOptions,
    "failures": Failures,
    "site": Site,
    "paths": Paths,
}
"""The typed sections of a spec."""


@dataclass(frozen=True)
class Parent:
    """Where a run's first weights come from: the far end of a lineage edge."""

    checkpoint: str
    """Absolute path or URI of the checkpoint folder or weights file."""
    digest: str | None = None
    run_id: int | None = None
    """`None` for a file that no run of ours wrote."""
    folder: str | None = None
    step: int | None = None


@dataclass(frozen=True)
class TrialOf:
    """Which trial of which sweep a run belongs to."""

    sweep_id: int
    number: int
    """Of the trial in its study, from 0."""
    stage: int = 0
    """Place in the pipeline."""
    last: bool = True
    """The last stage is the trial's own; those before it are shared by all trials that ask for the same."""

    @property
    def name(self) -> str:
        """Under which the run is found again."""
        return f"{self.number}-{self.stage}"


@dataclass(frozen=True)
class Exploit:
    """A trial goes on from another one's checkpoint, with settings of its own (population based training)."""

    checkpoint: str
    """Of the other one: a whole training state."""
    run_id: int
    """Of the other one."""
    optim: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The optimizer's settings that are others from here on, by name: the other one's, and this one's."""
    after: str | None = None
    """The newest checkpoint of this one's own when it took over: once there is another one, that is gone on from."""


@dataclass(frozen=True)
class Assignment:
    """All that a worker is told: the spec, which run it trains, and where that run lives."""

    spec: Spec
    run_id: int
    folder: str
    attempt: int = 1
    parent: Parent | None = None
    exploit: Exploit | None = None
    """Where to go on from in place of the run's own newest checkpoint."""
    has_figures: bool = True
    """Of the many trials of a sweep nobody looks at each."""

    def to_dict(self) -> dict[str, Any]:
        """Return the assignment as nested plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Assignment:
        """Rebuild an assignment from `to_dict`'s result."""
        parent = Parent(**values["parent"]) if values.get("parent") else None
        exploit = Exploit(**values["exploit"]) if values.get("exploit") else None
        return cls(**{**values, "spec": Spec.from_dict(values["spec"]), "parent": parent, "exploit": exploit})
