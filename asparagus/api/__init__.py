"""What a notebook or a script calls, and what the command calls: configs, their objects, and launches."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asparagus.check import Findings, check, check_from_afar
from asparagus.compose import Request, compose, config_of, spec_of
from asparagus.compose.origins import located
from asparagus.errors import ConfigError, PipelineError, RunError
from asparagus.paths import load_environment
from asparagus.plan import Plan, make_plan
from asparagus.record.standing import Standing, standing
from asparagus.secrets import references
from asparagus.spec import Spec
from asparagus.stopwatch import WATCH, Phase
from asparagus.submit import submit

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from omegaconf import DictConfig

    from asparagus.driver import Outcome, Watcher
    from asparagus.journal import Event

FOLDERS = ("configs", "conf")
"""Where `load_config` looks for experiment files beside the search path, if they are there."""


def load_config(
    overrides: Iterable[str] | None = None,
    config_path: str | Path | None = None,
    config_name: str | None = None,
    job_name: str = "app",  # noqa: ARG001 - as in hydra.initialize; nothing here depends on it
) -> DictConfig:
    """Compose a config, as often as you like in one process.

    ```python
    config = load_config(["experiment/digits", "optim.lr=1e-3"])
    config = load_config(["module/scheduler_spec=step_lr"], config_path="./configs", config_name="config")
    ```

    Args:
        overrides: Hydra's grammar. A value takes dots (`datamodule.dataloader_spec.batch_size=8`); an option of the
            defaults list takes slashes (`module/scheduler_spec=step_lr`); `+key=1` adds and `~key` takes out. The first
            word may name the config, as on the command line.
        config_path: A folder that is searched first; `./configs` if there is one and nothing is said.
        config_name: The config; `config` if neither it nor the first word names one.
        job_name: Accepted as `hydra.initialize` does.

    Returns:
        The composed config, unresolved and unchecked: change it as you like, then `load_from_config` or `launch`.

    Raises:
        ConfigError: There is no such config, or it cannot be composed.
    """
    from omegaconf import OmegaConf

    words = [overrides] if isinstance(overrides, str) else [str(word) for word in overrides or ()]
    if config_name is None and words and _names_config(words[0]):
        config_name = words.pop(0)
    given = [Path(config_path)] if config_path else [Path(name) for name in FOLDERS if Path(name).is_dir()][:1]
    prepare()
    config = config_of(Request(config_name or "config", tuple(words), tuple(given)))
    OmegaConf.set_struct(config, value=False)  # keys may be added: what is unknown is found when it is used
    return config


def load_from_config(
    config: DictConfig | Mapping[str, Any] | Spec,
) -> tuple[pl.Trainer, pl.LightningModule, pl.LightningDataModule]:
    """Build what a config describes, in this process: to look at, to debug, to fit by hand.

    ```python
    trainer, module, datamodule = load_from_config(load_config(["experiment/digits"]))
    trainer.fit(model=module, datamodule=datamodule)
    ```

    Everything is seeded and checked first, `init_from` is loaded. Nothing is recorded: `launch` does that.

    Args:
        config: From `load_config`, or plain values of the same shape.

    Returns:
        Trainer, module, data module.

    Raises:
        ConfigError: Every problem that it has.
    """
    from asparagus.worker.notebook import objects_of

    plan = plan_of(config)
    return objects_of(plan.spec, plan.parent)


def launch(
    config: str | Path | Mapping[str, Any] | DictConfig | Spec | Request,
    overrides: Iterable[str] = (),
    *,
    watcher: Watcher | None = None,
) -> Outcome:
    """Check, plan, train and record an experiment: what `asp-launch` does.

    ```python
    outcome = asparagus.launch("experiment/digits", ["trainer.max_epochs=2"])
    outcome.run_id, outcome.metrics["val/accuracy"]
    ```

    Args:
        config: A name on the search path, a `.yaml` or `.py` file, a config from `load_config` or of your own
            `@hydra.main`, plain values, or a spec.
        overrides: Of a config that is named; one that is composed already takes none.
        watcher: Called with every event of the run's journal, on a thread of its own.

    Returns:
        How it ended: run id, metrics, best checkpoint, folder.

    Raises:
        RequestError: The request is wrong and nothing was started.
        RunError: The training failed; the record says so.
    """
    WATCH.start()  # who calls this has done other things before
    plan = plan_of(config, overrides)
    try:
        return submit(plan, watcher or _quiet)
    except RunError as error:
        if any(references(plan.spec.to_dict())):
            raise error from None  # what it was raised from may say what must not be said
        raise


def prepare() -> None:
    """Read `.env`, and have code of one's own found where this process stands, and in `src/` there."""
    load_environment()
    for place in (str(Path.cwd() / "src"), str(Path.cwd())):
        if place not in sys.path:
            sys.path.insert(0, place)


def plan_of(
    config: str | Path | Mapping[str, Any] | DictConfig | Spec | Request, overrides: Iterable[str] = ()
) -> Plan:
    """Compose, check and plan, without starting anything.

    Raises:
        ConfigError: Every problem, each with the file and line or the override that it came from.
    """
    plan = _planned(config, overrides, check)
    before = _standing(plan, config)
    return dataclasses.replace(plan, notes=(*plan.notes, before.describe())) if before else plan


def plan_for_cluster(config: Request) -> Plan:
    """Compose, check and plan what a cluster will carry out, without looking for what lies there.

    Raises:
        ConfigError: Every problem that can be known from here, each with where it came from.
    """
    return _planned(config, (), check_from_afar)


def _planned(config: Any, overrides: Iterable[str], look: Callable[[Spec], Findings]) -> Plan:
    prepare()
    words = (overrides,) if isinstance(overrides, str) else tuple(overrides)
    if isinstance(config, (str, Path)):
        config = Request(str(config), words)
    elif words:
        raise ConfigError("overrides: this config is composed already. Give them to load_config.")
    try:
        spec = _spec(config)
        WATCH.lap(Phase.COMPOSE)
        plan = planned(spec, look)
        WATCH.lap(Phase.CHECK)
    except PipelineError:
        raise
    except ConfigError as error:
        problems = (*error.problems, *_more(error, look))
        raise ConfigError(*(located(problems, config) if isinstance(config, Request) else problems)) from error
    return plan


def planned(spec: Spec, look: Callable[[Spec], Findings] = check) -> Plan:
    """Check and plan what is composed.

    Args:
        spec: What is asked.
        look: `check`, or what can be checked from another machine.

    Raises:
        RequestError: Every problem that it has.
    """
    found = look(spec)
    return make_plan(spec, cases=found.cases, parent=found.parent, notes=found.notes, fingerprint=found.fingerprint)


def _standing(plan: Plan, config: Any) -> Standing | None:
    """Look for an identical run; a number or name that is another run's is a problem of the config like any other."""
    try:
        return standing(plan.spec, plan.identity)
    except ConfigError as error:
        raise ConfigError(
            *(located(error.problems, config) if isinstance(config, Request) else error.problems)
        ) from error


def _names_config(word: str) -> bool:
    """Tell a config from an override: run folders have `=` in their names."""
    return Path(word).is_file() or not ("=" in word or word.startswith(("~", "+")))


def _more(error: ConfigError, look: Callable[[Spec], Findings]) -> list[str]:
    """Check what could be composed all the same: every problem is said at once, and none of them twice."""
    if not isinstance(error.rest, Spec):
        return []
    said = {_key(problem) for problem in error.problems}
    try:
        look(error.rest)
    except ConfigError as further:
        return [problem for problem in further.problems if not _is_about(_key(problem), said)]
    return []


def _key(problem: str) -> str:
    return problem.partition(": ")[0].removesuffix("._target_")


def _is_about(key: str, said: set[str]) -> bool:
    """Tell whether a key was spoken of already, or something around it or in it."""
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in said)


def _spec(config: Any) -> Spec:
    if isinstance(config, Spec):
        return config
    if isinstance(config, Request):
        return compose(config)
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from asparagus import hydra_plugin

    hydra_plugin.register(list(hydra_plugin.FOLDERS))
    if not isinstance(config, (DictConfig, Mapping)):
        raise ConfigError(
            f"config: a {type(config).__name__} given. Give the name of a config, a .yaml or .py file, a config from "
            "load_config, or a mapping of the same shape."
        )
    try:
        composed = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise ConfigError(f"{key}: {str(error).splitlines()[0]} Values are plain: numbers, texts, lists.") from error
    return spec_of(composed)


def _quiet(event: Event) -> None:
    """See an event and say nothing."""
