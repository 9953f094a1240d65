"""Every mistake is found on the laptop: exit status 2, one message, nothing started, nothing written."""

from __future__ import annotations

import sys
import time

import pytest

from asparagus.cli.main import run

DIGITS = "experiment/digits"

BAD = {
    "no config": ([], ["CONFIG is missing"]),
    "unknown config": (["experiment/digitz"], ["'experiment/digitz'", "Did you mean 'experiment/digits'", "Known:"]),
    "config file not there": (["nowhere/x.yaml"], ["nowhere/x.yaml", "no such file"]),
    "unknown key": ([DIGITS, "optim.lrr=3"], ["optim.lrr", "torch.optim.Adam", "Did you mean 'lr'"]),
    "unknown section": ([DIGITS, "trainr.max_epochs=3"], ["trainr", "Did you mean 'trainer'"]),
    "key without its section": ([DIGITS, "workers=3"], ["workers", "Did you mean 'resources.workers'"]),
    "unknown resource": ([DIGITS, "resources.worker=2"], ["resources.worker:", "'resources.workers'"]),
    "unknown trainer argument": ([DIGITS, "trainer.max_epoch=3"], ["trainer.max_epoch", "Did you mean 'max_epochs'"]),
    "wrong type": ([DIGITS, "resources.workers=two"], ["resources.workers", "'two'", "Integer"]),
    "wrong type of a trainer argument": ([DIGITS, "trainer.max_epochs=many"], ["trainer.max_epochs", "'many'", "int"]),
    "wrong type of a data argument": ([DIGITS, "data.batch_size=big"], ["data.batch_size", "'big'", "int"]),
    "value instead of a section": ([DIGITS, "run=7"], ["run: 7", "section", "id"]),
    "missing mandatory value": (["train_cls"], ["task: is mandatory", "task=..."]),
    "unknown group option": (["train_cls", "task=Task001_Digits", "model=mlpp"], ["'mlpp'", "Did you mean 'mlp'"]),
    "not an override": ([DIGITS, "fast"], ["'fast'", "key=value"]),
    "interpolation to nothing": ([DIGITS, "seed=${nope}"], ["seed", "'nope' not found"]),
    "unknown stage": ([DIGITS, "stage=train_clz"], ["stage: 'train_clz'", "Did you mean 'train_cls'"]),
    "unknown task": ([DIGITS, "task=Task001_Digitz"], ["'Task001_Digitz'", "Task001_Digits"]),
    "task that could be made": ([DIGITS, "task=Task997_LauritSynSeg"], ["asp data make Task997_LauritSynSeg"]),
    "unknown split": ([DIGITS, "data.split=split_70_30"], ["split_70_30", "split_80_20"]),
    "fold out of range": ([DIGITS, "data.fold=9"], ["9", "fold"]),
    "target that is not there": (
        [DIGITS, "model.cls_net._target_=asparagus.models.mlp.MLPP"],
        ["asparagus.models.mlp.MLPP", "Did you mean 'MLP'"],
    ),
    "target in no module": ([DIGITS, "model.cls_net._target_=my.net.Net"], ["my.net.Net", "no module 'my'"]),
    "target without that argument": (
        [DIGITS, "model.cls_net.hiden=[3]"],
        ["model.cls_net.hiden", "Did you mean 'hidden'"],
    ),
    "callback without that argument": (
        [DIGITS, "callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitr: x}"],
        ["callbacks.stop.monitr", "Did you mean 'monitor'"],
    ),
    "callback without a needed argument": (
        [DIGITS, "callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping}"],
        ["callbacks.stop.monitor", "needs it"],
    ),
    "precision": ([DIGITS, "trainer.precision=8-mixed"], ["trainer.precision", "16-mixed"]),
    "strategy that is gone": ([DIGITS, "trainer.strategy=dp"], ["'dp'", "ddp"]),
    "nothing ends it": ([DIGITS, "trainer.max_epochs=null"], ["nothing ends this training"]),
    "unknown optimizer": ([DIGITS, "optim.name=adamm"], ["optim.name", "Did you mean 'adam"]),
    "no learning rate": ([DIGITS, "optim.lr=null"], ["optim.lr: is missing"]),
    "unknown schedule": ([DIGITS, "optim.sched.name=cosin"], ["'cosin'", "Did you mean 'cosine'"]),
    "two warm-ups": (
        [DIGITS, "optim=adamw", "optim.sched.warmup_steps=3"],
        ["warmup_steps", "warmup_ratio", "exclude"],
    ),
    "dimensions": ([DIGITS, "model.dimensions=4D"], ["model.dimensions", "'4D'", "2D, 3D"]),
    "network of another stage": (
        ["train_seg", "task=Task001_Digits", "model=mlp", "data=images"],
        ["model.seg_net", "cls_net"],
    ),
    "no parent": (
        ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images"],
        ["init_from", "run:<id>/best", "train_cls"],
    ),
    "parent run that is not there": (
        ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", "init_from=run:77/last"],
        ["run 77", "no such run", "asp runs"],
    ),
    "parent file that is not there": (
        ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", "init_from=file:/no/such.ckpt"],
        ["/no/such.ckpt does not exist"],
    ),
    "parent of no known kind": (
        ["finetune_cls", "task=Task001_Digits", "model=mlp", "data=images", "init_from=532"],
        ["'532'", "run:<id>/last"],
    ),
    "parent for a stage that takes none": ([DIGITS, "init_from=run:1/last"], ["init_from", "starts from nothing"]),
    "checkpoint name without a run": ([DIGITS, "pretrained_checkpoint_name=x.ckpt"], ["pretrained_run_id"]),
    "task twice": ([DIGITS, "experiment.task=Task002_Other"], ["experiment.task", "same key"]),
    "more workers than the site holds": (
        [DIGITS, "resources.workers=64", "site.cpus_per_node=2"],
        ["resources.workers: 64", "2 cpus", "at most 2"],
    ),
    "more GPUs than the site holds": (
        [DIGITS, "resources=one_gpu", "site.gpus_per_node=0"],
        ["1 gpus", "hold 0"],
    ),
    "group without an option": ([DIGITS, "data=null"], ["data=null", "is a group"]),
    "fold that is no number": ([DIGITS, "data.fold=one"], ["data.fold", "'one'"]),
    "optimizer that is a list": ([DIGITS, "optim.name=[1]"], ["optim.name", "Known"]),
    "module as target": ([DIGITS, "model.cls_net._target_=asparagus.models.mlp"], ["it is a module"]),
    "empty batch": ([DIGITS, "data.batch_size=0"], ["data.batch_size: 0", "least is 1"]),
    "negative accumulation": ([DIGITS, "trainer.accumulate_grad_batches=-2"], ["accumulate_grad_batches: -2"]),
    "endless training": ([DIGITS, "trainer.max_epochs=-1"], ["nothing ends this training"]),
    "site without nodes": ([DIGITS, "site.nodes=-1"], ["site.nodes: -1"]),
    "address that is none": ([DIGITS, "site.address=garbage"], ["site.address", "'garbage'", "host:port"]),
    "negative seed": ([DIGITS, "seed=-1"], ["seed: -1"]),
    "empty task": ([DIGITS, "task="], ["task: no task ''"]),
    "learning rate that is no number": ([DIGITS, "optim.lr=abc"], ["optim.lr", "'abc'"]),
    "strategy that Ray workers do not run": (
        [DIGITS, "resources=one_worker", "trainer.strategy=fsdp"],
        ["trainer.strategy", "'fsdp'", "ddp"],
    ),
    "accelerator on Ray": ([DIGITS, "resources=one_worker", "trainer.accelerator=gpu"], ["trainer.accelerator"]),
    "models on a store": ([DIGITS, "paths.models=s3://bucket/x"], ["ASPARAGUS_MODELS", "only folders"]),
    "negative run id": ([DIGITS, "run.id=-3"], ["run.id: -3"]),
    "patch of two numbers": (
        ["train_seg", "task=Task001_Digits", "data.patch_size=[8,8]"],
        ["data.patch_size", "three numbers"],
    ),
    "negative workers": ([DIGITS, "resources.workers=-1"], ["resources.workers: -1"]),
    "models folder that cannot be written": ([DIGITS, "paths.models=/proc/asparagus"], ["ASPARAGUS_MODELS", "/proc"]),
    "results folder that cannot be written": ([DIGITS, "paths.results=/proc/x"], ["ASPARAGUS_RESULTS", "/proc"]),
    "config folder that is not there": ([DIGITS, "-cd", "/no/such"], ["/no/such", "not a folder"]),
}


@pytest.mark.parametrize(("words", "expected"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_named_and_nothing_is_started(words, expected, home, capsys):
    started = time.monotonic()
    assert run("launch", words) == 2
    assert time.monotonic() - started < 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    for part in expected:
        assert part in said.err, said.err
    assert not (home / "models").exists()
    assert not (home / "results").exists()


def test_all_mistakes_of_a_command_are_listed_at_once(home, capsys):
    assert run("launch", [DIGITS, "optim.lrr=1", "trainer.max_epoch=2", "data.fold=9", "resources.workers=-3"]) == 2
    said = capsys.readouterr().err
    for part in ("optim.lrr", "trainer.max_epoch", "data.fold: 9", "resources.workers: -3"):
        assert part in said


def test_a_mistake_imports_neither_torch_nor_ray_nor_mlflow(home, asp):
    code = (
        "import sys; from asparagus.cli.main import run; "
        "status = run('launch', ['experiment/digits', 'optim.lrr=3']); "
        "heavy = {'torch', 'ray', 'mlflow', 'pytorch_lightning', 'monai', 'sklearn'} & set(sys.modules); "
        "sys.exit(f'{status} {heavy}' if heavy or status != 2 else 0)"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
