"""Secrets stay in the environment: nothing that is printed, written or recorded shows one; who needs it gets it."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from asparagus import load_config, load_from_config
from asparagus.api import launch, plan_of
from asparagus.cli.main import run
from asparagus.compose import Request, compose
from asparagus.errors import ConfigError, RunError
from asparagus.secrets import hide, is_secret_name

DIGITS = "experiment/digits"
SMALL = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
VALUE = "swordfish-7f3a"
OTHER = "marlin-99c1"
ENVIRONMENT = {"MY_API_KEY": VALUE, "PLAIN_NAME": VALUE, "DB_PASSWORD": VALUE, "OTHER_TOKEN": OTHER}

OWN = '''
import hashlib
import logging
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl


class Holder(pl.Callback):
    """Keeps what it is given; tells a file what that was, without saying it."""

    def __init__(self, token, file=None):
        self.token, self.file = token, file

    def on_train_start(self, trainer, pl_module):
        if self.file:
            Path(self.file).write_text(hashlib.sha256(str(self.token).encode()).hexdigest())


class Talker(Holder):
    """Says it in every way that there is."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        print("printed", self.token)
        print({"repr": self.token}, [self.token])
        sys.stdout.write(f"in pieces {self.token[:3]}")
        sys.stdout.write(f"{self.token[3:]}\\n")
        logging.getLogger("mine").warning("logged %s", self.token)
        logging.getLogger("pytorch_lightning").info("logged %s", self.token)
        warnings.warn(f"warned {self.token}")
        try:
            raise KeyError(self.token)
        except KeyError:
            logging.getLogger("mine").exception("caught")


class Raiser(Holder):
    def on_train_start(self, trainer, pl_module):
        raise ValueError(f"cannot log in with {self.token}")


class Refuser(pl.Callback):
    def __init__(self, token):
        raise ValueError(f"bad token {token}")
'''


@pytest.fixture
def own(home, tmp_path, monkeypatch) -> Path:
    """A home, secrets in the environment, and callbacks that misbehave with them."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "own_code").mkdir()
    (tmp_path / "own_code" / "confidant.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path / "own_code"))
    monkeypatch.delitem(sys.modules, "confidant", raising=False)
    return home


def experiment(home: Path, token: str, *, cls: str = "Holder", more: str = "") -> str:
    """Write an experiment whose callback gets a token."""
    text = "defaults: [experiment/digits, _self_]\n"
    text += f"callbacks:\n  mine:\n    _target_: confidant.{cls}\n    token: {json.dumps(token)}\n{more}"
    (home / "mine.yaml").write_text(text)
    return "mine.yaml"


WRITTEN = {
    "by a name like a secret's": ("${oc.env:MY_API_KEY}", VALUE),
    "by a resolver that says so": ("${secret:PLAIN_NAME}", VALUE),
    "with spaces": ("${ oc.env : MY_API_KEY }", VALUE),
    "with a quoted name": ("${oc.env:'MY_API_KEY'}", VALUE),
    "inside a longer text": ("postgresql://me:${oc.env:DB_PASSWORD}@host/db", f"postgresql://me:{VALUE}@host/db"),
    "two in one text": ("${secret:PLAIN_NAME}:${oc.env:OTHER_TOKEN}", f"{VALUE}:{OTHER}"),
    "by another key": ("${variables.key}", VALUE),
    "by another key, inside a text": ("Bearer ${variables.key}", f"Bearer {VALUE}"),
    "by a key that refers to a key": ("${variables.again}", VALUE),
    "by a key that is selected": ("${oc.select:variables.key}", VALUE),
    "with a default": ("${oc.env:MY_API_KEY,nothing}", VALUE),
    "with a default and spaces": ("${oc.env:MY_API_KEY, some thing}", VALUE),
    "with an empty default": ("${oc.env:MY_API_KEY,''}", VALUE),
    "with a default that is used": ("${oc.env:NOT_SET_TOKEN,nothing}", "nothing"),
    "with a quoted default that is used": ("${oc.env:NOT_SET_TOKEN,'a b'}", "a b"),
    "with another secret as its default": ("${oc.env:NOT_SET_TOKEN,${oc.env:OTHER_TOKEN}}", OTHER),
    "with another key as its default": ("${oc.env:NOT_SET_TOKEN,${variables.key}}", VALUE),
    "by a name that is put together": ("${oc.env:${variables.name}}", VALUE),
    "by a name in parts": ("${oc.env:MY_API_${variables.end}}", VALUE),
    "decoded": ("${oc.decode:${oc.env:MY_API_KEY}}", VALUE),
}
VARIABLES = "variables:\n  key: ${oc.env:MY_API_KEY}\n  again: ${.key}\n  name: MY_API_KEY\n  end: KEY\n"
LOOKS = {
    "cfg job": ("--cfg", "job"),
    "cfg job resolved": ("--cfg", "job", "--resolve"),
    "cfg all": ("--cfg", "all"),
    "cfg all resolved": ("--cfg", "all", "--resolve"),
    "cfg hydra": ("--cfg", "hydra"),
    "info": ("--info",),
    "info of a key": ("--info", "callbacks.mine.token"),
    "help": ("--help",),
    "dry run": ("--dry-run",),
    "dry run as json": ("--dry-run", "--json"),
}


@pytest.mark.parametrize(("token", "real"), WRITTEN.values(), ids=WRITTEN.keys())
def test_whoever_needs_a_secret_gets_it_and_no_look_at_the_config_shows_it(token, real, own, capsys):
    config = experiment(own, token, more=VARIABLES)
    for name, look in LOOKS.items():
        status = run("launch", [config, *look])
        said = capsys.readouterr()
        assert status == 0, f"{name}: {said.err}"
        assert VALUE not in said.out + said.err, name
        assert OTHER not in said.out + said.err, name
    trainer, _, _ = load_from_config(load_config([config]))
    holder = next(callback for callback in trainer.callbacks if type(callback).__name__ == "Holder")
    assert holder.token == real


@pytest.mark.parametrize(("token", "real"), WRITTEN.values(), ids=WRITTEN.keys())
def test_a_secret_given_as_an_override_is_shown_nowhere(token, real, own, capsys):
    config = experiment(own, "to be replaced", more=VARIABLES)
    for name, look in LOOKS.items():
        status = run("launch", [config, f"callbacks.mine.token={token}", *look])
        said = capsys.readouterr()
        assert status == 0, f"{name}: {said.err}"
        assert VALUE not in said.out + said.err, name
        assert OTHER not in said.out + said.err, name
