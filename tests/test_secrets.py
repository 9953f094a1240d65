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
from asparagus.driver.on_ray import worker_environment
from asparagus.errors import ConfigError, RunError
from asparagus.record.recorder import Recorder
from asparagus.record.store import Store
from asparagus.secrets import Sealed, hide, is_secret_name
from asparagus.spec import Site
from tests.helpers import mlflow_server

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


VARIABLES = {"key": "${oc.env:MY_API_KEY}", "name": "MY_API_KEY", "end": "KEY"}
VARIABLES |= {"first": "${.second}", "second": "${oc.env:MY_API_KEY}", "no_one": "${oc.env:NO_VARIABLES_KEY}"}


def experiment(home: Path, token: str, *, cls: str = "Holder", more: str = "") -> str:
    """Write an experiment whose callback gets a token."""
    used = {name: text for name, text in VARIABLES.items() if f"variables.{name}" in token}
    used |= {"second": VARIABLES["second"]} if "first" in used else {}
    text = "defaults: [experiment/digits, _self_]\n"
    text += f"callbacks:\n  mine:\n    _target_: confidant.{cls}\n    token: {json.dumps(token)}\n{more}"
    (home / "mine.yaml").write_text(text + (yaml.safe_dump({"variables": used}) if used else ""))
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
    "by a key that refers to a key": ("${variables.first}", VALUE),
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
}
LOOKS = (
    "--cfg job",
    "--cfg job --resolve",
    "--cfg all",
    "--cfg all --resolve",
    "--cfg hydra",
    "--info",
    "--info callbacks.mine.token",
    "--help",
    "--dry-run",
    "--dry-run --json",
)


def shown(capsys, *words: str, status: int = 0) -> str:
    """Return what a command prints, on both streams."""
    assert run("launch", list(words)) == status
    said = capsys.readouterr()
    return said.out + said.err


def assert_unseen(text: str, *values: str) -> None:
    assert [value for value in (VALUE, OTHER, *values) if value in text] == []


def places_that_hold(value: str, *folders: Path) -> list[str]:
    """Return the files, archives and databases alike, that hold a value."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if value.encode() in file.read_bytes()]


def digest_of(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "DB_PASSWORD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "my_passwd", "KEY"]
)
def test_a_name_is_recognised_as_a_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["HOME_DIR", "MONKEY", "KEYBOARD", "AUTHOR", "TOKENIZERS_PARALLELISM", "PATH", "LR"])
def test_a_name_is_recognised_as_no_secrets(name):
    assert not is_secret_name(name)


@pytest.fixture
def every_way(own) -> str:
    """An experiment with a callback for every way in which a secret may be written."""
    callbacks = {name: {"_target_": "confidant.Holder", "token": token} for name, (token, _) in WRITTEN.items()}
    used = {name: text for name, text in VARIABLES.items() if name != "no_one"}
    text = yaml.safe_dump({"defaults": [DIGITS, "_self_"], "variables": used, "callbacks": callbacks})
    (own / "mine.yaml").write_text(text)
    return "mine.yaml"


@pytest.mark.parametrize("look", [look.replace("callbacks.mine.token", "callbacks") for look in LOOKS])
def test_no_look_at_a_config_shows_a_secret(look, every_way, capsys):
    assert_unseen(shown(capsys, every_way, *look.split()))


def test_whoever_needs_a_secret_gets_it(every_way):
    trainer, _, _ = load_from_config(load_config([every_way]))
    got = [callback.token for callback in trainer.callbacks if type(callback).__name__ == "Holder"]
    assert sorted(got) == sorted(real for _, real in WRITTEN.values())


@pytest.mark.parametrize(("token", "real"), WRITTEN.values(), ids=WRITTEN.keys())
def test_a_reference_may_be_given_as_an_override_and_is_not_shown(token, real, own, capsys):
    written = plan_of(experiment(own, token))
    text = (own / "mine.yaml").read_text().replace(f"token: {json.dumps(token)}", "token: to be replaced")
    (own / "mine.yaml").write_text(text)
    for look in ("--info callbacks.mine.token", "--dry-run --json"):
        assert_unseen(shown(capsys, "mine.yaml", f"callbacks.mine.token={token}", *look.split()))
    assert plan_of("mine.yaml", [f"callbacks.mine.token={token}"]) == written


def test_a_default_of_nothing_is_nothing(own):
    config = experiment(own, "${oc.env:NOT_SET_TOKEN,null}")
    trainer, _, _ = load_from_config(load_config([config]))
    assert [callback.token for callback in trainer.callbacks if type(callback).__name__ == "Holder"] == [None]


def test_a_secret_that_would_have_to_be_computed_with_is_refused_unseen(own, capsys):
    said = shown(capsys, experiment(own, "${oc.decode:${oc.env:MY_API_KEY}}"), "--dry-run", status=2)
    assert said.startswith("error: callbacks.mine.token: ")
    assert_unseen(said)


def test_a_variable_that_is_not_called_like_a_secret_is_resolved_as_usual(own, monkeypatch, capsys):
    monkeypatch.setenv("HOME_DIR", "/home/somebody")
    config = experiment(own, "${oc.env:HOME_DIR}/x")
    assert plan_of(config).spec.callbacks["mine"]["token"] == "/home/somebody/x"
    assert "/home/somebody/x" in shown(capsys, config, "--cfg", "job", "--resolve")
    assert "${oc.env:HOME_DIR}/x" in shown(capsys, config, "--cfg", "job")
    assert plan_of(experiment(own, "${oc.env:NOT_THERE,a b}")).spec.callbacks["mine"]["token"] == "a b"


MISSING = ["${oc.env:NO_API_KEY}", "${secret:NO_SUCH}", "https://me:${oc.env:NO_PASSWORD}@host", "${variables.no_one}"]


@pytest.mark.parametrize("token", [*MISSING, "${oc.env:NO_HOME_DIR}", "${oc.env:NO_TOKEN,${oc.env:NO_API_KEY}}"])
@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_a_variable_that_is_not_set_is_named_with_its_key_and_nothing_starts(token, words, own, capsys):
    config = experiment(own, token)
    said = shown(capsys, config, *words, status=2)
    assert said.startswith("error: callbacks.mine.token: ")
    assert "NO_" in said
    assert "mine.yaml:5" in said
    assert not (own / "models").exists()


def test_a_default_that_is_not_needed_may_be_missing(own):
    plan_of(experiment(own, "${oc.env:MY_API_KEY,${oc.env:NO_TOKEN}}"))


def test_a_secret_may_stand_in_the_dotenv_file(own, monkeypatch):
    monkeypatch.setenv("DOTENV_TOKEN", "")
    monkeypatch.delenv("DOTENV_TOKEN")
    (own / ".env").write_text("DOTENV_TOKEN=from-the-file\n")
    trainer, _, _ = load_from_config(load_config([experiment(own, "${oc.env:DOTENV_TOKEN}")]))
    assert "from-the-file" in [getattr(callback, "token", None) for callback in trainer.callbacks]


LITERALS = {
    "a value": "callbacks.mine.token=secret:swordfish-7f3a",
    "a quoted value": "callbacks.mine.token='secret:swordfish-7f3a'",
    "a value with commas": "callbacks.mine.token=secret:swordfish-7f3a,b",
    "a value with spaces": "callbacks.mine.token='secret:a swordfish-7f3a b'",
    "an added value": "+callbacks.mine.other=secret:swordfish-7f3a",
    "in a section": "callbacks.more={_target_: confidant.Holder, token: secret:swordfish-7f3a}",
    "in a quoted section": "callbacks.more={_target_: confidant.Holder, token: 'secret:swordfish-7f3a'}",
    "in a list": "callbacks.mine.token=[secret:swordfish-7f3a]",
    "of another type": "resources.workers=secret:swordfish-7f3a",
    "of no key": "callbacksy=secret:swordfish-7f3a",
    "that cannot be read": "callbacks.mine.token=secret:swordfish-7f3a}(",
    "no override": "secret:swordfish-7f3a",
}


@pytest.mark.parametrize("look", ["", "--cfg all", "--info", "--dry-run --json"])
@pytest.mark.parametrize("override", LITERALS.values(), ids=LITERALS.keys())
def test_a_secret_typed_in_plain_text_is_refused_without_showing_it(override, look, own, capsys):
    said = shown(capsys, experiment(own, "x"), override, *look.split(), status=2)
    assert "a secret is written here in plain text" in said
    assert "${secret:" in said
    assert_unseen(said)


IN_A_FILE = {
    "a value": "callbacks: {mine: {_target_: confidant.Holder, token: 'secret:swordfish-7f3a'}}",
    "in a list": "callbacks: {mine: {_target_: confidant.Holder, token: ['secret:swordfish-7f3a']}}",
    "of another type": "resources: {workers: 'secret:swordfish-7f3a'}",
    "of no key": "callbacksy: 'secret:swordfish-7f3a'",
    "by another key": "x: 'secret:swordfish-7f3a'\nrun: {id: '${x}'}",
    "instead of a section": "resources: 'secret:swordfish-7f3a'",
    "a task": "task: 'secret:swordfish-7f3a'",
}


@pytest.mark.parametrize("text", IN_A_FILE.values(), ids=IN_A_FILE.keys())
def test_a_secret_in_a_file_in_plain_text_is_refused_without_showing_it(text, own, capsys):
    (own / "mine.yaml").write_text(f"defaults: [experiment/digits, _self_]\n{text}\n")
    for look in ("", "--cfg job", "--cfg all --resolve", "--info", "--dry-run"):
        status = run("launch", ["mine.yaml", *look.split()])
        said = capsys.readouterr()
        assert_unseen(said.out + said.err)
        if not look or "dry" in look:
            assert status == 2
            assert "a secret is written here in plain text" in said.err
    config = yaml.safe_load((own / "mine.yaml").read_text())
    with pytest.raises(ConfigError, match="a secret is written here") as error:
        plan_of({key: value for key, value in config.items() if key != "defaults"})
    assert_unseen(str(error.value))


def test_nothing_that_a_run_leaves_behind_holds_a_secret_that_user_code_says(own, tmp_path, capsys):
    config = experiment(own, "${oc.env:MY_API_KEY}", cls="Talker", more=f"    file: {tmp_path}/digest\n")
    said = shown(capsys, config, "logger=csv", "run.name=${secret:OTHER_TOKEN}", *SMALL)
    assert (tmp_path / "digest").read_text() == digest_of(VALUE)
    for value in (VALUE, OTHER):
        assert places_that_hold(value, own / "models", own / "results") == []
    assert_unseen(said)
    (folder,) = (own / "models").glob("*/*/run_id=*")
    log = (folder / "train_cls.log").read_text()
    for part in (
        "printed ***",
        "{'repr': '***'} ['***']",
        "in pieces ***",
        "logged ***",
        "warned ***",
        "KeyError: '***'",
    ):
        assert part in log
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["callbacks"]["mine"]["token"] == "${oc.env:MY_API_KEY}"
    assert plan_of(str(folder / "config.yaml")).spec.callbacks == saved["callbacks"]


def test_a_secret_that_user_code_raises_is_in_no_message_and_in_no_file(own, capsys):
    said = shown(capsys, experiment(own, "${oc.env:MY_API_KEY}", cls="Raiser"), *SMALL, status=3)
    assert "ValueError: cannot log in with ***" in said
    assert_unseen(said)
    assert places_that_hold(VALUE, own / "models", own / "results") == []
    (log,) = (own / "models").glob("*/*/run_id=*/train_cls.log")
    assert "ValueError: cannot log in with ***" in log.read_text()


def test_from_python_the_error_of_a_run_does_not_say_it_either(own):
    with pytest.raises(RunError, match=r"cannot log in with \*\*\*"):
        launch(experiment(own, "${oc.env:MY_API_KEY}", cls="Raiser"), SMALL)


@pytest.mark.parametrize(("words", "status"), [(SMALL, 3), (("--check",), 2)], ids=["run", "check"])
def test_a_secret_in_the_refusal_of_an_object_is_hidden(words, status, own, capsys):
    said = shown(capsys, experiment(own, "${oc.env:MY_API_KEY}", cls="Refuser"), *words, status=status)
    assert "bad token ***" in said
    assert_unseen(said)


KEY_LINES = ["-----BEGIN KEY-----", "MIIEvQIBADANBgkq", "hkiG9w0BAQEFAASC", "-----END KEY-----"]


def test_a_secret_of_several_lines_is_hidden_line_by_line(own, monkeypatch, capsys):
    monkeypatch.setenv("MY_PRIVATE_KEY", "\n".join(KEY_LINES))
    shown(capsys, experiment(own, "${oc.env:MY_PRIVATE_KEY}", cls="Talker"), *SMALL)
    said = shown(capsys, experiment(own, "${oc.env:MY_PRIVATE_KEY}", cls="Raiser"), *SMALL, status=3)
    for line in KEY_LINES[1:3]:
        assert line not in said
        assert places_that_hold(line, own / "models", own / "results") == []


def test_of_two_secrets_of_which_one_is_a_part_of_the_other_nothing_is_left(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "abcd")
    monkeypatch.setenv("B_TOKEN", "abcdefgh")
    monkeypatch.setenv("SHORT_TOKEN", "is")
    names = {"A_TOKEN", "B_TOKEN", "SHORT_TOKEN", "NOT_SET_TOKEN"}
    assert hide("it is abcdefgh, or abcd", names) == "it is ***, or ***"


OWN_MODULE = """
import torch
from confidant import *
from asparagus.stages.cls import ClsModule

class Saving(ClsModule):
    def __init__(self, token, **kwargs):
        super().__init__(**kwargs)
        self.save_hyperparameters("token")

    def on_train_start(self):
        assert len(self.hparams.token) == 14
"""


def test_what_lightning_saves_of_a_modules_arguments_holds_no_secret(own, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_code" / "saving.py").write_text(OWN_MODULE)
    monkeypatch.delitem(sys.modules, "saving", raising=False)
    module = "model.module={_target_: saving.Saving, token: '${oc.env:MY_API_KEY}'}"
    shown(capsys, DIGITS, module, "logger=csv", *SMALL)
    assert places_that_hold(VALUE, own / "models", own / "results") == []


URI = f"postgresql://me:{VALUE}@db.example/runs"


@pytest.mark.parametrize(
    "uri",
    [URI, f"postgresql://db.example/runs?user=me&password={VALUE}", f"oracle://me:{VALUE}@db.example/runs"],
    ids=["user", "query", "unknown"],
)
def test_a_password_in_the_tracking_uri_is_shown_by_no_look(uri, own, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for look in LOOKS:
        status = run("launch", [DIGITS, *look.replace("callbacks.mine.token", "optim.lr").split()])
        said = capsys.readouterr()
        assert status == (2 if "dry" in look and uri.startswith("oracle") else 0), said.err
        assert_unseen(said.out + said.err)
        assert "oracle" not in uri or "dry" not in look or "site.tracking_uri: 'oracle://me:***@" in said.err


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("given", "words"), [("environment", ()), ("environment", ("--check",)), ("config", ("--check",))]
)
def test_a_store_that_is_away_is_named_without_its_password(given, words, own, monkeypatch, capsys):
    if given == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{VALUE}@127.0.0.1:1")
    else:
        words = (*words, "site.tracking_uri=http://me:${oc.env:DB_PASSWORD}@127.0.0.1:1")
    said = shown(capsys, DIGITS, *words, status=2)
    assert "127.0.0.1:1" in said
    assert "tracking" in said
    assert_unseen(said)


@pytest.mark.e2e
def test_the_commands_that_read_the_record_do_not_say_its_password(own, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{VALUE}@127.0.0.1:1")
    for command, status in ((["runs"], 2), (["ui"], 0)):
        assert run(command[0], command[1:]) == status
        said = capsys.readouterr()
        assert "127.0.0.1:1" in said.out + said.err
        assert_unseen(said.out + said.err)


def test_a_password_typed_into_a_tracking_uri_is_refused_without_showing_it(own, capsys):
    said = shown(capsys, DIGITS, f"site.tracking_uri={URI}", "--dry-run", status=2)
    assert "site.tracking_uri: a password is written here in plain text" in said
    assert_unseen(said)


def test_the_recording_process_is_not_told_its_store_where_everybody_can_read_it(own):
    with Recorder(f"http://me:{VALUE}@127.0.0.1:1", own, own) as recorder:
        assert_unseen(" ".join(map(str, recorder._process.args)))


@pytest.mark.e2e
def test_runs_are_recorded_where_a_secret_says_so(own, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STORE_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    shown(capsys, DIGITS, "site.tracking_uri=${secret:STORE_URI}", *SMALL)
    (run_of_ours,) = Store(f"sqlite:///{tmp_path}/elsewhere.db").runs()
    assert run_of_ours.data.params["site.tracking_uri"] == "${secret:STORE_URI}"
    assert not (own / "results" / "mlflow.db").exists()


@pytest.mark.e2e
def test_the_password_of_the_tracking_uri_is_not_recorded(own, tmp_path, monkeypatch, capsys):
    with mlflow_server(tmp_path / "server") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", f"//me:{VALUE}@"))
        said = shown(capsys, DIGITS, *SMALL)
        (run_of_ours,) = Store(uri).runs()
    assert_unseen(said)
    assert run_of_ours.info.status == "FINISHED"
    assert places_that_hold(VALUE, own / "models", tmp_path / "server") == []
    (config,) = (own / "models").glob("*/*/run_id=*/config.yaml")
    assert yaml.safe_load(config.read_text())["site"]["tracking_uri"] == "${secret:MLFLOW_TRACKING_URI}"


def test_ray_is_not_told_secrets_where_it_shows_them(own):
    site = Site(env={"WANDB_API_KEY": "${oc.env:MY_API_KEY}", "PLAIN": "x"})
    environment = worker_environment(site)
    assert environment["PLAIN"] == "x"
    assert_unseen(str(environment))
    assert "WANDB_API_KEY" not in environment
    sealed = Sealed({"MY_API_KEY": VALUE})
    assert (str(sealed), f"{[sealed]}", sealed.values) == ("***", "[***]", {"MY_API_KEY": VALUE})


ON_RAY = """
import os

class OnRay(Talker):
    def on_train_start(self, trainer, pl_module):
        self.token += os.environ["FROM_SITE_TOKEN"]
        super().on_train_start(trainer, pl_module)
        raise ValueError(f"cannot log in with {self.token}")
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_on_a_ray_worker_a_secret_is_there_and_stays_there(own, asp, tmp_path):
    (own / "confidant.py").write_text(OWN + ON_RAY)
    config = experiment(own, "${oc.env:MY_API_KEY}", cls="OnRay", more=f"    file: {tmp_path}/digest\n")
    site = "site.env={FROM_SITE_TOKEN: '${secret:OTHER_TOKEN}'}"
    done = asp("asp-launch", config, "resources=one_worker", "site.cpus_per_node=2", site, *SMALL)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "digest").read_text() == digest_of(VALUE + OTHER)
    assert "ValueError: cannot log in with ***" in done.stderr
    assert_unseen(done.stdout + done.stderr)
    for value in (VALUE, OTHER):
        assert places_that_hold(value, own / "models", own / "results") == []
    (log,) = (own / "models").glob("*/*/run_id=*/train_cls.log")
    assert "printed ***" in log.read_text()
