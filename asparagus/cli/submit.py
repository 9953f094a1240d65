"""`asp-launch CONFIG ... --submit [ADDRESS]`: check here, send, and watch; Ctrl-C leaves the job alone."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from asparagus.errors import SubmitError
from asparagus.spec import Site

if TYPE_CHECKING:
    from asparagus.compose import Request
    from asparagus.plan import Plan
    from asparagus.spec import Spec
    from asparagus.submit.cargo import Errand
    from asparagus.submit.jobs import Cluster, Job
    from asparagus.submit.package import Package

OUTCOME = "###OUTCOME### "
"""Begins the line of a job's log that holds what `--json` prints."""
RAYS_OWN = ("Running entrypoint for job ", "Runtime env is setting up.")
INTERPRETER = "python"
YAML = ".yaml"
REQUIREMENTS = (".txt", ".in", ".lock")
ENVIRONMENT_KEYS = ("pip", "uv", "conda", "image_uri", "container", "py_executable", "config", "env_vars", "nsight")


@dataclass(frozen=True)
class Asked:
    """How a request is to be sent."""

    address: str | None = None
    searched: bool = False
    """With `-m`."""
    only_looked_at: bool = False
    wait: bool = True
    as_json: bool = False
    runtime_env: Path | None = None


@dataclass(frozen=True)
class Load:
    """A request that was checked, as it will be sent."""

    errand: Errand
    specs: tuple[Spec, ...]
    plan: dict[str, Any]
    told: str
    """The plan, for people."""
    metadata: Mapping[str, str]
    configs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        """Where it is to be trained."""
        return self.specs[0].site


def submit(request: Request, asked: Asked) -> int:
    """Check a request, send it, and follow it to its end. Returns the exit status that the job has."""
    from asparagus.paths import get_paths
    from asparagus.submit.address import address_of
    from asparagus.submit.jobs import Cluster
    from asparagus.submit.package import must_be_small, package_of

    environment = runtime_env(asked.runtime_env)
    load = _sweep(request) if asked.searched else _runs(request)
    address = address_of(asked.address, load.site)
    paths = get_paths()
    package = package_of(Path.cwd(), without=[paths.source, paths.data, paths.models, paths.results])
    must_be_small(package)
    if asked.only_looked_at:
        told = {"plan": load.plan, "address": address, "package": {"files": len(package.sizes), "bytes": package.size}}
        lines = (load.told, f"submitted to  {address} (not now)", f"package       {package.describe()}")
        print(json.dumps(told, default=str) if asked.as_json else "\n".join(lines), flush=True)
        return 0
    cluster = Cluster(address)
    _must_be_alike(cluster)
    job_id = _send(cluster, load, package, environment)
    if not asked.wait:
        print(json.dumps({"job_id": job_id, "address": address}) if asked.as_json else job_id, flush=True)
        _say(_how_to_find(job_id, address))
        return 0
    screen = Screen(sys.stderr)
    status = follow(cluster, job_id, screen)
    if asked.as_json and screen.outcome is not None:
        print(json.dumps(screen.outcome), flush=True)
    return status


def follow(cluster: Cluster, job_id: str, screen: Screen) -> int:
    """Show a job's log as it comes. Returns its exit status; Ctrl-C leaves it alone."""
    try:
        job = cluster.follow(job_id, screen.show)
    except KeyboardInterrupt:
        _say(f"\nnot followed any more: job {job_id} goes on.\n{_how_to_find(job_id, cluster.address)}")
        return 130
    _say_end(job)
    return job.exit_status


class Screen:
    """Shows a job's log, and keeps the line that is meant for `--json`.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.outcome: dict[str, Any] | None = None

    def show(self, line: str) -> None:
        """Show a line."""
        if line.startswith(OUTCOME):
            self.outcome = json.loads(line.removeprefix(OUTCOME))
        elif not any(said in line for said in RAYS_OWN):
            print(line, file=self._stream, flush=True)


def runtime_env(file: Path | None) -> dict[str, Any]:
    """Return Ray's runtime environment from a list of requirements, or from YAML with Ray's own keys.

    Raises:
        SubmitError: There is no such file, or it holds what is no part of an environment.
    """
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SubmitError(
            f"--runtime-env: {file} cannot be read ({error.strerror}). Give a list of requirements (constraints.txt) "
            f"or a .yaml file with {', '.join(ENVIRONMENT_KEYS)}."
        ) from error
    if file.suffix in REQUIREMENTS:
        lines = [line.split(" #")[0].strip() for line in text.splitlines()]
        # Ray itself is the cluster's, and is refused in a list.
        return {"pip": [line for line in lines if line and line[0] not in "#-" and not line.startswith("ray=")]}
    import yaml

    from asparagus.errors import one_of
    from asparagus.secrets import is_secret_name

    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise SubmitError(f"--runtime-env: {file} is no mapping. Write pip: [...], uv: [...] or image_uri: ... in it.")
    for key in values.keys() - set(ENVIRONMENT_KEYS):
        raise SubmitError(one_of(f"--runtime-env: {file}", key, ENVIRONMENT_KEYS))
    for name in values.get("env_vars") or {}:
        if is_secret_name(name):
            raise SubmitError(
                f"--runtime-env: {file}: env_vars.{name}: Ray shows these to everybody. Put it into .env instead."
            )
    return values


def _runs(request: Request) -> Load:
    """Check a run, or the stages of a pipeline."""
    from asparagus.pipelines import plans_for_cluster
    from asparagus.submit.cargo import Stage, for_elsewhere
    from asparagus.submit.elsewhere import for_cluster

    planned = plans_for_cluster(for_cluster(request))
    plans = {asked.name or plan.spec.stage: _as_there(plan) for asked, plan in planned}
    sources = [asked.source for asked, _ in planned]
    specs = tuple(plan.spec for _, plan in planned)
    sent = zip(plans, sources, map(for_elsewhere, specs), strict=True)
    stages = tuple(Stage(name, source, spec) for name, source, spec in sent)
    errand = _errand(specs, stages=stages)
    if len(plans) == 1:
        (alone,) = plans.values()
        return Load(errand, specs, alone.to_dict(), alone.describe(), _metadata(request, specs))
    told = "\n\n".join(f"--- {name} ---\n{plan.describe()}" for name, plan in plans.items())
    shown = {"stages": {name: plan.to_dict() for name, plan in plans.items()}}
    return Load(errand, specs, shown, told, _metadata(request, specs))


def _as_there(plan: Plan) -> Plan:
    """Return a plan that does not speak of the folders of this machine."""
    from asparagus.submit.cargo import for_elsewhere

    spec = for_elsewhere(plan.spec)
    models = spec.paths.models or "(models of the cluster)"
    shown = dataclasses.replace(spec, paths=dataclasses.replace(spec.paths, models=models))
    return dataclasses.replace(plan, spec=shown, run_root=f"{models}/{spec.task}/{spec.stage}")


def _errand(specs: Sequence[Spec], **more: Any) -> Errand:
    from asparagus.submit.cargo import Errand, of_site, places

    typed = (Path(sys.argv[0]).name, *sys.argv[1:])
    return Errand(typed, places=places(), site_env=of_site(specs[0].site), home=str(Path.cwd()), **more)


def _sweep(request: Request) -> Load:
    """Check a sweep; its trials are composed where it runs, from the very files that it was checked with."""
    from asparagus.check import check_from_afar
    from asparagus.compose.trial import folders_of
    from asparagus.submit.cargo import CONFIGS, FOLDER, files_of_configs, own_configs
    from asparagus.submit.elsewhere import sweep_for_cluster
    from asparagus.sweeps import plan_sweep

    meant = sweep_for_cluster(request)
    plan, _ = plan_sweep(meant, look=check_from_afar)
    folders = own_configs(folders_of(meant))
    files = files_of_configs(folders)
    names = (f"{CONFIGS}/{number}" for number in range(len(folders)))
    specs = tuple(stage.spec for stage in plan.stages)
    config = Path(meant.config).name if meant.config.endswith(YAML) else meant.config
    errand = _errand(
        specs,
        sweep=(config, *meant.overrides),
        config_dirs=tuple(name for name in names if any(file.startswith(f"{FOLDER}/{name}/") for file in files)),
    )
    shown = dataclasses.replace(plan, stages=tuple(_as_there(stage) for stage in plan.stages))
    return Load(errand, specs, shown.to_dict(), shown.describe(), _metadata(request, specs), files)


def _metadata(request: Request, specs: Sequence[Spec]) -> dict[str, str]:
    """Return what everybody may know of a job."""
    import getpass
    import socket

    from asparagus import __version__
    from asparagus.submit.jobs import EXPERIMENT, TASK, WHO

    return {
        EXPERIMENT: Path(request.config).stem if request.config.endswith((".yaml", ".py")) else request.config,
        TASK: specs[-1].task,
        WHO: f"{getpass.getuser()}@{socket.gethostname()}",
        "asparagus.version": __version__,
    }


def _must_be_alike(cluster: Cluster) -> None:
    """Refuse a cluster with another Ray before anything is sent; what else differs, the job itself says first."""
    from asparagus.submit.cargo import versions

    ours = versions(code_travels=True)["ray"]
    if cluster.ray_version != ours:
        raise SubmitError(
            f"{cluster.address} runs Ray {cluster.ray_version}, and here is Ray {ours}. Install the same on either "
            f"side (here: pip install 'ray[default,train,tune]=={cluster.ray_version}'). Nothing was sent."
        )


def _send(cluster: Cluster, load: Load, package: Package, environment: dict[str, Any]) -> str:
    """Pack, leave the values, and submit."""
    from asparagus.record.environment import read_code
    from asparagus.submit import cargo
    from asparagus.submit.package import write_zip

    texts = [content.decode(errors="replace") for content in load.configs.values()]
    values = cargo.values_for(load.specs, [*texts, *load.errand.sweep], Path.cwd())
    sealed = cargo.sealed_name() if values else None
    errand = dataclasses.replace(load.errand, sealed=sealed, versions=cargo.versions(code_travels=bool(environment)))
    more = {**cargo.files_of(errand, read_code(Path.cwd())), **load.configs}
    more |= cargo.files_of_code() if environment else {}
    job_id = f"asp-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="asp-submit-") as folder:
        write_zip(package, more, file := Path(folder) / "job.zip")
        if sealed is not None:
            cluster.leave(sealed, values)
        cluster.send(
            file,
            f"exec {INTERPRETER} {cargo.FOLDER}/start.py",
            job_id=job_id,
            environment=environment,
            metadata=load.metadata,
        )
    _say(f"job {job_id} is at {cluster.address}, with {package.describe()}")
    if values:
        _say(f"  values      {', '.join(values)} (of .env, or referred to; shown nowhere)")
    return job_id


def _how_to_find(job_id: str, address: str) -> str:
    return (
        f"  follow it   asp logs {job_id} -f --address {address}\n  stop it     asp stop {job_id} --address {address}"
    )


def _say_end(job: Job) -> None:
    """Say how a job ended whose own words may not."""
    if job.status == "STOPPED":
        _say(f"job {job.job_id} was stopped. The same command goes on from its last checkpoint.")
    elif job.exit_code == 127:  # noqa: PLR2004 - the shell's
        _say(
            f"error: job {job.job_id}: there is no {INTERPRETER!r} on the cluster. Start Ray there with the "
            "environment's bin on PATH (source .../bin/activate; ray start ...)."
        )
    elif job.exit_code is None and job.status == "FAILED":
        _say(f"error: job {job.job_id} failed: {job.message.strip()}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
