"""Every mistake is found on the laptop: exit status 2, one message, nothing started, nothing written."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asparagus.check.trainer import LEAST, ONE_OF, OURS, SHARES
from asparagus.cli.main import run
from asparagus.record.numbers import claim

DIGITS = "experiment/digits"

CASES_2D = ["task=Task001_Digits", "data=images", "model.dimensions=2D"]

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
    "classes of a network that are not the data's": (
        [DIGITS, "+model.cls_net.out_channels=7"],
        ["model.cls_net.out_channels: 7 contradicts the data, which need 10 (out_channels)", "Leave"],
    ),
    "classes of a network under another name": (
        ["train_cls", *CASES_2D, "model=resnet", "+model.cls_net.num_classes=3"],
        ["model.cls_net.num_classes: 3 contradicts the data, which need 10"],
    ),
    "channels of a network that are not the data's": (
        [DIGITS, "+model.cls_net.in_channels=3"],
        ["model.cls_net.in_channels: 3 contradicts the data, which need 1"],
    ),
    "samples that are no number": ([DIGITS, "max_samples=abc"], ["trainer.max_samples: 'abc'", "[command line"]),
    "samples that fill no step": ([DIGITS, "trainer.max_samples=9"], ["trainer.max_samples: 9 do not fill", "64"]),
    "samples of batches of nobody": (
        [DIGITS, "trainer.max_samples=900", "data.batch_size=null"],
        ["trainer.max_samples: steps are counted by data.batch_size"],
    ),
    "no batches": ([DIGITS, "data.iterations_per_epoch=0"], ["data.iterations_per_epoch: 0 is too small"]),
    "two lengths of an epoch": (
        [DIGITS, "data.iterations_per_epoch=3", "steps_per_epoch=3", "data.samples_per_epoch=3"],
        ["data.iterations_per_epoch: 3 and data.samples_per_epoch: 3 exclude each other"],
    ),
    "warm-up in epochs and in a share": (
        [DIGITS, "optim=adamw", "optim.sched.warmup_epochs=3"],
        ["warmup_ratio and warmup_epochs exclude each other"],
    ),
    "less than no epoch": (
        [DIGITS, "optim.sched={name: cosine, warmup_epochs: -1}"],
        ["optim.sched.warmup_epochs: -1 is no number from 0"],
    ),
    "unknown loss": (
        ["train_cls", "task=Task001_Digits", "model=mlp", "data=images", "loss._target_=torch.nn.CrossEntropyLos"],
        ["loss._target_", "torch.nn has no 'CrossEntropyLos'", "Did you mean 'CrossEntropyLoss'"],
    ),
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
        [DIGITS, "resources=one_worker", "trainer.strategy=xla"],
        ["trainer.strategy", "'xla'", "ddp"],
    ),
    "accelerator on Ray": ([DIGITS, "resources=one_worker", "trainer.accelerator=gpu"], ["trainer.accelerator"]),
    "key of another experiment": ([DIGITS, "epochs=1"], ["epochs: no such key", "[command line: epochs=1]"]),
    "key of a section at the root": ([DIGITS, "batch_size=4"], ["batch_size: no such key", "'data.batch_size'"]),
    "accelerator typed beside a group": ([DIGITS, "hardware=cpu", "trainer.accelerator=gpu"], ["no NVIDIA GPU"]),
    "home of nobody": ([DIGITS, "data.root='~nobodyhere/x'"], ["~nobodyhere/x", "no user of that name"]),
    "folder of nobody": ([DIGITS, "-cd", "~nobodyhere/x"], ["~nobodyhere/x", "no user of that name"]),
    "state that is no checkpoint": ([DIGITS, "run.resume_from_checkpoint=/etc/passwd"], ["torch.save", "Lightning"]),
    "random of a letter": ([DIGITS, "seed=${random:a}"], ["seed", "two whole numbers"]),
    "logger switched on by a word": (
        [DIGITS, "exp_manager.create_wandb_logger=no"],
        ["exp_manager.create_wandb_logger: 'no'", "true or false"],
    ),
    "data root without the task": ([DIGITS, "data.root=/nonexistent"], ["'Task001_Digits' in /nonexistent"]),
    "store of no kind that is known": ([DIGITS, "paths.models=ftp://bucket/x"], ["ftp://bucket/x", "s3://BUCKET"]),
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

EARLY = "pytorch_lightning.callbacks.EarlyStopping"
STEP = "torch.optim.lr_scheduler.StepLR"
DONE = ["task=Task001_Digits", "model=mlp", "data=images"]

GRAMMAR = {
    "unclosed bracket": ([DIGITS, "data.patch_size=[8,8"], ["data.patch_size=[8,8", "cannot be read"]),
    "unclosed brace": ([DIGITS, "optim={name: adam"], ["optim={name: adam", "cannot be read"]),
    "unclosed quote": ([DIGITS, "run.name='mine"], ["run.name='mine", "cannot be read"]),
    "unclosed interpolation": ([DIGITS, "run.name=${task"], ["run.name=${task", "cannot be read"]),
    "equals alone": ([DIGITS, "="], ["'='", "key=value"]),
    "value without a key": ([DIGITS, "=3"], ["'=3'", "key=value"]),
    "plus alone": ([DIGITS, "+"], ["'+'", "key=value"]),
    "tilde alone": ([DIGITS, "~"], ["'~'", "key=value"]),
    "key that begins with a dot": ([DIGITS, ".lr=3"], [".lr=3", "cannot be read"]),
    "two dots": ([DIGITS, "optim..lr=3"], ["optim..lr=3", "cannot be read"]),
    "plus on what is there": ([DIGITS, "+optim.lr=3"], ["optim.lr: is there already", "without the plus"]),
    "plus on what nothing reads": (
        [DIGITS, "+resources.worker=3"],
        ["resources.worker: no such key", "+resources.worker"],
    ),
    "tilde on what is not there": ([DIGITS, "~optim.nothing"], ["~optim.nothing: there is no such key", "--cfg job"]),
    "tilde on a whole section that is not there": ([DIGITS, "~nothing"], ["~nothing: there is no such key"]),
    "stage taken out": ([DIGITS, "~stage"], ["stage: is mandatory", "~stage"]),
    "task taken out": ([DIGITS, "~task"], ["task: is mandatory", "~task"]),
    "network taken out": ([DIGITS, "~model"], ["model.cls_net", "train_cls needs a network"]),
    "data taken out": ([DIGITS, "~data"], ["data._target_: is missing"]),
    "optimizer taken out": ([DIGITS, "~optim"], ["optim.name: is missing"]),
    "several values": ([DIGITS, "optim.lr=1,2"], ["optim.lr=1,2", "one run takes one"]),
    "several options": ([DIGITS, "optim=adam,sgd"], ["optim=adam,sgd", "one run takes one"]),
    "choice of a sweep": ([DIGITS, "optim.lr=choice(1,2)"], ["choice(1,2)", "one run takes one"]),
    "range of a sweep": ([DIGITS, "seed=range(1,3)"], ["range(1,3)", "one run takes one"]),
    "interval of a sweep": ([DIGITS, "optim.lr=tag(log,interval(0,1))"], ["interval(0,1)", "one run takes one"]),
    "run folder of Hydra": ([DIGITS, "hydra.run.dir=/tmp/x"], ["hydra.run.dir", "does not run here"]),
    "launcher of Hydra": ([DIGITS, "hydra/launcher=joblib"], ["hydra/launcher", "does not run here"]),
    "new key of Hydra": ([DIGITS, "+hydra.mine=3"], ["hydra.mine", "does not run here"]),
    "all of Hydra": ([DIGITS, "hydra=3"], ["hydra: ", "does not run here"]),
    "key of Hydra taken out": ([DIGITS, "~hydra.run"], ["hydra.run", "does not run here"]),
    "search path that is no list": ([DIGITS, "hydra.searchpath=3"], ["hydra.searchpath", "list"]),
    "option with a dot": ([DIGITS, "optim.adam=1"], ["optim.adam", "torch.optim.Adam takes no such argument"]),
    "dotted group": (["train_cls", *DONE, "core.base=x"], ["core: no such key", "core.base=x"]),
    "unknown option of a group that was added": (
        [DIGITS, "+hardware=8gpu"],
        ["hardware: '8gpu'", "Did you mean '1gpu'"],
    ),
    "unknown option without a plus": ([DIGITS, "logger=wandbb"], ["logger: 'wandbb'", "Did you mean 'wandb'"]),
    "unknown site": ([DIGITS, "site=clusterr"], ["site: 'clusterr'", "Did you mean 'cluster'"]),
    "option that is a number": ([DIGITS, "trainer=3"], ["trainer: '3'", "Known: default"]),
    "option that is a truth value": ([DIGITS, "resources=true"], ["resources: 'true'", "in_process"]),
    "empty option": ([DIGITS, "optim="], ["optim=", "is a group"]),
    "unknown experiment": (["train_cls", "experiment=digitz"], ["experiment: 'digitz'", "Did you mean 'digits'"]),
    "experiment out of the tree": (["train_cls", "experiment=../../x"], ["../../x", "leads out"]),
    "experiment that extends a stage": (
        ["train_cls", "experiment=digits"],
        ["comes back to itself", "experiment/NAME"],
    ),
    "option at a package that is not there": ([DIGITS, "optim@mine=adam"], ["optim@mine", "+optim@mine=adam"]),
    "option at a package that nothing reads": ([DIGITS, "+optim@mine=adam"], ["mine: no such key"]),
    "two packages": ([DIGITS, "model@a@b=unet"], ["model@a@b=unet", "cannot be read"]),
    "package of a value": ([DIGITS, "task@mine=x"], ["task@mine=x", "config group 'task' does not exist"]),
    "list for a section": ([DIGITS, "optim=adamw", "optim.sched=[1]"], ["optim.sched: [1]", "one is a list"]),
    "section for a list": ([DIGITS, "model.cls_net.hidden={a: 1}"], ["model.cls_net.hidden", "one is a list"]),
    "two configs": ([DIGITS, "train_cls"], ["'train_cls'", "is not an override"]),
    "config name that is not there": (["train_cls", "-cn", "train_clz"], ["'train_clz'", "Did you mean 'train_cls'"]),
    "config with a dot": (["experiment.digits"], ["'experiment.digits'", "Did you mean 'experiment/digits'"]),
    "config that is a folder": (["experiment"], ["'experiment' is not known"]),
    "option as a config": (["model/mlp"], ["task: is mandatory", "stage: is mandatory"]),
    "resolve without cfg": ([DIGITS, "--resolve"], ["--resolve", "--cfg"]),
    "package without cfg": ([DIGITS, "--package", "model"], ["--package", "--cfg"]),
    "package that is not there": (
        [DIGITS, "--cfg", "job", "--package", "modl"],
        ["--package", "'modl'", "Known: ", "model"],
    ),
    "package that is a value": ([DIGITS, "--cfg", "job", "--package", "task"], ["--package", "'task'"]),
    "info of what nothing sets": ([DIGITS, "--info", "optim.lrr"], ["--info", "optim.lrr", "Did you mean 'optim.lr'"]),
}
"""Words of Hydra's grammar, its defaults lists and its options."""

VALUES = {
    "interpolation to itself": ([DIGITS, "run.name=${run.name}"], ["run.name", "Recursive"]),
    "relative interpolation to nothing": ([DIGITS, "run.name=${.nothing}"], ["run.name", "nothing"]),
    "relative interpolation out of the config": ([DIGITS, "run.name=${....x}"], ["run.name", "....x"]),
    "interpolation into a number": ([DIGITS, "optim.lr=${data.batch_size.x}"], ["optim.lr", "data.batch_size"]),
    "interpolation of the wrong type": ([DIGITS, "optim.lr=${task}"], ["optim.lr: 'Task001_Digits'"]),
    "arithmetic": ([DIGITS, "seed=${eval:1+1}"], ["seed: ${eval:...} is no resolver", "do not compute"]),
    "unknown resolver": ([DIGITS, "run.name=${env:HOME}"], ["run.name: ${env:...}", "Did you mean 'oc.env'"]),
    "unknown attribute of the run": (
        [DIGITS, "optim.lr=${asparagus:num_gpu}"],
        ["optim.lr", "Did you mean 'num_gpus'"],
    ),
    "attribute of the run where it is not known": (
        [DIGITS, "seed=${asparagus:num_gpus}"],
        ["seed", "when the run is planned"],
    ),
    "variable of the environment that is not set": ([DIGITS, "run.name=${oc.env:NOT_SET}"], ["run.name", "NOT_SET"]),
    "question marks": ([DIGITS, "optim.lr=???"], ["optim.lr: is mandatory"]),
    "question marks for a target": ([DIGITS, "model.cls_net._target_=???"], ["model.cls_net._target_: is mandatory"]),
    "secret that is not set": ([DIGITS, "run.name=${secret:NOT_SET_TOKEN}"], ["run.name", "NOT_SET_TOKEN is not set"]),
    "secret in plain text": (
        [DIGITS, "run.name=secret:abc"],
        ["run.name", "plain text", "${secret:NAME_OF_THE_VARIABLE}"],
    ),
    "password in the tracking address": (
        [DIGITS, "site.tracking_uri=http://me:hunter2@host"],
        ["site.tracking_uri", "plain text"],
    ),
    "seed that is a text": ([DIGITS, "seed=abc"], ["seed", "'abc'", "Integer"]),
    "seed that is a fraction": ([DIGITS, "seed=1.5"], ["seed", "1.5", "Integer"]),
    "seed that numpy does not take": ([DIGITS, "seed=4294967296"], ["seed: 4294967296 is too large", "4294967295"]),
    "no task": ([DIGITS, "task=null"], ["task: ", "not Optional"]),
    "task that is a list": ([DIGITS, "task=[a]"], ["task: "]),
    "task out of the folder": ([DIGITS, "task=../x"], ["task: no task '../x'"]),
    "no stage": ([DIGITS, "stage=null"], ["stage: ", "not Optional"]),
    "parent that is a list": ([DIGITS, "init_from=[1]"], ["init_from"]),
    "dimensions without a D": ([DIGITS, "model.dimensions=2"], ["model.dimensions: 2 is not known", "2D, 3D"]),
    "volumes of flat cases": ([DIGITS, "model.dimensions=3D"], ["model.dimensions: 3D does not fit Task001_Digits"]),
    "network that is a text": ([DIGITS, "model.cls_net=mlp"], ["model.cls_net", "_target_"]),
    "network that is nothing": ([DIGITS, "model.cls_net=null"], ["model.cls_net", "needs a network"]),
    "layers that are a number": ([DIGITS, "model.cls_net.hidden=3"], ["model.cls_net.hidden: 3", "Sequence[int]"]),
    "layers that are texts": ([DIGITS, "model.cls_net.hidden=[a]"], ["model.cls_net.hidden: ['a']", "Sequence[int]"]),
    "target that is a number": ([DIGITS, "model.cls_net._target_=3"], ["model.cls_net._target_"]),
    "target without a dot": ([DIGITS, "model.cls_net._target_=MLP"], ["model.cls_net._target_: 'MLP'", "imports"]),
    "target with two dots": (
        [DIGITS, "model.cls_net._target_=a..b"],
        ["model.cls_net._target_: a..b", "not a dotted path"],
    ),
    "target that is misspelt": (
        [DIGITS, "model.cls_net._targt_=a.b"],
        ["model.cls_net._targt_", "Did you mean '_target_'"],
    ),
    "target that is no network": (
        [DIGITS, f"model.cls_net._target_={EARLY}"],
        ["model.cls_net._target_", "is no Module"],
    ),
    "network that is a function": (
        [DIGITS, "model.cls_net._partial_=true"],
        ["model.cls_net._partial_", "Leave it out"],
    ),
    "partial that is a text": ([DIGITS, "model.cls_net._partial_=maybe"], ["model.cls_net._partial_: 'maybe'", "bool"]),
    "positional arguments that are none": ([DIGITS, "model.cls_net._args_=3"], ["model.cls_net._args_: 3", "list"]),
    "module that is a number": ([DIGITS, "model.module=3"], ["model.module: 3", "section"]),
    "module that is a path": ([DIGITS, "model.module=my.Module"], ["model.module: 'my.Module'", "section"]),
    "module that is not there": (
        [DIGITS, "model.module._target_=mine.Mine"],
        ["model.module._target_", "no module 'mine'"],
    ),
    "module that is no LightningModule": (
        [DIGITS, "model.module._target_=torch.nn.ReLU"],
        ["model.module._target_: torch.nn.ReLU is no LightningModule"],
    ),
    "module without that argument": ([DIGITS, "model.module.nett=3"], ["model.module.nett", "Did you mean 'net'"]),
    "module of one's own left out": (["train", "task=Mine"], ["model.module._target_", "of your own"]),
    "network of another stage that is not there": (
        [DIGITS, "model.seg_net={_target_: nowhere.Net}"],
        ["model.seg_net._target_", "no module 'nowhere'"],
    ),
    "number of layers that is a text": (
        [DIGITS, "model.plugin_seg_train_n_last_params=some"],
        ["model.plugin_seg_train_n_last_params: 'some'"],
    ),
    "compile mode": ([DIGITS, "model.compile_mode=fast"], ["model.compile_mode: 'fast'", "reduce-overhead"]),
    "key of the model that nothing reads": ([DIGITS, "model.features=[1]"], ["model.features: nothing reads it"]),
    "data that are a number": ([DIGITS, "datamodule=3"], ["data: ", "datamodule=3"]),
    "data module that is none": (
        [DIGITS, "data._target_=torch.nn.ReLU"],
        ["data._target_: torch.nn.ReLU is no LightningDataModule"],
    ),
    "batch of a fraction": ([DIGITS, "data.batch_size=1.5"], ["data.batch_size: 1.5", "int"]),
    "no batch": ([DIGITS, "data.batch_size=null"], ["data.batch_size: None", "int"]),
    "batch that is a truth value": ([DIGITS, "data.batch_size=true"], ["data.batch_size: True", "int"]),
    "split that is a number": ([DIGITS, "data.split=3"], ["data.split: 3", "str"]),
    "no split": ([DIGITS, "data.split=null"], ["data.split: None", "str"]),
    "negative fold": ([DIGITS, "data.fold=-1"], ["data.fold: -1 is not a fold", "0 to 4"]),
    "no fold": ([DIGITS, "data.fold=null"], ["data.fold: None", "int"]),
    "patch of nothing": ([DIGITS, "data.patch_size=[0,8]"], ["data.patch_size: [0, 8]", "at least 1"]),
    "patch of one number": ([DIGITS, "data.patch_size=[8]"], ["data.patch_size: [8]", "two numbers"]),
    "patch that is a number": ([DIGITS, "data.patch_size=8"], ["data.patch_size: 8", "Sequence[int]"]),
    "patch that is a text": ([DIGITS, "data.patch_size=big"], ["data.patch_size: 'big'"]),
    "augmentation that is a text": ([DIGITS, "data.augment=maybe"], ["data.augment: 'maybe'", "bool"]),
    "augmentation without that argument": (
        [DIGITS, "+data.augmentations=[{_target_: monai.transforms.RandFlip, probability: 0.5}]"],
        ["data.augmentations[0].probability", "Did you mean 'prob'"],
    ),
    "augmentation that is not there": (
        [DIGITS, "+data.augmentations={turn: {_target_: monai.transforms.RandRotat, prob: 0.5}}"],
        ["data.augmentations.turn._target_", "Did you mean 'RandRotate'"],
    ),
    "augmentation of what no item has": (
        [DIGITS, "+data.augmentations=[{_target_: monai.transforms.RandFlipd, keys: [img]}]"],
        ["data.augmentations[0].keys: 'img'", "image, label"],
    ),
    "augmentation without its target": (
        [DIGITS, "+data.augmentations=[RandFlip]"],
        ["data.augmentations[0]: 'RandFlip'"],
    ),
    "augmentation alone": (
        [DIGITS, "+data.transforms={_target_: monai.transforms.Flip}"],
        ["data.transforms: {", "takes several", "list"],
    ),
    "augmentations that are a text": ([DIGITS, "+data.augmentations=flip"], ["data.augmentations: 'flip'"]),
    "memory of less than nothing": ([DIGITS, "data.cache_gb=-1"], ["data.cache_gb: -1 is too small"]),
    "negative loader processes": ([DIGITS, "data.num_workers=-1"], ["data.num_workers: -1 is too small"]),
    "epoch of no samples": ([DIGITS, "data.samples_per_epoch=0"], ["data.samples_per_epoch: 0 is too small"]),
    "unknown kind of data": ([DIGITS, "data.kind=segm"], ["data.kind: 'segm'", "Did you mean 'seg'"]),
    "rank of one's own": ([DIGITS, "data.rank=3"], ["data.rank", "filled in by the launcher"]),
    "loss that is a number": ([DIGITS, "loss=3"], ["loss: "]),
    "loss without that argument": ([DIGITS, "loss.smoothing=3"], ["loss.smoothing", "Did you mean 'label_smoothing'"]),
    "loss that is not there": (
        [DIGITS, "loss._target_=torch.nn.MSELos"],
        ["loss._target_", "torch.nn has no 'MSELos'", "Did you mean 'MSELoss'"],
    ),
    "loss with an argument of the wrong type": (
        [DIGITS, "loss.label_smoothing=much"],
        ["loss.label_smoothing: 'much'", "float"],
    ),
    "weights of a loss that are a text": ([DIGITS, "loss.weight=heavy"], ["loss.weight: 'heavy'", "Tensor"]),
    "modules to import that are not there": ([DIGITS, "imports=[nowhere_at_all]"], ["imports: nowhere_at_all", "src/"]),
    "modules to import that are a number": ([DIGITS, "imports=3"], ["imports: 3", "list"]),
}
"""Interpolations, secrets, and what models, data and losses are made of."""

OPTIM = {
    "betas that are a number": ([DIGITS, "optim.betas=3"], ["optim.betas: 3", "tuple"]),
    "one beta": ([DIGITS, "optim.betas=[0.9]"], ["optim.betas: [0.9]", "tuple"]),
    "betas that are texts": ([DIGITS, "optim.betas=[a,b]"], ["optim.betas: ['a', 'b']"]),
    "beta of two": ([DIGITS, "optim.betas=[0.9,2]"], ["optim.betas: [0.9, 2]", "from 0 to below 1"]),
    "negative weight decay": ([DIGITS, "optim.weight_decay=-1"], ["optim.weight_decay: -1 is too small"]),
    "weight decay that is a text": ([DIGITS, "optim.weight_decay=a"], ["optim.weight_decay: 'a'", "float or int"]),
    "negative eps": ([DIGITS, "optim.eps=-1"], ["optim.eps: -1 is too small"]),
    "amsgrad that is a text": ([DIGITS, "optim.amsgrad=maybe"], ["optim.amsgrad: 'maybe'", "bool"]),
    "negative learning rate": ([DIGITS, "optim.lr=-1"], ["optim.lr: -1 is no positive number"]),
    "learning rate of zero": ([DIGITS, "optim.lr=0"], ["optim.lr: 0 is no positive number"]),
    "learning rate that is a truth value": ([DIGITS, "optim.lr=true"], ["optim.lr: True"]),
    "learning rate that is not a number": ([DIGITS, "optim.lr=nan"], ["optim.lr: nan"]),
    "learning rate without end": ([DIGITS, "optim.lr=inf"], ["optim.lr: inf"]),
    "negative momentum": ([DIGITS, "optim=sgd", "optim.momentum=-1"], ["optim.momentum: -1 is too small"]),
    "nesterov without momentum": ([DIGITS, "optim=sgd", "optim.momentum=0"], ["optim.nesterov", "optim.momentum"]),
    "schedules of several lengths": (
        [DIGITS, "optim.sched={name: [cosine, linear], min_lr: [0.0]}"],
        ["optim.sched: lists of several lengths", "'min_lr': 1"],
    ),
    "noam without its width": ([DIGITS, "optim.sched.name=NoamAnnealing"], ["optim.sched.d_model", "needs it"]),
    "share of a hold": (
        [DIGITS, "optim.sched={name: polynomial_hold, hold_ratio: 2}"],
        ["optim.sched.hold_ratio: 2 is no number from 0 to 1"],
    ),
    "steps and a share of them": (
        [DIGITS, "optim.sched={name: polynomial_hold, hold_ratio: 0.1, hold_steps: 3}"],
        ["optim.sched: hold_steps and hold_ratio exclude each other"],
    ),
    "a path without its dot": ([DIGITS, "optim.params={net: {lr: 1}}"], ["optim.params.net", "begins with a dot"]),
    "part with a rate below 0": ([DIGITS, "optim.params={.net: {lr: -1}}"], ["optim.params..net.lr", "no positive"]),
    "part with a typo": ([DIGITS, "optim.params={.net: {lrr: 1}}"], ["optim.params..net.lrr", "no such argument"]),
    "part that is a number": ([DIGITS, "optim.params={.net: 3}"], ["optim.params..net: 3 given"]),
    "no width": ([DIGITS, "optim.sched={name: noam, d_model: 0}"], ["optim.sched.d_model: 0 is too small"]),
    "noam hold without a warm-up": ([DIGITS, "optim.sched.name=noam_hold"], ["measured in its warm-up"]),
    "less than no steps": (
        [DIGITS, "optim.sched={name: cosine, constant_steps: -5}"],
        ["optim.sched.constant_steps: -5 is too small"],
    ),
    "a range that ends before it begins": (
        [DIGITS, "+freeze_updates={modules: {encoder: [5, 2]}}"],
        ["freeze_updates.modules.encoder: [5, 2] ends before"],
    ),
    "ema that is no section": ([DIGITS, "+exp_manager={ema: true}"], ["exp_manager.ema: True given"]),
    "ema with a typo": ([DIGITS, "+exp_manager={ema: {enable: true, dcay: 1}}"], ["exp_manager.ema.dcay", "'decay'"]),
    "ema beyond one": ([DIGITS, "+exp_manager={ema: {enable: true, decay: 7}}"], ["exp_manager.ema.decay: 7"]),
    "nothing stops early": (
        [DIGITS, "+exp_manager={early_stopping_callback_params: {patience: 3}}"],
        ["nothing stops early"],
    ),
    "a time that is a text": ([DIGITS, "data.validation_time_limit=abc"], ["data.validation_time_limit"]),
    "parameters to optimize": ([DIGITS, "optim.params=[1]"], ["optim.params", "a section of dotted paths"]),
    "no optimizer": ([DIGITS, "optim.name=null"], ["optim.name: is missing", "adamw"]),
    "optimizer that is not there": (
        [DIGITS, "optim._target_=torch.optim.Adamm"],
        ["optim._target_", "Did you mean 'Adam'"],
    ),
    "schedule that is a text": ([DIGITS, "optim.sched=cosine"], ["optim.sched: 'cosine'", "section"]),
    "schedule without a name": ([DIGITS, "optim.sched.min_lr=0"], ["optim.sched.name", "cosine"]),
    "schedule without that argument": (
        [DIGITS, "optim=adamw", "optim.sched.warmup_step=3"],
        ["optim.sched.warmup_step: ", "Did you mean 'warmup_steps'"],
    ),
    "negative lowest rate": ([DIGITS, "optim=adamw", "optim.sched.min_lr=-1"], ["optim.sched.min_lr: -1"]),
    "lowest rate above the rate": (
        [DIGITS, "optim=adamw", "optim.sched.min_lr=1"],
        ["optim.sched.min_lr: 1 is above", "0.003"],
    ),
    "warm-up of twice the training": (
        [DIGITS, "optim=adamw", "optim.sched.warmup_ratio=2"],
        ["warmup_ratio: 2", "to 1"],
    ),
    "negative warm-up": (
        [DIGITS, "optim=adamw", "optim.sched.warmup_ratio=null", "optim.sched.warmup_steps=-1"],
        ["optim.sched.warmup_steps: -1"],
    ),
    "warm-up of a fraction of a step": (
        [DIGITS, "optim=adamw", "optim.sched.warmup_ratio=null", "optim.sched.warmup_steps=1.5"],
        ["optim.sched.warmup_steps: 1.5", "whole"],
    ),
    "schedule of negative length": ([DIGITS, "optim=adamw", "optim.sched.max_steps=-2"], ["optim.sched.max_steps: -2"]),
    "schedule without an end": (
        [DIGITS, "optim=adamw", "trainer.max_epochs=-1", "trainer.max_time=00:01:00:00"],
        ["optim.sched.name: cosine", "where training ends"],
    ),
    "schedule of torch without a needed argument": (
        [DIGITS, f"optim.sched={{_target_: {STEP}}}"],
        ["optim.sched.step_size", "needs it"],
    ),
    "schedule of torch that is not there": (
        [DIGITS, f"optim.sched={{_target_: {STEP}R, step_size: 3}}"],
        ["optim.sched._target_", "Did you mean 'StepLR'"],
    ),
    "interval of a schedule": (
        [DIGITS, f"optim.sched={{_target_: {STEP}, step_size: 3, interval: year}}"],
        ["optim.sched.interval: 'year'", "epoch, step"],
    ),
}
"""Optimizers and schedules."""

RUN = {
    "half a worker": ([DIGITS, "resources.workers=1.5"], ["resources.workers", "1.5", "Integer"]),
    "no cpus": ([DIGITS, "resources.cpus_per_worker=0"], ["resources.cpus_per_worker", "positive"]),
    "cpus that are not a number": (
        [DIGITS, "resources.cpus_per_worker=nan"],
        ["resources.cpus_per_worker", "positive"],
    ),
    "negative gpus": ([DIGITS, "resources.gpus_per_worker=-1"], ["resources.gpus_per_worker: -1.0 is too small"]),
    "gpus without workers": (
        [DIGITS, "resources.gpus_per_worker=1", "site.gpus_per_node=8"],
        ["resources.gpus_per_worker: 1", "resources.workers=0", "exclude each other"],
    ),
    "gpu of a machine that has none": (
        [DIGITS, "hardware=1gpu", "site.gpus_per_node=0"],
        ["trainer.accelerator: gpu", "no NVIDIA GPU"],
    ),
    "devices against workers": (
        [DIGITS, "trainer.devices=2", "resources.workers=3", "site.cpus_per_node=8"],
        ["trainer.devices: 2", "resources.workers is 3"],
    ),
    "devices of nothing": ([DIGITS, "trainer.devices=some"], ["trainer.devices: 'some'"]),
    "no nodes": (
        [DIGITS, "trainer.num_nodes=0"],
        ["trainer.num_nodes", "0 node(s)", "command line: trainer.num_nodes=0"],
    ),
    "gpus by number that are a text": ([DIGITS, "run.gpus=some"], ["run.gpus: 'some'"]),
    "unknown key of hardware": ([DIGITS, "hardware.gpus=3"], ["hardware.gpus", "num_devices"]),
    "loader processes that are a text": ([DIGITS, "hardware.num_workers=many"], ["hardware.num_workers: 'many'"]),
    "run id of zero": ([DIGITS, "run.id=0"], ["run.id: 0 is too small"]),
    "name that is a list": ([DIGITS, "run.name=[a]"], ["run.name"]),
    "unknown mode": ([DIGITS, "run.mode=fitt"], ["run.mode: 'fitt'", "Did you mean 'fit'"]),
    "unknown mode, as another launcher says it": (
        [DIGITS, "mode=fitt"],
        ["run.mode: 'fitt'", "command line: mode=fitt"],
    ),
    "validation of no weights": ([DIGITS, "run.mode=validate"], ["run.mode: validate needs weights"]),
    "test of a module without a test loop": (
        [DIGITS, "run.mode=test", "run.resume_from_checkpoint=/"],
        ["run.mode: test", "run.mode=validate"],
    ),
    "state that is not there": (
        [DIGITS, "run.resume_from_checkpoint=/no/such"],
        ["run.resume_from_checkpoint: /no/such"],
    ),
    "negative failures": ([DIGITS, "run.max_failures=-1"], ["run.max_failures: -1 is too small"]),
    "epochs and steps": (
        [DIGITS, "run.num_epochs=3", "run.num_iterations=3"],
        ["run.num_epochs: excludes run.num_iterations"],
    ),
    "two parents": (
        ["finetune_cls", *DONE, "pretrained_run_id=1", "checkpoint_run_id=2"],
        ["pretrained_run_id: excludes checkpoint_run_id", "Provide only one of"],
    ),
    "parent twice": (
        ["finetune_cls", *DONE, "init_from=run:2/last", "pretrained_run_id=1"],
        ["init_from: 'run:2/last' and pretrained_run_id: 1"],
    ),
    "parent from Hugging Face": (["finetune_cls", *DONE, "hf_model_id=x"], ["hf_model_id", "init_from=file:"]),
    "parent without a number": (["finetune_cls", *DONE, "init_from=run:a/last"], ["'run:a/last'", "run:<id>/last"]),
    "parent file without a name": (["finetune_cls", *DONE, "init_from=file:"], ["'file:'", "file:/path"]),
    "parent from the web": (["finetune_cls", *DONE, "init_from=http://x"], ["'http://x'", "file:/path"]),
    "parent named by a word": (
        ["finetune_cls", *DONE, "pretrained_run_id=abc"],
        ["run:abc/last", "command line: pretrained_run_id=abc"],
    ),
    "stage twice": ([DIGITS, "experiment.stage=train_seg"], ["experiment.stage", "same key"]),
    "log folder of another launcher": ([DIGITS, "exp_manager.exp_dir=/x"], ["exp_manager.exp_dir", "ASPARAGUS_MODELS"]),
    "run folder of another launcher": ([DIGITS, "run.dir=/x"], ["run.dir", "ASPARAGUS_MODELS"]),
    "unknown key of another launcher": (
        [DIGITS, "exp_manager.create_frobs=true"],
        ["exp_manager.create_frobs", "create_preemption_callback"],
    ),
    "metric that is not logged": (
        [DIGITS, "checkpoint.monitor=val/los"],
        ["checkpoint.monitor", "Did you mean 'val/loss'"],
    ),
    "metric of another stage": (
        [DIGITS, "checkpoint.monitor=val/dice"],
        ["checkpoint.monitor", "train_cls logs no 'val/dice'"],
    ),
    "checkpoint mode": ([DIGITS, "checkpoint.mode=maximum"], ["checkpoint.mode: 'maximum'", "Did you mean 'max'"]),
    "checkpoint every zero epochs": (
        [DIGITS, "checkpoint.every_n_epochs=0"],
        ["checkpoint.every_n_epochs: 0 is too small"],
    ),
    "fewer than no best ones": ([DIGITS, "checkpoint.keep_best=-1"], ["checkpoint.keep_best: -1 is too small"]),
    "unknown key of checkpoints": ([DIGITS, "checkpoint.keep_last=3"], ["checkpoint.keep_last", "keep_best"]),
    "transfer that is a text": ([DIGITS, "transfer.decoder=maybe"], ["transfer.decoder", "'maybe'", "bool"]),
    "cluster without workers": ([DIGITS, "site=cluster"], ["resources.workers: 0", "is a cluster"]),
    "no site nodes": ([DIGITS, "site.nodes=0"], ["site.nodes: 0 is too small"]),
    "host without a port": ([DIGITS, "site.address=localhost"], ["site.address: 'localhost'", "host:port"]),
    "a ray that stays for no time": ([DIGITS, "site.idle_minutes=0"], ["site.idle_minutes: 0", "positive"]),
    "a cluster that is to end when idle": (
        [DIGITS, "site=cluster", "resources.workers=1", "site.idle_minutes=5"],
        ["site.idle_minutes: 5", "site=local-warm"],
    ),
    "poll that never comes": ([DIGITS, "site.poll_interval_s=0"], ["site.poll_interval_s", "positive"]),
    "environment that is a list": ([DIGITS, "site.env=[a]"], ["site.env"]),
    "tracking store of no kind": ([DIGITS, "site.tracking_uri=ftp://x"], ["site.tracking_uri", "http://..."]),
    "tracking file without a name": ([DIGITS, "site.tracking_uri=sqlite://"], ["site.tracking_uri", "names no file"]),
    "tracking file that cannot be written": (
        [DIGITS, "site.tracking_uri=sqlite:////proc/x/a.db"],
        ["site.tracking_uri", "/proc/x"],
    ),
    "models in a folder without a name": ([DIGITS, "paths.models="], ["paths.models: is empty"]),
    "folders that are a number": ([DIGITS, "paths=3"], ["paths: 3", "section"]),
    "unknown folder": ([DIGITS, "paths.model=/x"], ["paths.model", "Did you mean 'paths.models'"]),
    "callback that is a number": ([DIGITS, "callbacks.stop=3"], ["callbacks.stop: 3", "section"]),
    "callback that is a list": ([DIGITS, "callbacks.stop=[1]"], ["callbacks.stop: [1]", "section"]),
    "callback without a target": ([DIGITS, "callbacks.stop={patience: 3}"], ["callbacks.stop._target_: is missing"]),
    "callback without a name": ([DIGITS, f"callbacks={{_target_: {EARLY}}}"], ["callbacks._target_", "section"]),
    "callback that is not there": (
        [DIGITS, f"callbacks.stop._target_={EARLY}s"],
        ["callbacks.stop._target_", "'EarlyStopping'"],
    ),
    "callback that is none": (
        [DIGITS, "callbacks.act={_target_: torch.nn.ReLU}"],
        ["callbacks.act._target_", "is no Callback"],
    ),
    "callback that watches what is not logged": (
        [DIGITS, f"callbacks.stop={{_target_: {EARLY}, monitor: val/acc}}"],
        ["callbacks.stop.monitor", "Did you mean 'val/accuracy'"],
    ),
    "callback of the wrong type": (
        [DIGITS, f"callbacks.stop={{_target_: {EARLY}, monitor: val/loss, patience: much}}"],
        ["callbacks.stop.patience: 'much'", "int"],
    ),
    "callback with a word that is not one of its": (
        [DIGITS, "callbacks.lr={_target_: pytorch_lightning.callbacks.LearningRateMonitor, logging_interval: hour}"],
        ["callbacks.lr.logging_interval: 'hour'", "'step', 'epoch'"],
    ),
    "plugin that is a number": ([DIGITS, "plugins.mine=3"], ["plugins.mine: 3", "section"]),
    "plugin without its network": (
        ["pretrain", "task=Task001_Digits", "+plugins=seg_Task997"],
        [
            "plugins.online_segmentation.net: ",
            "plugin_seg_net",
            "model=unet_b_lw_dec",
            "or give plugins.online_segmentation.net",
            "seg_Task997.yaml",
        ],
    ),
    "logger that is a number": ([DIGITS, "logger.mine=3"], ["logger.mine: 3", "section"]),
    "logger that is not there": (
        [DIGITS, "logger.mine._target_=pytorch_lightning.loggers.CSVLoger"],
        ["logger.mine._target_", "Did you mean 'CSVLogger'"],
    ),
    "logger that is none": (
        [DIGITS, "logger.mine={_target_: torch.nn.ReLU}"],
        ["logger.mine._target_", "is no Logger"],
    ),
    "logger without that argument": (
        [DIGITS, "+logger=csv", "logger.csv.nam=x"],
        ["logger.csv.nam", "Did you mean 'name'"],
    ),
    "logger of the Trainer that is a text": (
        [DIGITS, "trainer.logger=csv"],
        ["trainer.logger: 'csv'", "logger.<name>"],
    ),
    "script that is not there": ([DIGITS, "script._target_=mine.train"], ["script._target_", "no module 'mine'"]),
    "script without a target": ([DIGITS, "script.mine=3"], ["script._target_: is missing"]),
}
"""Where it runs, what is watched, kept and logged, and what other launchers call it."""

TRAINER = {
    **{
        f"too small: {key}": ([DIGITS, f"trainer.{key}={least - 1:g}"], [f"trainer.{key}: {least - 1:g}", "too small"])
        for key, least in LEAST.items()
    },
    **{f"negative share: {key}": ([DIGITS, f"trainer.{key}=-1"], [f"trainer.{key}: -1", "share"]) for key in SHARES},
    **{f"share above one: {key}": ([DIGITS, f"trainer.{key}=1.5"], [f"trainer.{key}: 1.5", "share"]) for key in SHARES},
    **{
        f"not one of them: {key}": ([DIGITS, f"trainer.{key}=nonsense"], [f"trainer.{key}: 'nonsense'", allowed[0]])
        for key, allowed in ONE_OF.items()
    },
    **{f"not ours to set: {key}": ([DIGITS, f"trainer.{key}=true"], [f"trainer.{key}: cannot be set"]) for key in OURS},
    "validation never": ([DIGITS, "trainer.val_check_interval=0"], ["trainer.val_check_interval: 0", "never validate"]),
    "validation at no time": (
        [DIGITS, "trainer.val_check_interval=often"],
        ["trainer.val_check_interval: 'often'", "duration"],
    ),
    "fewer epochs than the least": (
        [DIGITS, "trainer.min_epochs=9"],
        ["trainer.min_epochs: 9", "trainer.max_epochs: 5"],
    ),
    "fewer steps than the least": (
        [DIGITS, "trainer.max_steps=5", "trainer.min_steps=6"],
        ["trainer.min_steps: 6", "trainer.max_steps: 5"],
    ),
    "no steps at all": ([DIGITS, "trainer.max_steps=null"], ["trainer.max_steps: None", "int"]),
    "epochs that are a fraction": ([DIGITS, "trainer.max_epochs=1.5"], ["trainer.max_epochs: 1.5", "int"]),
    "epochs that are a list": ([DIGITS, "trainer.max_epochs=[3]"], ["trainer.max_epochs: [3]", "int"]),
    "epochs by their old name": (
        [DIGITS, "run.num_epochs=many"],
        ["trainer.max_epochs: 'many'", "run.num_epochs=many"],
    ),
    "time that is no duration": ([DIGITS, "trainer.max_time=3h"], ["trainer.max_time: '3h'", "days:hours"]),
    "time that is a number": ([DIGITS, "trainer.max_time=12"], ["trainer.max_time: 12", "days:hours"]),
    "time in units that are none": (
        [DIGITS, "trainer.max_time={hour: 3}"],
        ["trainer.max_time.hour", "Did you mean 'hours'"],
    ),
    "time of a text": ([DIGITS, "trainer.max_time={hours: a}"], ["trainer.max_time.hours: 'a'"]),
    "negative time": ([DIGITS, "trainer.max_time={hours: -3}"], ["trainer.max_time.hours: -3"]),
    "share that is a text": (
        [DIGITS, "trainer.limit_train_batches=all"],
        ["trainer.limit_train_batches: 'all'", "float or int"],
    ),
    "clipping that is a text": (
        [DIGITS, "trainer.gradient_clip_val=a"],
        ["trainer.gradient_clip_val: 'a'", "float or int"],
    ),
    "bool that is a text": ([DIGITS, "trainer.benchmark=perhaps"], ["trainer.benchmark: 'perhaps'", "bool"]),
    "folder that is a number": ([DIGITS, "trainer.default_root_dir=3"], ["trainer.default_root_dir: 3", "str"]),
    "unknown strategy": ([DIGITS, "trainer.strategy=ddpp"], ["trainer.strategy: 'ddpp'", "Did you mean 'ddp'"]),
    "strategy that starts processes": (
        [DIGITS, "trainer.strategy=ddp_spawn"],
        ["trainer.strategy: ddp_spawn", "Use ddp"],
    ),
    "strategy of GPUs without one": (
        [DIGITS, "trainer.strategy=fsdp", "site.gpus_per_node=0"],
        ["trainer.strategy: fsdp", "needs a GPU"],
    ),
    "plugins that are a text": ([DIGITS, "trainer.plugins=x"], ["trainer.plugins: 'x'", "list"]),
    "plugins that are not there": (
        [DIGITS, "trainer.plugins=[{_target_: nowhere.X}]"],
        ["trainer.plugins[0]", "no module 'nowhere'"],
    ),
    "profiler that is not there": (
        [DIGITS, "trainer.profiler={_target_: nowhere.X}"],
        ["trainer.profiler._target_", "'nowhere'"],
    ),
    "callbacks of the Trainer that are numbers": ([DIGITS, "trainer.callbacks=[1]"], ["callbacks.", "1 given"]),
    "callbacks of the Trainer that are not there": (
        [DIGITS, f"trainer.callbacks=[{{_target_: {EARLY}s}}]"],
        ["callbacks.EarlyStoppings", "command line: trainer.callbacks="],
    ),
    "another Trainer": ([DIGITS, "trainer._target_=mine.Trainer"], ["trainer._target_"]),
}
"""The Trainer's arguments: every row of the tables that the check has, and what they do not hold."""

BASE = "defaults:\n  - experiment/digits\n  - _self_\n"
FILES: dict[str, tuple[str | bytes, list[str]]] = {
    "no YAML": (f"{BASE}trainer: {{max_epochs: 3\n", ["mine/mine.yaml: is no YAML", "[mine/mine.yaml:5]"]),
    "line that is neither key nor value": (
        f"{BASE}trainer:\n  max_epochs: 3\n bad\n",
        ["is no YAML", "[mine/mine.yaml:6]"],
    ),
    "key twice": (f"{BASE}seed: 1\nseed: 2\n", ["duplicate key seed", "[mine/mine.yaml:5]"]),
    "key twice below another": (f"{BASE}data:\n  fold: 1\n  fold: 2\n", ["duplicate key fold", "[mine/mine.yaml:6]"]),
    "tab": (f"{BASE}trainer:\n\tmax_epochs: 3\n", ["is no YAML", "[mine/mine.yaml:5]"]),
    "empty": ("", ["task: is mandatory", "stage: is mandatory"]),
    "comment alone": ("# nothing yet\n", ["task: is mandatory", "stage: is mandatory"]),
    "list at the top": ("- a\n- b\n", ["mine: an experiment file has to be a mapping"]),
    "number at the top": ("3\n", ["mine: an experiment file has to be a mapping"]),
    "binary": (bytes(range(256)), ["mine/mine.yaml: is no text in UTF-8", "[mine/mine.yaml:"]),
    "Latin-1": (f"{BASE}run: {{name: gr\xfcn}}\n".encode("latin-1"), ["is no text in UTF-8", "[mine/mine.yaml:4]"]),
    "UTF-16": (BASE.encode("utf-16"), ["is no text in UTF-8", "[mine/mine.yaml:1]"]),
    "two documents": (f"{BASE}---\nseed: 1\n", ["another document", "[mine/mine.yaml:4]"]),
    "Python in YAML": (f'{BASE}seed: !!python/object/apply:os.system ["x"]\n', ["is no YAML", "[mine/mine.yaml:4]"]),
    "unknown tag": (f"{BASE}seed: !mine 3\n", ["'!mine'", "[mine/mine.yaml:4]"]),
    "unknown anchor": (f"{BASE}seed: *mine\n", ["undefined alias 'mine'", "[mine/mine.yaml:4]"]),
    "number for a key": (f"{BASE}3: 4\n", ["3: no such key", "[mine/mine.yaml:4]"]),
    "list for a section": (f"{BASE}trainer:\n  - max_epochs: 3\n", ["trainer: a list given", "[mine/mine.yaml:4]"]),
    "list for a section below": (
        f"{BASE}model:\n  cls_net:\n  - 3\n",
        ["model.cls_net: a list given", "[mine/mine.yaml:5]"],
    ),
    "list of callbacks": (f"{BASE}callbacks:\n  - _target_: x.Y\n", ["callbacks: a list given", "[mine/mine.yaml:4]"]),
    "number for a section": (f"{BASE}trainer: 3\n", ["trainer: ", "[mine/mine.yaml:4]"]),
    "override of no group": (
        "defaults:\n  - experiment/digits\n  - override /modell: mlp\n  - _self_\n",
        ["'modell' is not known", "Did you mean 'model'", "[mine/mine.yaml:3]"],
    ),
    "number for an open section": (f"{BASE}trainer: 5\n", ["trainer: 5 given, but it is a section", "mine.yaml:4]"]),
    "list for an open section": (f"{BASE}trainer: [1]\n", ["trainer: a list given", "[mine/mine.yaml:4]"]),
    "variable that is gone, in a list": (
        f"{BASE}model:\n  cls_net:\n    hidden: ['${{gone}}']\n",
        ["model.cls_net.hidden[0]: ", "'gone' not found", "[mine/mine.yaml:6]"],
    ),
    "wrong item of a list": (
        f"{BASE}trainer:\n  plugins:\n    - {{_target_: pytorch_lightning.plugins.MixedPrecision}}\n",
        ["trainer.plugins[0].precision: ", "needs it", "[mine/mine.yaml:5]"],
    ),
    "variable of a wrong kind": (
        f"{BASE}long: many\ntrainer:\n  max_epochs: ${{long}}\n",
        ["trainer.max_epochs: 'many'", "[mine/mine.yaml:6 <- mine/mine.yaml:4]"],
    ),
    "nothing for a section": (f"{BASE}optim: null\n", ["optim: ", "[mine/mine.yaml:4]"]),
    "dotted key": (f"{BASE}optim.lr: 3\n", ["optim.lr: has a dot", "[mine/mine.yaml:4]"]),
    "file that is not there": (
        "defaults:\n  - experiment/digitz\n  - _self_\n",
        ["'experiment/digitz'", "no search path", "Did you mean 'experiment/digits'", "[mine/mine.yaml:2]"],
    ),
    "option that is not there": (
        "defaults:\n  - /train_cls\n  - override /model: mlpp\n  - _self_\n",
        ["model: 'mlpp'", "Did you mean 'mlp'", "[mine/mine.yaml:3]"],
    ),
    "group that is not there": (
        "defaults:\n  - experiment/digits\n  - modl: mlp\n  - _self_\n",
        ["'modl/mlp'", "Did you mean 'model/mlp'", "[mine/mine.yaml:3]"],
    ),
    "one of several options that is not there": (
        "defaults:\n  - experiment/digits\n  - override /optim: [adam, adamm]\n  - _self_\n",
        ["adamm", "[mine/mine.yaml:3]"],
    ),
    "override of what is not there": (
        "defaults:\n  - experiment/digits\n  - override /hardware: cpu\n  - _self_\n",
        ["override", "train_cls"],
    ),
    "override before what it overrides": (
        "defaults:\n  - override /model: mlp\n  - /train_cls\n  - _self_\n",
        ["mine", "override model : mlp", "at the end", "[mine/mine.yaml:2]"],
    ),
    "group twice": (
        "defaults:\n  - experiment/digits\n  - model: unet\n  - _self_\n",
        ["model: is chosen below already", "override /model: unet", "[mine/mine.yaml:3]"],
    ),
    "itself twice": ("defaults:\n  - _self_\n  - experiment/digits\n  - _self_\n", ["Duplicate _self_"]),
    "itself for a default": ("defaults:\n  - mine\n", ["mine: its defaults list", "that is this file"]),
    "default out of the tree": (
        "defaults:\n  - ../experiment/digits\n  - _self_\n",
        ["'../experiment/digits'", "leads out", "[mine/mine.yaml:2]"],
    ),
    "defaults that are no list": ("defaults: experiment/digits\n", ["mine", "it is a list", "[mine/mine.yaml:1]"]),
    "default that is a number": ("defaults:\n  - 3\n", ["mine", "int"]),
    "default of two keys": ("defaults:\n  - core/base\n  - {model: mlp, data: images}\n", ["mine", "Too many keys"]),
    "default to be chosen": (
        "defaults:\n  - core/base\n  - model: ???\nstage: train_cls\n",
        ["mine", "model=<OPTION>"],
    ),
    "default of an unknown variable": (
        "defaults:\n  - core/base\n  - model: ${nowhere_set}\n  - _self_\n",
        ["mine", "${nowhere_set}"],
    ),
    "defaults below a section": (
        f"{BASE}trainer:\n  defaults:\n    - x\n",
        ["trainer.defaults", "takes no such argument"],
    ),
    "package that nothing reads": (
        "defaults:\n  - experiment/digits\n  - /optim@second: adam\n  - _self_\n",
        ["second: no such key", "configs/optim/adam.yaml:"],
    ),
    "interpolation to nothing": (
        f"{BASE}run:\n  name: ${{nowhere_set}}\n",
        ["run.name", "nowhere_set", "[mine/mine.yaml:5]"],
    ),
    "circular interpolation": (
        f"{BASE}first: ${{second}}\nsecond: ${{first}}\nrun: {{name: '${{first}}'}}\n",
        ["run.name: Recursive", "[mine/mine.yaml:6 <- mine/mine.yaml:4 <- mine/mine.yaml:5]"],
    ),
    "unclosed interpolation": (f"{BASE}run:\n  name: ${{task\n", ["run.name", "${task", "[mine/mine.yaml:5]"]),
    "arithmetic": (f"{BASE}seed: ${{eval:1+1}}\n", ["seed", "do not compute", "[mine/mine.yaml:4]"]),
    "secret": (f"{BASE}run:\n  name: secret:abc\n", ["run.name", "plain text", "[mine/mine.yaml:5]"]),
    "variable that nothing reads": (f"{BASE}my_rate: 3\n", ["my_rate: no such key", "[mine/mine.yaml:4]"]),
    "part of a variable that nothing reads": (
        f"{BASE}my:\n  rate: 0.1\n  bait: 2\noptim:\n  lr: ${{my.rate}}\n",
        ["my.bait: nothing reads it", "[mine/mine.yaml:6]"],
    ),
    "set": (f"{BASE}data:\n  patch_size: !!set {{a, b}}\n", ["data.patch_size", "[mine/mine.yaml:5]"]),
}
"""Own files `mine/mine.yaml`, each with what is said about it."""

DOTTED = {
    "option chosen with a dot": (["model.deep=wide"], ["model.deep: is a group", "Write model/deep=wide"]),
    "unknown option chosen with a dot": (["model.deep=wid"], ["model.deep: is a group", "Did you mean 'wide'"]),
    "experiment in a folder that is not there": (
        ["experiment=mine/second"],
        ["experiment/mine: 'second'", "Known: first, relative"],
    ),
    "experiment that leads out without a package": (["experiment=mine/relative"], ["begins with ../", "/train_cls"]),
}

PYTHON = {
    "not there": (None, ["mine.py", "no such file"]),
    "no Python": ("batch_size = = 3\n", ["mine.py"]),
    "raises": ("batch_size = 3\nraise RuntimeError('no volume')\n", ["mine.py:3", "RuntimeError: no volume"]),
    "batch that is a text": ("batch_size = 'big'\n", ["batch_size", "'big'"]),
    "shape of two": ("input_array_info = {'shape': (8, 8)}\n", ["input_array_info", "(z, y, x)"]),
    "unknown network": ("model_name = 'transformer'\n", ["model_name", "'transformer'", "2d_unet"]),
    "unknown device": ("device = 'quantum'\n", ["device", "'quantum'", "cuda"]),
    "unknown checkpoint": ("load_model = 'first'\n", ["load_model", "'first'", "best"]),
    "object where a value belongs": ("data = {'batch_size': object()}\n", ["data.batch_size", "object"]),
    "unknown stage": ("stage = 'train_segm'\n", ["train_segm"]),
}

TABLES = {"the shelf": BAD, "grammar": GRAMMAR, "values": VALUES, "optim": OPTIM, "run": RUN, "trainer": TRAINER}
ROWS = [pytest.param(*row, id=f"{table}: {name}") for table, rows in TABLES.items() for name, row in rows.items()]

REFUSED_BY_THE_COMMAND = {
    "unknown option": ["train_cls", "--fast"],
    "half an option": ["train_cls", "--dry"],
    "option with one dash": ["train_cls", "-x"],
    "unknown part of the config": ["train_cls", "--cfg", "jobb"],
    "no part of the config": ["train_cls", "--cfg"],
    "config without a name": ["train_cls", "-cn"],
    "folder without a name": ["train_cls", "-cd"],
    "folder of Hydra's main": ["train_cls", "--config-path", "x"],
}


def started_nothing(home: Path) -> bool:
    """No run folder, no MLflow store, no Ray."""
    ray = sys.modules.get("ray")
    return not (home / "models").exists() and not (home / "results").exists() and not (ray and ray.is_initialized())


def refused(words: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Launch, see that it is refused as it should be, and return what was said."""
    started = time.process_time()
    assert run("launch", words) == 2
    assert time.process_time() - started < 5  # it imports no torch and asks no store: half a second on a laptop
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert len(said.err.strip()) > len("error:")
    assert "Traceback" not in said.err
    assert started_nothing(home)
    return said.err


def test_the_tables_are_long_and_no_row_is_twice():
    words = [" ".join(row[0]) for rows in TABLES.values() for row in rows.values()]
    assert len(words) == len(set(words)) >= 250
    assert len({text for text, _ in FILES.values()}) == len(FILES)


@pytest.mark.parametrize(("words", "expected"), ROWS)
def test_a_mistake_is_named_and_nothing_is_started(words, expected, home, capsys):
    said = refused(words, home, capsys)
    for part in expected:
        assert part in said, said


@pytest.mark.parametrize(("text", "expected"), FILES.values(), ids=FILES.keys())
def test_a_mistake_in_a_file_is_named_with_its_line(text, expected, home, capsys):
    (home / "mine").mkdir()
    (home / "mine/mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(["mine", "-cd", "mine"], home, capsys)
    for part in expected:
        assert part in said, said


@pytest.mark.parametrize(("words", "expected"), DOTTED.values(), ids=DOTTED.keys())
def test_a_mistake_with_groups_of_ones_own_is_named(words, expected, home, capsys):
    for name, text in {
        "model/deep/wide.yaml": "layers: 3\n",
        "experiment/mine/first.yaml": "# @package _global_\nseed: 1\n",
        "experiment/mine/relative.yaml": "# @package _global_\ndefaults: [../resources/two_workers, _self_]\n",
    }.items():
        (home / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "mine" / name).write_text(text)
    said = refused(["train_cls", *DONE, "-cd", "mine", *words], home, capsys)
    for part in expected:
        assert part in said, said


@pytest.mark.parametrize(("text", "expected"), PYTHON.values(), ids=PYTHON.keys())
def test_a_mistake_in_a_config_in_python_is_named(text, expected, home, capsys):
    if text is not None:
        (home / "mine.py").write_text(f"task = 'Task001_Digits'\n{text}")
    said = refused(["mine.py"], home, capsys)
    for part in expected:
        assert part in said, said


@pytest.mark.parametrize("words", REFUSED_BY_THE_COMMAND.values(), ids=REFUSED_BY_THE_COMMAND.keys())
def test_an_option_that_is_none_is_refused_with_the_usage(words, home, capsys):
    with pytest.raises(SystemExit) as end:
        run("launch", words)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.out == ""
    assert said.err.startswith("usage: asp-launch")
    assert "error: " in said.err
    assert started_nothing(home)


def test_python_in_yaml_is_never_run(home, capsys):
    (home / "mine.yaml").write_text(f"{BASE}seed: !!python/object/apply:os.mkdir [{home}/made]\n")
    refused(["mine.yaml"], home, capsys)
    assert not (home / "made").exists()


@pytest.mark.parametrize("logger", ["wandb", "WandbLogger"])
@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed here")
def test_a_logger_whose_package_is_not_installed_says_what_to_install(logger, home, capsys):
    words = ["logger=wandb"] if logger == "wandb" else [f"logger.mine._target_=pytorch_lightning.loggers.{logger}"]
    said = refused([DIGITS, *words], home, capsys)
    assert "pip install wandb" in said
    assert said.startswith("error: logger.")


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has one")
def test_the_gpu_of_a_mac_is_refused_elsewhere(home, capsys):
    assert "trainer.accelerator: mps" in refused([DIGITS, "hardware=osx"], home, capsys)


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_number_that_is_taken_is_refused_before_anything_starts(home, capsys):
    claim(home / "models", about={"stage": "train_cls", "task": "Task001_Digits"}, wanted=5)
    assert run("launch", [DIGITS, "run.id=5"]) == 2
    assert "run.id: 5 is taken" in capsys.readouterr().err


def test_a_folder_of_configs_that_is_none_is_refused(home, monkeypatch, capsys):
    monkeypatch.setenv("ASPARAGUS_CONFIGS", str(home / "nope"))
    assert f"ASPARAGUS_CONFIGS: {home}/nope is not a folder" in refused([DIGITS], home, capsys)


def test_a_store_that_the_environment_names_is_blamed_there(home, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo")
    assert refused([DIGITS], home, capsys).rstrip().endswith("[MLFLOW_TRACKING_URI]")


def test_what_an_editor_leaves_beside_a_config_is_not_read(home, capsys):
    (home / "mine").mkdir()
    (home / "mine/mine.yaml").write_text("defaults: [experiment/digits, _self_]\n")
    (home / "mine/.#mine.yaml").symlink_to("somebody@somewhere.1")
    (home / "mine/folder.yaml").mkdir()
    assert "foo: no such key" in refused(["mine/mine.yaml", "foo=1"], home, capsys)
