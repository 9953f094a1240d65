"""Where things come from: every problem names its file and line or its override; `--info` and `--cfg` show the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from asparagus.cli.main import run
from asparagus.compose import Request
from asparagus.compose.origins import origins_of

ROOT = Path(__file__).parent.parent
DIGITS = "experiment/digits"
MLP = ["task=Task001_Digits", "model=mlp", "data=images"]


def line_of(file: str, begin: str) -> int:
    """Return the line of a shipped file that begins so, indented or not."""
    lines = (ROOT / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if line.strip().startswith(begin))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Launch, see that it is refused, and return the problems, one each."""
    assert run("launch", words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.removeprefix("error: ").strip().splitlines()


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run("launch", words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


# Problems


def test_a_value_of_a_shipped_file_is_found_there(home, capsys):
    (problem,) = refused(["train_cls"], capsys)
    assert problem.startswith("task: is mandatory")
    assert problem.endswith(f"[configs/core/base.yaml:{line_of('configs/core/base.yaml', 'task:')}]")


def test_a_value_of_a_shipped_group_is_found_there(home, capsys):
    problems = refused(["pretrain", "task=Task001_Digits", "+plugins=seg_Task997"], capsys)
    place = f"[configs/plugins/seg_Task997.yaml:{line_of('configs/plugins/seg_Task997.yaml', 'net:')}]"
    told = next(problem for problem in problems if problem.startswith("plugins.online_segmentation.net: "))
    assert told.endswith(place)


def test_a_value_of_a_site_is_found_in_launch(home, capsys):
    (problem,) = refused(
        [
            DIGITS,
            "site=cluster",
            "resources=one_worker",
            "site.nodes=1",
            "site.cpus_per_node=1",
            "resources.cpus_per_worker=4",
        ],
        capsys,
    )
    assert problem.startswith("resources.workers: 1")
    assert problem.endswith(
        f"[configs/resources/one_worker.yaml:{line_of('configs/resources/one_worker.yaml', 'workers:')}]"
    )


def test_a_file_of_ones_own_folder_is_named_from_here(home, capsys):
    write(
        home / "mine/study/first.yaml",
        "# @package _global_\ndefaults:\n  - /experiment/digits\n  - _self_\noptim:\n  lrr: 3\n",
    )
    (problem,) = refused(["study/first", "-cd", "mine"], capsys)
    assert problem.startswith("optim.lrr: ")
    assert problem.endswith("[mine/study/first.yaml:6]")


def test_a_file_by_its_path_is_named_from_here(home, capsys):
    write(home / "sub/first.yaml", "defaults: [experiment/digits, _self_]\n\ntrainer: {max_epoch: 3}\n")
    (problem,) = refused(["sub/first.yaml"], capsys)
    assert problem.endswith("[sub/first.yaml:3]")


def test_a_file_elsewhere_is_named_whole(home, tmp_path_factory, capsys):
    file = write(tmp_path_factory.mktemp("elsewhere") / "first.yaml", "defaults: [experiment/digits, _self_]\nsed: 3\n")
    (problem,) = refused([str(file)], capsys)
    assert problem.endswith(f"[{file}:2]")


@pytest.mark.parametrize("variable", ["ASPARAGUS_CONFIGS", "ASPARAGUS_TRAIN_CONFIGS"])
def test_a_file_of_a_folder_that_the_environment_names_is_found(variable, home, monkeypatch, capsys):
    write(home / "shared/train_mine.yaml", "defaults: [/experiment/digits, _self_]\nsed: 3\n")
    monkeypatch.setenv(variable, str(home / "shared"))
    (problem,) = refused(["train_mine"], capsys)
    assert problem.endswith("[shared/train_mine.yaml:2]")


def test_an_experiment_that_says_only_what_differs_is_found(home, capsys):
    text = (
        "# @package _global_\ndefaults:\n  - override /model: mlp\n  - override /data: images\ntask: Task001_Digits\n"
    )
    write(home / "mine/experiment/other.yaml", f"{text}data:\n  batch_sise: 3\n")
    (problem,) = refused(["train_cls", "experiment=other", "-cd", "mine"], capsys)
    assert problem.startswith("data.batch_sise: ")
    assert problem.endswith("[mine/experiment/other.yaml:7]")


def test_an_option_of_ones_own_group_is_found_where_it_is_written(home, capsys):
    write(home / "mine/optim/slow.yaml", "name: adam\nlr: slow\n")
    problems = refused([DIGITS, "optim=slow", "~optim.lr", "-cd", "mine"], capsys)
    assert problems
    write(home / "mine/optim/typo.yaml", "name: adam\nlr: 0.1\nbetta: 3\n")
    (problem,) = refused([DIGITS, "optim=typo", "-cd", "mine"], capsys)
    assert problem.startswith("optim.betta: ")
    assert problem.endswith("[mine/optim/typo.yaml:3]")


def test_an_option_that_is_not_there_is_found_where_it_is_chosen(home, capsys):
    (problem,) = refused([DIGITS, "optim=adamm"], capsys)
    assert problem.endswith("[command line: optim=adamm]")
    write(home / "first.yaml", "defaults:\n  - experiment/digits\n  - override /optim: adamm\n  - _self_\n")
    (problem,) = refused(["first.yaml"], capsys)
    assert problem.endswith("[first.yaml:3]")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("trainer.max_epochs=many", "trainer.max_epochs"),
        ("run.num_epochs=many", "trainer.max_epochs"),
        ("run.num_iterations=many", "trainer.max_steps"),
        ("run.batch_size_per_gpu=many", "data.batch_size"),
        ("run.seed=many", "seed"),
        ("model.optim.lr=many", "optim.lr"),
        ("exp_manager.checkpoint_callback_params.mode=many", "checkpoint.mode"),
        ("data.splits=many", "data.split"),
        ("run.gpus=many", "run.gpus"),
        ("hardware.precision=many", "trainer.precision"),
        ("hardware.num_devices=many", "trainer.devices"),
        ("datamodule.batch_size=many", "data.batch_size"),
        ("module=many", "model.module"),
        ("plugin=many", "plugins"),
        ("mode=many", "run.mode"),
        ("trainer.logger=many", "trainer.logger"),
    ],
)
def test_an_older_spelling_is_named_as_it_was_typed(override, key, home, capsys):
    problems = refused([DIGITS, override], capsys)
    told = [problem for problem in problems if problem.startswith(f"{key}: ")]
    assert told
    assert all(problem.endswith(f"[command line: {override}]") for problem in told)


def test_an_older_spelling_in_a_file_has_its_line(home, capsys):
    write(home / "first.yaml", "defaults: [experiment/digits, _self_]\nrun:\n  name: x\n  num_epochs: many\n")
    (problem,) = refused(["first.yaml"], capsys)
    assert problem.startswith("trainer.max_epochs: 'many'")
    assert problem.endswith("[first.yaml:4]")


def test_what_wins_is_named(home, capsys):
    write(home / "first.yaml", "defaults: [experiment/digits, _self_]\noptim:\n  lr: -1\n")
    (problem,) = refused(["first.yaml"], capsys)
    assert problem.endswith("[first.yaml:3]")
    (problem,) = refused(["first.yaml", "optim.lr=-2"], capsys)
    assert problem.endswith("[command line: optim.lr=-2]")
    (problem,) = refused(["first.yaml", "optim.lr=-2", "optim.lr=-3"], capsys)
    assert problem.endswith("[command line: optim.lr=-3]")


def test_each_of_several_problems_has_its_own_place(home, capsys):
    write(home / "mine/optim/typo.yaml", "name: adam\nlr: 0.1\nbetta: 3\n")
    text = "defaults:\n  - experiment/digits\n  - override /optim: typo\n  - _self_\ntrainer:\n  max_epoch: 3\nsed: 1\n"
    write(home / "mine/first.yaml", text)
    problems = refused(["first", "-cd", "mine", "data.fold=9", "~optim.lr", "checkpoint.mode=up"], capsys)
    sed = next(problem for problem in problems if problem.startswith("sed: "))
    assert sed.endswith("[mine/first.yaml:7]")
    write(home / "mine/first.yaml", text.replace("sed: 1\n", ""))
    problems = refused(["first", "-cd", "mine", "data.fold=9", "checkpoint.mode=up"], capsys)
    places = {problem.partition(":")[0]: problem.rpartition(" [")[2].rstrip("]") for problem in problems}
    assert places["optim.betta"] == "mine/optim/typo.yaml:3"
    assert places["trainer.max_epoch"] == "mine/first.yaml:6"
    assert places["data.fold"] == "command line: data.fold=9"
    assert places["checkpoint.mode"] == "command line: checkpoint.mode=up"


def test_a_key_below_a_section_that_was_typed_is_named_by_it(home, capsys):
    override = "callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitr: x}"
    problems = refused([DIGITS, override], capsys)
    assert all(problem.endswith(f"[command line: {override}]") for problem in problems)


def test_a_missing_argument_is_named_by_the_target_that_needs_it(home, capsys):
    text = "callbacks:\n  stop:\n    patience: 3\n    _target_: pytorch_lightning.callbacks.EarlyStopping\n"
    write(home / "first.yaml", f"defaults: [experiment/digits, _self_]\n{text}")
    (problem,) = refused(["first.yaml"], capsys)
    assert problem.startswith("callbacks.stop.monitor: ")
    assert problem.endswith("[first.yaml:5]")


def test_a_config_in_python_has_the_line_of_its_name(home, capsys):
    write(home / "mine.py", "task = 'Task001_Digits'\n\nlearning_rate = -1\n")
    problems = refused(["mine.py", "data.patch_size=[8,8]"], capsys)
    told = next(problem for problem in problems if problem.startswith("optim.lr: "))
    assert told.endswith("[mine.py:3]")


def test_a_config_that_is_composed_already_has_no_places(home):
    import asparagus
    from asparagus.errors import ConfigError

    with pytest.raises(ConfigError) as told:
        asparagus.launch(asparagus.load_config([DIGITS, "optim.lrr=3"]))
    assert told.value.problems[0].startswith("optim.lrr: ")


# --info


def test_info_shows_defaults_folders_and_keys(home, capsys):
    write(home / "mine/experiment/digits.yaml", (ROOT / "configs/experiment/digits.yaml").read_text())
    shown = printed([DIGITS, "--info", "-cd", "mine", "optim=sgd", "optim.lr=0.5"], capsys)
    defaults, folders, keys = shown.split("\n\n")
    order = [line.split()[0] for line in defaults.splitlines()[1:]]
    assert order[-1] == DIGITS
    assert order.index("core/base") < order.index("train_cls") < order.index(DIGITS)
    assert "optim/sgd" in order
    assert "optim/adam" not in order
    assert any(line.split()[1:] == ["@optim", "configs/optim/sgd.yaml"] for line in defaults.splitlines())
    assert any(line.split()[1:] == ["@_global_", "mine/experiment/digits.yaml"] for line in defaults.splitlines())
    searched = [line.strip() for line in folders.splitlines()[1:]]
    assert searched == [str(home / "mine"), str(ROOT / "configs"), str(ROOT / "launch")]
    rows = {line.split()[0]: line for line in keys.splitlines()[1:]}
    assert "command line: optim.lr=0.5" in rows["optim.lr"]
    assert f"configs/optim/sgd.yaml:{line_of('configs/optim/sgd.yaml', 'momentum:')}" in rows["optim.momentum"]
    assert "mine/experiment/digits.yaml:" in rows["trainer.max_epochs"]


@pytest.mark.parametrize("words", [["--info", "optim.lr"], ["--info=optim.lr"]])
def test_info_of_a_key_shows_all_that_set_it_and_who_wins(words, home, capsys):
    shown = printed([DIGITS, "optim.lr=0.5", *words], capsys).splitlines()
    assert [line.split()[:2] for line in shown] == [["optim.lr", "1.0e-3"], ["optim.lr", "3.0e-3"], ["optim.lr", "0.5"]]
    assert f"configs/optim/adam.yaml:{line_of('configs/optim/adam.yaml', 'lr:')}" in shown[0]
    assert f"configs/experiment/digits.yaml:{line_of('configs/experiment/digits.yaml', 'lr:')}" in shown[1]
    assert "command line: optim.lr=0.5" in shown[2]
    assert [line.endswith("<- wins") for line in shown] == [False, False, True]


def test_info_of_a_section_shows_what_is_in_it(home, capsys):
    shown = printed([DIGITS, "--info", "checkpoint"], capsys)
    assert {line.split()[0] for line in shown.splitlines()} == {
        "checkpoint",
        *(
            f"checkpoint.{key}"
            for key in ("monitor", "mode", "every_n_epochs", "keep_best", "keep_every_n_epochs", "quota")
        ),
    }


def test_info_of_a_config_alone(home, capsys):
    assert printed(["--info", DIGITS], capsys) == printed([DIGITS, "--info"], capsys)


def test_info_of_an_unknown_key_names_the_nearest(home, capsys):
    (problem,) = refused([DIGITS, "--info", "optim.lrr"], capsys)
    assert problem.startswith("--info: nothing sets 'optim.lrr'. Did you mean 'optim.lr'?")


def test_info_of_a_config_that_cannot_be_composed(home, capsys):
    (problem,) = refused([DIGITS, "model=mlpp", "--info"], capsys)
    assert problem.startswith("model: 'mlpp'")


def test_info_shows_a_broken_value_all_the_same(home, capsys):
    assert "command line: optim.lrr=3" in printed([DIGITS, "optim.lrr=3", "--info", "optim.lrr"], capsys)


def test_info_hides_what_a_file_should_not_hold(home, capsys):
    write(home / "first.yaml", "defaults: [experiment/digits, _self_]\nrun:\n  name: secret:hunter2\n")
    shown = printed(["first.yaml", "--info"], capsys)
    assert "hunter2" not in shown
    assert "first.yaml:3" in shown


def test_info_runs_and_writes_nothing(home, capsys):
    before = sorted(home.rglob("*"))
    printed([DIGITS, "--info"], capsys)
    assert sorted(home.rglob("*")) == before


def test_origins_know_every_place_in_order(home):
    found = origins_of(Request(DIGITS, ("optim.lr=1", "+trainer.max_time=00:01:00:00", "~loss")))
    assert [item.where for item in found.of("optim.lr")][-1] == "command line: optim.lr=1"
    assert found.nearest("trainer.max_time").where == "command line: +trainer.max_time=00:01:00:00"
    assert found.nearest("loss").where == "command line: ~loss"
    assert found.nearest("nothing.at.all") is None


# --cfg


def test_cfg_job_is_the_config_as_it_is_written(home, capsys):
    shown = yaml.safe_load(printed(["train_cls", "--cfg", "job"], capsys))
    assert shown["task"] == "???"
    assert shown["model"]["cls_net"]["features"] == "${model.features}"
    assert "hydra" not in shown


def test_cfg_job_shows_overrides_also_wrong_ones(home, capsys):
    shown = yaml.safe_load(printed([DIGITS, "optim.lrr=3", "--cfg", "job"], capsys))
    assert shown["optim"] == {"name": "adam", "lr": 3e-3, "lrr": 3}


def test_cfg_job_resolved_shows_what_interpolations_stand_for(home, capsys):
    shown = yaml.safe_load(
        printed(["train_cls", "task=Mine", "run.name=${task}-1", "--cfg", "job", "--resolve"], capsys)
    )
    assert shown["model"]["cls_net"]["features"] == shown["model"]["features"] == [16, 32, 64, 128]
    assert shown["run"]["name"] == "Mine-1"


def test_cfg_job_resolved_says_what_cannot_be(home, capsys):
    (problem,) = refused([DIGITS, "run.name=${nowhere_set}", "--cfg", "job", "--resolve"], capsys)
    assert problem.startswith("run.name: ")
    assert "nowhere_set" in problem


def test_cfg_hydra_is_hydras_own_section(home, capsys):
    shown = yaml.safe_load(printed([DIGITS, "--cfg", "hydra"], capsys))
    assert {"run", "sweep", "launcher", "job", "runtime"} <= shown.keys()
    assert "optim" not in shown


def test_cfg_all_is_both(home, capsys):
    shown = yaml.safe_load(printed([DIGITS, "--cfg", "all"], capsys))
    job = yaml.safe_load(printed([DIGITS, "--cfg", "job"], capsys))
    assert shown.keys() == {*job, "hydra"}
    assert {key: value for key, value in shown.items() if key != "hydra"} == job


@pytest.mark.parametrize("part", ["hydra", "all"])
def test_what_is_hydras_can_be_shown_resolved(part, home, capsys):
    assert yaml.safe_load(printed([DIGITS, "--cfg", part, "--resolve"], capsys))


@pytest.mark.parametrize("section", ["optim", "model.cls_net"])
def test_a_package_of_it(section, home, capsys):
    job = yaml.safe_load(printed([DIGITS, "--cfg", "job"], capsys))
    for name in section.split("."):
        job = job[name]
    assert yaml.safe_load(printed([DIGITS, "--cfg", "job", "--package", section], capsys)) == job


def test_a_package_that_refers_to_another_section_is_resolved(home, capsys):
    words = ["train_cls", "task=Mine", "--cfg", "job", "--package", "model.cls_net", "--resolve"]
    shown = yaml.safe_load(printed(words, capsys))
    assert shown["features"] == [16, 32, 64, 128]


def test_a_package_of_hydra(home, capsys):
    assert "dir" in yaml.safe_load(printed([DIGITS, "--cfg", "hydra", "--package", "run"], capsys))


def test_an_unknown_package_is_answered_with_those_there(home, capsys):
    (problem,) = refused([DIGITS, "--cfg", "job", "--package", "optm"], capsys)
    assert problem.startswith("--package: there is no section 'optm'")
    assert "optim" in problem


@pytest.mark.parametrize("words", [["--cfg", "job"], ["--cfg", "job", "--resolve"], ["--cfg", "all"], []])
def test_what_a_file_should_not_hold_is_never_shown(words, home, capsys):
    write(home / "first.yaml", "defaults: [experiment/digits, _self_]\nrun:\n  name: secret:hunter2\n")
    assert run("launch", ["first.yaml", *words]) == (2 if "--cfg" not in words or "--resolve" in words else 0)
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err


def test_cfg_runs_and_writes_nothing(home, capsys):
    before = sorted(home.rglob("*"))
    for part in ("job", "hydra", "all"):
        printed([DIGITS, "--cfg", part], capsys)
    assert sorted(home.rglob("*")) == before


# Keys that nothing reads

UNREAD = {
    "": [],
    "model.": [],
    "model.cls_net.": [],
    "model.module.": [],
    "model.seg_net.": ["model.seg_net._target_=asparagus.models.unet.UNet"],
    "data.": [],
    "optim.": [],
    "optim.sched.": ["optim=adamw"],
    "loss.": [],
    "trainer.": [],
    "trainer.max_time.": ["trainer.max_time={hours: 3}"],
    "callbacks.": [],
    "callbacks.stop.": ["callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss}"],
    "plugins.": [],
    "logger.": [],
    "logger.csv.": ["logger=csv"],
    "logger.tensorboard.": ["logger=tensorboard"],
    "script.": [],
    "transfer.": [],
    "checkpoint.": [],
    "resources.": [],
    "run.": [],
    "site.": [],
    "paths.": [],
    "hardware.": ["hardware=cpu"],
    "exp_manager.": [],
    "experiment.": [],
    "learner.": ["learner._target_=asparagus.stages.cls.ClsModule"],
}
"""Every place where a key may stand, and what makes the place."""
NOT_NAMED = ("script.", "experiment.")
"""Where the section itself is what is wrong."""


@pytest.mark.parametrize("place", UNREAD)
def test_a_key_that_nothing_reads_is_refused_wherever_it_stands(place, home, capsys):
    problems = refused([DIGITS, *UNREAD[place], f"{place}unread_key=1"], capsys)
    told = [problem for problem in problems if problem.endswith(f"[command line: {place}unread_key=1]")]
    assert told, problems
    assert place in NOT_NAMED or any("unread_key" in problem.partition(" [")[0] for problem in told), told


@pytest.mark.parametrize("place", [place for place in UNREAD if place not in NOT_NAMED])
def test_a_key_that_nothing_reads_is_refused_in_a_file_with_its_line(place, home, capsys):
    *sections, _ = place.split(".")
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(sections)] + [f"{'  ' * len(sections)}unread_key: 1"]
    write(home / "first.yaml", "defaults:\n  - experiment/digits\n  - _self_\n" + "\n".join(lines) + "\n")
    problems = refused(["first.yaml", *UNREAD[place]], capsys)
    assert any(problem.endswith(f"[first.yaml:{3 + len(lines)}]") for problem in problems), problems


@pytest.mark.parametrize("place", ["data.train.", "data.train.dataset.", "data.val.dataset."])
def test_a_key_of_a_loader_that_nothing_reads_is_refused(place, home, capsys):
    word = f"{place}unread_key=1"
    problems = refused(["experiment/coming_from_sesemi", word], capsys)
    assert any(problem.startswith(f"{place}unread_key: ") and word in problem for problem in problems), problems


def test_a_variable_is_read_by_who_refers_to_it(home, capsys):
    write(home / "first.yaml", "defaults: [experiment/digits, _self_]\nmy:\n  rate: 0.1\noptim:\n  lr: ${my.rate}\n")
    assert "lr 0.1" in printed(["first.yaml", "--dry-run"], capsys)


def test_a_part_of_a_variable_that_nothing_reads_is_refused(home, capsys):
    text = "defaults: [experiment/digits, _self_]\nmy:\n  rate: 0.1\n  wasted: 3\noptim:\n  lr: ${my.rate}\n"
    write(home / "first.yaml", text)
    (problem,) = refused(["first.yaml"], capsys)
    assert problem.startswith("my.wasted: nothing reads it")
    assert problem.endswith("[first.yaml:4]")


def test_a_variable_that_is_read_whole_has_no_part_to_spare(home, capsys):
    text = "defaults: [experiment/digits, _self_]\nmy: {lr: 0.1, eps: 1.0e-7}\noptim: ${my}\n"
    write(home / "first.yaml", text)
    assert run("launch", ["first.yaml", "--dry-run", "optim.name=adam"]) in (0, 2)
    assert "my." not in capsys.readouterr().err


def test_an_option_with_its_ending_is_found(home, capsys):
    write(home / "mine/experiment/sub/a.yaml", "# @package _global_\nseed: 1\ntrainer: {max_epoch: 3}\n")
    words = ["train_cls", "task=Task001_Digits", "experiment=sub/a.yaml", "model=mlp", "data=images", "-cd", "mine"]
    problem = next(problem for problem in refused(words, capsys) if problem.startswith("trainer.max_epoch: "))
    assert problem.endswith("[mine/experiment/sub/a.yaml:3]")
