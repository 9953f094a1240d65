"""A space against its experiment: what cannot be found by searching is refused before anything is spent on it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from asparagus.api import plan_of
from asparagus.check.signature import signature_of
from asparagus.check.space import check_space, is_ignored
from asparagus.check.sweep import OPTUNAS, TUNES
from asparagus.check.sweep import options as check_options
from asparagus.compose import Request
from asparagus.compose.space import compose_sweep, settled
from asparagus.compose.trial import request_with
from asparagus.errors import ConfigError, PlanError
from asparagus.plan import Plan
from asparagus.space import SAMPLERS, SCHEDULERS, Choice, Dimension, Interval, Space, SweepOptions, Values

DIGITS = "experiment/digits"
ROOMY = ("site.cpus_per_node=8", "site.gpus_per_node=8")
LR = "optim.lr=tag(log,interval(1e-4,1e-1))"


def checked(*words: str, config: str = DIGITS) -> list[Values]:
    """Check a sweep as a launch does; returns the points that were looked at."""
    sweep = compose_sweep(Request(config, (*words, *ROOMY)))
    looked_at: list[Values] = []

    def plan_of_values(values: Values) -> Plan:
        looked_at.append(values)
        return plan_of(request_with(sweep.base, values))

    check_space(sweep.space, settled(sweep.options, sweep.space), plan_of_values)
    return looked_at


def refused(*words: str, config: str = DIGITS) -> str:
    with pytest.raises(ConfigError) as wrong:
        checked(*words, config=config)
    assert wrong.value.exit_status == 2
    return str(wrong.value)


def refused_options(**given: object) -> list[str]:
    return [*check_options(SweepOptions(**{"sampler": "tpe", **given}))]


# ---- keys


def test_each_dimension_is_looked_at_where_it_begins_and_ends(home):
    assert checked(LR, "data.batch_size=16,32,64", "seed=range(1,99)") == [
        {"optim.lr": 1e-4, "data.batch_size": 16, "seed": 1},
        {"optim.lr": 1e-1, "data.batch_size": 16, "seed": 1},
        {"optim.lr": 1e-4, "data.batch_size": 16, "seed": 1},
        {"optim.lr": 1e-4, "data.batch_size": 32, "seed": 1},
        {"optim.lr": 1e-4, "data.batch_size": 64, "seed": 1},
        {"optim.lr": 1e-4, "data.batch_size": 16, "seed": 1},
        {"optim.lr": 1e-4, "data.batch_size": 16, "seed": 98},
    ]


def test_a_branch_is_looked_at_where_it_exists(home):
    (home / "mine.yaml").write_text(
        "defaults: [experiment/digits, _self_]\nsweep:\n  space:\n"
        "    optim: [adam, sgd]\n"
        "    optim.momentum: {low: 0.1, high: 0.9, when: {optim: sgd}}\n"
        "    optim.nesterov: {choice: [false, true], when: {optim.momentum: 0.9}}\n"
        "  constraints: [optim.momentum < 0.95]\n"
    )
    assert checked(config="mine.yaml")[2:] == [
        {"optim": "sgd", "optim.momentum": 0.1},
        {"optim": "sgd", "optim.momentum": 0.9, "optim.nesterov": False},
        {"optim": "sgd", "optim.momentum": 0.9, "optim.nesterov": False},
        {"optim": "sgd", "optim.momentum": 0.9, "optim.nesterov": True},
    ]


def test_points_that_break_a_constraint_are_not_looked_at(home):
    words = (
        "trainer.max_epochs=1,2,9",
        "data.batch_size=16,32",
        "sweep.constraints=trainer.max_epochs*data.batch_size<40",
    )
    assert checked(*words) == [
        {"trainer.max_epochs": 1, "data.batch_size": 16},
        {"trainer.max_epochs": 2, "data.batch_size": 16},
        {"trainer.max_epochs": 1, "data.batch_size": 16},
        {"trainer.max_epochs": 1, "data.batch_size": 32},
    ]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim.lrr=1e-3,1e-2", ["optim.lrr", "Did you mean 'lr'", "command line: optim.lrr=0.001"]),
        ("optim.lr=interval(-1,1)", ["optim.lr", "-1.0 is no positive number", "command line: optim.lr=-1.0"]),
        ("trainer.max_epoch=1,2", ["trainer.max_epoch", "Did you mean 'max_epochs'"]),
        ("optim.name=adam,sdg", ["optim.name: 'sdg' is not known", "Did you mean 'sgd'"]),
        ("data.fold=range(0,99)", ["fold", "98"]),
        ("data.batch_size=interval(1,64)", ["data.batch_size"]),
        ("mdoel.x=1,2", ["mdoel"]),
    ],
)
def test_a_key_or_a_value_that_the_experiment_does_not_have_is_refused(word, said, home):
    text = refused(word)
    for part in said:
        assert part in text


def test_a_problem_is_told_once_and_with_the_values_that_it_comes_with(home):
    text = refused("model=mlp,unet", "model.cls_net.hidden=[8],[16]", "data.fold=0,1")
    (line,) = [line for line in text.splitlines() if line.startswith("model.cls_net.hidden")]
    assert "This is so with model=unet" in line
    assert "sweep.space.model.cls_net.hidden.when" in line
    assert refused("optim.lrr=interval(1,2)", "seed=1,2").count("optim.lrr") == 2  # the key, and the word


def test_what_never_fits_is_told_for_the_values_that_ask_for_it(home):
    def plan_of_values(values: Values) -> None:
        if values["a"] == 2:
            raise PlanError("resources.workers: 2 never fit.")

    with pytest.raises(ConfigError, match=r"^resources.workers: 2 never fit. This is so with a=2.$"):
        check_space(Space((Dimension("a", Choice((1, 2))),)), SweepOptions(sampler="grid"), plan_of_values)


# ---- in vain


@pytest.mark.parametrize(
    "key",
    [
        *(
            "resources.workers",
            "site",
            "site.cpus_per_node",
            "run.label",
            "run.id",
            "paths.models",
            "checkpoint.keep_best",
        ),
        *("data.num_workers", "data.train.num_workers", "data.train.a.pin_memory", "trainer.precision", "logger"),
        *("trainer.log_every_n_steps", "model.compile_mode", "finetune:trainer.precision", "resources@x", "logger/a"),
    ],
)
def test_keys_that_are_no_part_of_the_identity_are_known(key):
    assert is_ignored(key)


@pytest.mark.parametrize(
    "key",
    [
        *("optim.lr", "model", "task", "stage", "seed", "init_from", "transfer.decoder", "run.mode", "data.batch_size"),
        *("run.resume_from_checkpoint", "trainer.max_epochs", "pretrain:optim.lr", "module/x", "epochs", "num_workers"),
        *("loss.precision", "model.precision", "callbacks.a.b", "experiment", "data.root"),
    ],
)
def test_keys_that_may_decide_are_left_to_the_plan(key):
    assert not is_ignored(key)


@pytest.mark.parametrize(
    "word",
    [
        "resources.workers=1,2",
        "trainer.precision=32-true,bf16-mixed",
        "data.num_workers=range(0,3)",
        "run.label=a,b",
        "hardware.precision=32-true,bf16-mixed",
        "transfer.decoder=true,false",
        "data.root=${oc.env:ASPARAGUS_DATA},${oc.env:ASPARAGUS_DATA}/.",
    ],
)
def test_searching_what_does_not_change_the_weights_is_refused(word, home):
    key = word.partition("=")[0]
    text = refused(word, LR)
    (line,) = [line for line in text.splitlines() if line.startswith(f"{key}:")]
    assert "does not change the weights" in line
    assert "searching it finds nothing" in line


def test_a_variable_that_decides_may_be_searched(home):
    words = ("experiment=coming_from_hydra_lightning", "epochs=2,3")
    assert checked(*words, config="train_cls") == [{"epochs": 2}, {"epochs": 3}]


# ---- how it goes


def test_what_a_launch_begins_with_has_no_problem():
    assert refused_options() == []
    assert (
        refused_options(
            sampler={"name": "tpe", "n_startup_trials": 5, "seed": 3},
            scheduler={"name": "asha", "grace_period": 2},
            metric=["val/accuracy"],
            mode="max",
            time="2h",
            disk="50GB",
            storage="journal:/tmp/x",
            resume=7,
            gpu_hours=0.5,
        )
        == []
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sampler": "tpee"}, ["sweep.sampler: 'tpee' is not known", "Did you mean 'tpe'", "brute_force"]),
        ({"sampler": {"n_startup_trials": 5}}, ["sweep.sampler.name: is missing", "tpe"]),
        ({"sampler": {"name": "tpe", "n_startup_trails": 5}}, ["sweep.sampler.n_startup_trails", "'n_startup_trials'"]),
        ({"sampler": {"name": "tpe", "n_startup_trials": "x"}}, ["sweep.sampler.n_startup_trials", "'x'", "int"]),
        ({"sampler": {"name": "tpe", "seed": "x"}}, ["sweep.sampler.seed: 'x' is no seed"]),
        ({"sampler": {"name": "grid", "search_space": {}}}, ["sweep.sampler.search_space: grid takes no arguments"]),
        ({"sampler": "cmaes", "metric": ["a", "b"]}, ["cmaes compares one metric", "nsga2"]),
        ({"sampler": ["tpe"]}, ["sweep.sampler: ['tpe'] given", "{name: ...}"]),
        ({"sampler": {"name": {"x": 1}}}, ["sweep.sampler.name: {'x': 1} is not known"]),
        ({"sampler": {"name": "tpee"}}, ["sweep.sampler.name: 'tpee' is not known", "Did you mean 'tpe'"]),
        ({"scheduler": "ahsa"}, ["sweep.scheduler: 'ahsa' is not known", "Did you mean 'asha'"]),
        ({"scheduler": {"grace_period": 5}}, ["sweep.scheduler.name: is missing", "asha"]),
        (
            {"scheduler": {"name": "asha", "grace_perio": 5}},
            ["sweep.scheduler.grace_perio", "Did you mean 'grace_period'"],
        ),
        ({"scheduler": {"name": "asha", "metric": "x"}}, ["sweep.scheduler.metric: is filled in by the sweep"]),
        ({"scheduler": {"name": "none", "max_t": 1}}, ["sweep.scheduler.max_t: none takes no arguments"]),
        ({"scheduler": "asha", "metric": ["a", "b"]}, ["sweep.scheduler: asha compares one metric", "scheduler=none"]),
        ({"mode": "maximum"}, ["sweep.mode: 'maximum' is not known", "Known: max, min"]),
        ({"metric": ["a", "b"], "mode": "max"}, ["sweep.mode: 1 given (max) for 2 metric(s) (a, b)"]),
        ({"mode": ["max", "min"]}, ["sweep.mode: 2 given", "for 1 metric(s) (the monitor)"]),
        ({"metric": ["a", "a"]}, ["sweep.metric: 'a' is given twice"]),
        ({"trials": 0}, ["sweep.trials: 0 is too small", "The least is 1"]),
        ({"concurrency": -1}, ["sweep.concurrency: -1 is too small"]),
        ({"patience": 0}, ["sweep.patience: 0 is too small"]),
        ({"max_failures": 0}, ["sweep.max_failures: 0 is too small"]),
        ({"keep_best": 0}, ["sweep.keep_best: 0 is too small"]),
        ({"warm_start": 0}, ["sweep.from: 0 is no number of a sweep"]),
        ({"seed": -1}, ["sweep.seed: -1 is not between"]),
        ({"gpu_hours": 0.0}, ["sweep.gpu_hours: 0 leaves hours for nothing"]),
        ({"gpu_hours": float("nan")}, ["sweep.gpu_hours: nan"]),
        ({"time": "3 parsecs"}, ["sweep.time: '3 parsecs' is no time", "30min"]),
        ({"disk": "50 loads"}, ["sweep.disk: '50 loads' is no size", "500MB"]),
        ({"resume": "yes"}, ["sweep.resume: 'yes' given", "the number of a sweep"]),
        ({"resume": 0}, ["sweep.resume: 0 given"]),
        ({"storage": "/tmp/x.db"}, ["sweep.storage: '/tmp/x.db' is no storage", "sqlite:////path/to/file"]),
        ({"storage": "postgresql://me:word@host/x"}, ["sweep.storage: a password", "${secret:"]),
    ],
)
def test_how_a_space_is_searched_is_checked_by_key(given, said):
    (problem,) = refused_options(**given)
    for part in said:
        assert part in problem
    assert "me:word" not in problem


def test_a_name_that_is_misspelt_itself_is_named():
    assert "sweep.scheduler.nae: is not known. Did you mean 'name'?" in refused_options(scheduler={"nae": "asha"})


def test_a_secret_storage_is_the_workplace_s_own_business():
    assert refused_options(storage="${secret:STORE}") == []
    assert refused_options(storage="postgresql://me:${secret:WORD}@host/x") == []


def test_the_arguments_of_every_sampler_and_scheduler_can_be_read():
    assert {*OPTUNAS} == {*SAMPLERS} - {"grid", "brute_force"}
    assert {*TUNES} == {*SCHEDULERS} - {"none"}
    for name in OPTUNAS.values():
        assert "seed" in signature_of(f"optuna.samplers.{name}").parameters
    for name in TUNES.values():
        assert "time_attr" in signature_of(f"ray.tune.schedulers.{name}").parameters


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sweep.metric=val/acc", LR), ["sweep.metric: train_cls logs no 'val/acc'", "Did you mean 'val/accuracy'"]),
        (("sweep.metric=[val/loss,val/dice]", LR), ["logs no 'val/dice'"]),
        (("sweep=asha", "sweep.metric=[val/loss,val/accuracy]", LR), ["sweep.scheduler: asha compares one metric"]),
        (("sweep.trials=0", "optim.lrr=1,2"), ["sweep.trials: 0", "optim.lrr"]),
    ],
)
def test_what_is_compared_is_checked_with_the_experiment(words, said, home):
    text = refused(*words)
    for part in said:
        assert part in text


def test_a_metric_of_a_module_of_one_s_own_is_not_known_here(home):
    own = (
        "task=Own",
        "model.module._target_=pytorch_lightning.demos.boring_classes.BoringModel",
        "data._target_=pytorch_lightning.demos.boring_classes.BoringDataModule",
    )
    assert len(checked(*own, "seed=1,2", "sweep.metric=val/acc", config="train")) == 2


# ---- population based training


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        (Dimension("data.batch_size", Choice((1, 2))), ["data.batch_size: pbt changes", "optim.lr"]),
        (Dimension("optim.name", Choice(("adam", "sgd"))), ["optim.name: pbt changes"]),
        (Dimension("optim.sched.warmup_ratio", Interval(0, 1)), ["optim.sched.warmup_ratio: pbt changes"]),
        (Dimension("optim", Choice(("adam", "sgd"))), ["optim: pbt changes"]),
        (Dimension("optim.momentum", Choice((0.5, None))), ["optim.momentum: None is no number"]),
        (Dimension("optim.nesterov", Choice((False, True))), ["optim.nesterov: False is no number"]),
        (Dimension("optim.betas", Choice(([0.9, 0.99],))), ["optim.betas: [0.9, 0.99] is no number"]),
        (Dimension("optim.eps", Interval(0, 1), {"optim.lr": (0.5,)}), ["optim.eps: exists only beside"]),
    ],
)
def test_population_based_training_changes_numbers_of_the_optimizer_alone(dimension, said):
    space = Space((Dimension("optim.lr", Choice((0.5, 1.0))), dimension))
    with pytest.raises(ConfigError) as wrong:
        check_space(space, SweepOptions(sampler="random", scheduler="pbt"), lambda _: None)
    assert len(wrong.value.problems) == 1
    for part in said:
        assert part in str(wrong.value)


def test_population_based_training_of_the_optimizer_s_numbers_is_fine(home):
    assert checked(LR, "optim.weight_decay=interval(0,0.1)", "sweep=pbt")


# ---- pipelines


@pytest.mark.parametrize(("scheduler", "is_refused"), [("hyperband", True), ("pbt", True), ("asha", False)])
def test_trials_of_a_pipeline_are_not_put_aside(scheduler, is_refused, home):
    one, other = plan_of(DIGITS, ROOMY), plan_of(DIGITS, ("optim.lr=1", *ROOMY))
    space = Space((Dimension("optim.lr", Choice((1e-3, 1.0))),))

    def stages(values: Values) -> Sequence[Plan]:
        return (one, one if values["optim.lr"] == 1e-3 else other)

    options = SweepOptions(sampler="random", scheduler=scheduler)
    if not is_refused:
        check_space(space, options, stages)
        return
    with pytest.raises(ConfigError, match=f"sweep.scheduler: {scheduler} puts trials aside"):
        check_space(space, options, stages)


def test_a_pipeline_in_which_no_stage_changes_is_searched_in_vain(home):
    plan = plan_of(DIGITS, ROOMY)
    with pytest.raises(ConfigError, match="a:nothing: does not change the weights"):
        check_space(
            Space((Dimension("a:nothing", Choice((1, 2))),)), SweepOptions(sampler="grid"), lambda _: (plan, plan)
        )
