"""Archives: what SEEDS B31 to B43 promise of them, what is wrong with a file said in one line, and the commands."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import io
import json
import shutil
import sys
import tarfile
import types
import uuid
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

import asparagus
from asparagus.archive import (
    Archivable,
    extract_state_dict_from,
    import_archive,
    read_index,
    restore_run,
    save_again,
    save_run,
)
from asparagus.archive.container import write
from asparagus.archive.kept import kept_by
from asparagus.archive.pyfunc import ArrayModel, _load_pyfunc
from asparagus.checkpoint.folder import STATE, Manifest, digest_of, seal
from asparagus.cli.main import run as command
from asparagus.errors import AsparagusError, ConfigError, DataError, RecordError
from asparagus.python_file import MODEL_OF
from asparagus.record.numbers import claim
from asparagus.record.run_folder import create
from asparagus.secrets import reveal
from asparagus.spec import Parent as Parental
from asparagus.spec import Paths, Spec
from asparagus.stages.seg import SegModule
from tests.helpers import quiet_trainer

DIGITS = "experiment/digits"
ONE = "trainer.max_epochs=1"


class Net(Archivable):
    """A linear layer as wide as its file of names is long."""

    def __init__(self, cfg=None, trainer=None):
        super().__init__(cfg, trainer=trainer)
        file = self.register_artifact("names", self.cfg.get("names"))
        self.names = Path(file).read_text().split() if file else ["only"]
        self.given_trainer = trainer
        self.layer = nn.Linear(self.cfg.get("width", 3), len(self.names))

    def forward(self, x):
        return self.layer(x)


class Wider(Net):
    """A subclass of what an archive holds."""


class Other(Archivable):
    """Nothing that Net is."""


class LitNet(Archivable, pl.LightningModule):
    """The same for Lightning."""

    def __init__(self, cfg, trainer=None):
        super().__init__(cfg, trainer=trainer)
        self.layer = nn.Linear(self.cfg.width, 1)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        return self(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class LitNamed(LitNet):
    """One with an artifact."""

    def __init__(self, cfg, trainer=None):
        super().__init__(cfg, trainer=trainer)
        self.names = Path(self.register_artifact("names", self.cfg.names)).read_text().split()


class LitAround(pl.LightningModule):
    """A plain module around a network."""

    def __init__(self, net):
        super().__init__()
        self.net = net


class Parent(Archivable):
    """The example of SEEDS 001: a child by its config, by an archive, or by a pretrained name."""

    def __init__(self, cfg, trainer=None):
        super().__init__(cfg, trainer=trainer)
        child = type(self).CHILD
        if self.cfg.get("child_model") is not None:
            self.built_from = "config"
            self.register_submodule("child_model", "child_model", child(self.cfg.child_model, trainer=trainer))
        elif self.cfg.get("child_model_path") is not None:
            self.built_from = "path"
            self.register_submodule("child_model", "child_model", child.restore_from(self.cfg.child_model_path))
        elif self.cfg.get("child_model_name") is not None:
            self.built_from = "name"
            self.register_submodule("child_model", "child_model", child.from_pretrained(self.cfg.child_model_name))
        else:
            self.child_model = None

    CHILD = Net


class Grandparent(Parent):
    """One level deeper."""

    CHILD = Parent


class Early(Archivable):
    """Registers too early."""

    def __init__(self, cfg=None):
        self.register_submodule("child", "child", Net())


class Scaled(Net):
    """Has a tensor of its own, and a module whose name begins as another's."""

    def __init__(self, cfg=None, trainer=None):
        super().__init__(cfg, trainer=trainer)
        self.scale = nn.Parameter(torch.ones(2))
        self.layer_norm = nn.LayerNorm(3)


@pytest.fixture
def names(tmp_path) -> Path:
    file = tmp_path / "names.txt"
    file.write_text("left right")
    return file


@pytest.fixture
def archive(tmp_path, names) -> Path:
    return Net({"width": 3, "names": str(names)}).save_to(tmp_path / "net.asparagus")


def members(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def config_of(path) -> dict:
    return yaml.safe_load(members(path)["./model_config.yaml"])


def same_weights(one, other) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


def test_b31_an_archive_is_a_plain_tar_of_config_weights_and_artifacts(tmp_path, names):
    model = Net({"width": 3, "names": str(names)})
    path = tmp_path / "new" / "folders" / "net.asparagus"
    model.save_to(path)
    with tarfile.open(path, "r:") as tar:  # uncompressed
        assert all(member.isfile() for member in tar.getmembers())
    found = set(members(path))
    (artifact,) = found - {"./archive.json", "./model_config.yaml", "./model_weights.ckpt"}
    prefix, _, basename = artifact.removeprefix("./").partition("_")
    assert uuid.UUID(hex=prefix).hex == prefix
    assert basename == "names.txt"
    weights = torch.load(io.BytesIO(members(path)["./model_weights.ckpt"]), weights_only=True)
    assert same_weights(types.SimpleNamespace(state_dict=lambda: weights), model)


def test_b31_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    Net().save_to(tmp_path / "net.asparagus")
    assert list(tmp_path.iterdir()) == []


def test_b31_nothing_half_written_is_left_and_what_is_there_is_replaced_whole(tmp_path, archive, names):
    before = archive.read_bytes()
    model = Net({"names": str(names)})
    names.unlink()
    with pytest.raises(FileNotFoundError, match=r"names: its artifact .*names.txt is gone"):
        model.save_to(archive)
    assert archive.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["net.asparagus"]
    Net({"width": 9}).save_to(archive)
    assert Net.restore_from(archive).layer.in_features == 9


def test_b32_restore_from_returns_a_model_of_the_class_in_the_archive(archive):
    for cls in (Net, Archivable):
        model = cls.restore_from(archive)
        assert type(model) is Net  # and no tuple
        assert model.names == ["left", "right"]
    assert type(Wider.restore_from(archive)) is Wider
    with pytest.raises(RecordError, match=r"holds a Net, and Other.restore_from was asked for a Other"):
        Other.restore_from(archive)


def test_b32_weights_config_and_arguments_come_back(tmp_path):
    for model in (Net({"width": 5}), LitNet({"width": 5})):
        path = model.save_to(tmp_path / f"{type(model).__name__}.tar")
        back = type(model).restore_from(path)
        assert same_weights(model, back)
        assert back.cfg.width == 5
        assert next(back.parameters()).device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert type(model).restore_from(path, map_location="meta").layer.weight.is_meta
    trainer = object()
    assert Net.restore_from(tmp_path / "Net.tar", trainer=trainer).given_trainer is trainer


def test_b32_a_gzipped_archive_is_opened_too_and_a_missing_one_is_a_file_not_found(tmp_path, archive):
    (tmp_path / "net.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))
    assert same_weights(Net.restore_from(tmp_path / "net.tar.gz"), Net.restore_from(archive))
    with pytest.raises(FileNotFoundError, match="there is no such archive") as error:
        Net.restore_from(tmp_path / "none.asparagus")
    assert isinstance(error.value, AsparagusError)


def test_b33_return_config_gives_the_config_and_touches_nothing_else(tmp_path, archive):
    config = Net.restore_from(archive, return_config=True)
    assert isinstance(config, DictConfig)
    assert config.width == 3
    assert config.target == f"{Net.__module__}.Net"
    changed = rewritten(archive, tmp_path / "x", {"./model_weights.ckpt": b"rot"})
    assert Net.restore_from(changed, return_config=True) == config


def test_b34_a_config_or_its_path_may_replace_the_archives_own(tmp_path, archive):
    config = Net.restore_from(archive, return_config=True)
    config.note = "mine"
    OmegaConf.save(config, tmp_path / "plain.yaml")
    OmegaConf.save({"model": config, "trainer": {"max_epochs": 1}}, tmp_path / "whole.yaml")
    whole = OmegaConf.create({"model": config})
    for override in (config, tmp_path / "plain.yaml", str(tmp_path / "whole.yaml"), whole):
        model = Net.restore_from(archive, override_config_path=override)
        assert model.cfg.note == "mine"
        assert model.names == ["left", "right"]
    config.width = 7
    with pytest.raises(RecordError, match=r"weights do not fit a Net(.|\n)*layer.weight(.|\n)*override_config_path"):
        Net.restore_from(archive, config)
    with pytest.raises(RecordError, match="there is no file"):
        Net.restore_from(archive, tmp_path / "none.yaml")


def test_b34_what_strict_refuses_is_taken_by_name_without_it(archive):
    with pytest.raises(RecordError, match="scale"):
        Scaled.restore_from(archive)
    assert same_weights(Scaled.restore_from(archive, strict=False).layer, Net.restore_from(archive).layer)


def test_b35_a_pretrained_name_is_a_path_or_an_address_on_the_hub(archive, monkeypatch):
    assert type(Archivable.from_pretrained(archive)) is Net
    url = "https://huggingface.co/user/repo/blob/v1/deep/x.asparagus"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RecordError, match="pip install huggingface_hub"):
        Net.from_pretrained(url)
    asked = []

    def download(**what):
        asked.append(what)
        return str(archive)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    assert Net.from_pretrained(url).names == ["left", "right"]
    assert asked == [{"repo_id": "user/repo", "filename": "deep/x.asparagus", "revision": "v1"}]
    config = Net.from_pretrained(url, return_config=True)
    config.x = 1
    assert Net.from_pretrained(url, override_config_path=config).cfg.x == 1
    with pytest.raises(RecordError, match=r"neither the path .* nor an address"):
        Net.from_pretrained("some-name")


def test_b35_a_download_that_fails_is_one_error(monkeypatch):
    def download(**what):
        raise OSError("404")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    with pytest.raises(RecordError, match="cannot be downloaded: 404"):
        Net.from_pretrained("https://huggingface.co/user/repo/resolve/main/x.asparagus")


def test_b36_lightnings_own_checkpoints_load_by_the_saved_config(tmp_path):
    model = LitNet({"width": 4})
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(2, 4)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    back = LitNet.load_from_checkpoint(tmp_path / "last.ckpt")
    assert back.cfg == model.cfg
    assert same_weights(model, back)


def test_b37_an_artifact_is_a_path_here_and_inside_the_archive_when_restored(tmp_path, names, archive, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Net().register_artifact("names", "names.txt") == str(names)
    assert Net().register_artifact("names", None) is None
    assert Net().register_artifact("names", "") == ""
    names.unlink()
    inside = Path(Net.restore_from(archive).cfg.names)
    assert inside != names
    assert inside.name.endswith("_names.txt")


def test_b37_the_path_is_good_for_as_long_as_the_model_lives(archive):
    model = Net.restore_from(archive)
    copied = copy.deepcopy(model)
    path = Path(model.cfg.names)
    assert path.read_text() == "left right"
    del model
    assert path.is_file()
    assert kept_by(copied).artifacts["names"].path == path
    del copied
    assert not path.exists()


def test_b37_an_archive_is_no_artifact(tmp_path, archive):
    archive.rename(tmp_path / "disguised.bin")
    with pytest.raises(RecordError, match="is an archive, and archives are no artifacts"):
        Net().register_artifact("other", tmp_path / "disguised.bin")
    with pytest.raises(RecordError, match="is a folder"):
        Net().register_artifact("other", tmp_path)


def test_b38_the_config_says_where_an_artifact_is(tmp_path, names, caplog):
    model = Net({"width": 3})
    model.register_artifact("deep.er", names)
    assert model.cfg.deep.er == str(names)
    model.register_artifact("twin", names)
    path = model.save_to(tmp_path / "x")
    config = config_of(path)
    for key, value in (("deep.er", config["deep"]["er"]), ("twin", config["twin"])):
        assert value.startswith("asparagus:"), key
        assert members(path)[f"./{value.removeprefix('asparagus:')}"] == b"left right"
    assert config["twin"] != config["deep"]["er"]
    assert caplog.text == ""
    (tmp_path / "more.txt").write_text("a b c")
    model.register_artifact("twin", tmp_path / "more.txt")
    assert "twin is registered twice" in caplog.text
    assert config_of(model.save_to(tmp_path / "y"))["twin"].endswith("_more.txt")


def test_b39_an_optional_artifact_may_be_missing(tmp_path):
    model = Net()
    assert model.register_artifact("x", tmp_path / "none", verify_src_exists=False) is None
    assert "x" not in model.cfg
    with pytest.raises(FileNotFoundError, match="x: there is no file"):
        model.register_artifact("x", tmp_path / "none")


def test_b40_a_restored_model_keeps_its_artifacts_when_it_is_saved_again(tmp_path, names, archive):
    names.unlink()
    model = Net.restore_from(archive)
    shutil.rmtree(Path(model.cfg.names).parent)  # something has cleared the temporary folder
    again = model.save_to(tmp_path / "again")
    assert Net.restore_from(again).names == ["left", "right"]
    shutil.rmtree(Path(model.cfg.names).parent)
    archive.unlink()
    with pytest.raises(FileNotFoundError, match="no such archive"):
        model.save_to(tmp_path / "third")


def test_b40_artifacts_that_were_registered_from_outside_come_back_too(tmp_path, names):
    model = Net()
    model.register_artifact("notes.first", names)
    back = Net.restore_from(model.save_to(tmp_path / "x"))
    assert Path(back.cfg.notes.first).read_text() == "left right"
    assert (back.save_to(tmp_path / "y")).read_bytes() == (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("build", [Net, Parent, Grandparent])
def test_b40_three_round_trips_give_the_same_bytes(build, tmp_path, names):
    config = {"width": 3, "names": str(names)}
    for _ in range({Net: 0, Parent: 1, Grandparent: 2}[build]):
        config = {"child_model": config}
    first = build(config).save_to(tmp_path / "0")
    names.unlink()
    for turn in range(1, 4):
        build.restore_from(tmp_path / str(turn - 1)).save_to(tmp_path / str(turn))
        assert (tmp_path / str(turn)).read_bytes() == first.read_bytes()


def test_b41_a_submodule_is_saved_with_its_config_and_its_artifacts(tmp_path, names):
    model = Grandparent({"child_model": {"child_model": {"width": 3, "names": str(names)}}})
    path = model.save_to(tmp_path / "x")
    inner = config_of(path)["child_model"]["child_model"]
    assert inner["width"] == 3
    assert inner["names"].startswith("asparagus:")
    names.unlink()
    back = Grandparent.restore_from(path)
    assert type(back.child_model.child_model) is Net
    assert back.child_model.child_model.names == ["left", "right"]
    assert same_weights(model, back)


def test_b41_a_submodule_is_archivable_and_comes_after_super_init():
    with pytest.raises(RecordError, match=r"Call super\(\).__init__\(cfg\) first in Early.__init__"):
        Early()
    with pytest.raises(RecordError, match="child is a Linear, which is not Archivable"):
        Net().register_submodule("child", "child", nn.Linear(1, 1))


@pytest.mark.parametrize("key", ["child_model", "child_model_path", "child_model_name"])
def test_b42_a_child_comes_from_config_archive_or_name_and_then_from_config(key, tmp_path, names, archive):
    value = {"width": 3, "names": str(names)} if key == "child_model" else str(archive)
    model = Parent({key: value})
    assert model.built_from == {"child_model": "config"}.get(key, key.removeprefix("child_model_"))
    if key != "child_model":
        assert same_weights(model.child_model, Net.restore_from(archive))
    path = model.save_to(tmp_path / "parent")
    archive.unlink()
    names.unlink()
    back = Parent.restore_from(path)
    assert back.built_from == "config"
    assert back.child_model.names == ["left", "right"]
    assert same_weights(model, back)


def test_b43_weights_are_extracted_whole_or_module_by_module(tmp_path):
    model = Scaled()
    path = model.save_to(tmp_path / "x")
    (whole,) = extract_state_dict_from(path, tmp_path / "whole")
    assert torch.load(whole, weights_only=True).keys() == model.state_dict().keys()
    files = extract_state_dict_from(path, tmp_path / "parts", split_by_module=True)
    parts = {file.stem: set(torch.load(file, weights_only=True)) for file in files}
    assert parts == {
        "layer": {"weight", "bias"},
        "layer_norm": {"weight", "bias"},  # whose name begins as the other's
        "parameters": {"scale"},
    }
    model.layer.load_state_dict(torch.load(tmp_path / "parts" / "layer.ckpt", weights_only=True))
    with pytest.raises(RecordError, match="is there already"):
        extract_state_dict_from(path, tmp_path / "parts", split_by_module=True)


def rewritten(path, to, changes, *, rename=None):
    """Write an archive again as somebody who tampers with it would: other contents, the old index."""
    with tarfile.open(to, "w") as tar:
        for name, content in {**members(path), **changes}.items():
            if content is None:
                continue
            member = tarfile.TarInfo((rename or {}).get(name, name))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return to


def test_an_archive_that_was_cut_short_is_said_to_be(tmp_path, archive):
    content = archive.read_bytes()
    for keep in (0, 100, 700, 3000, len(content) // 2):
        (tmp_path / "cut").write_bytes(content[:keep])
        with pytest.raises(RecordError, match="cut short"):
            Net.restore_from(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(gzip.compress(content)[:-100])
    with pytest.raises(RecordError, match="cut short"):
        Net.restore_from(tmp_path / "cut")


def test_an_archive_that_was_tampered_with_is_refused_and_says_where(tmp_path, archive):
    for name in members(archive):
        content = bytearray(members(archive)[name])
        if name == "./archive.json":
            content = content.replace(b'"kind": "model"', b'"kind": "run"')
        else:
            content[len(content) // 2] ^= 1
        bad = rewritten(archive, tmp_path / "bad", {name: bytes(content)})
        with pytest.raises(RecordError, match=rf"{name[2:]} is not as it was written .* export it anew"):
            Net.restore_from(bad)
    with pytest.raises(RecordError, match=r"model_weights.ckpt is missing"):
        Net.restore_from(rewritten(archive, tmp_path / "bad", {"./model_weights.ckpt": None}))
    with pytest.raises(RecordError, match=r"holds more.txt, which its archive.json does not name"):
        Net.restore_from(rewritten(archive, tmp_path / "bad", {"./more.txt": b""}))


def test_an_archive_of_a_newer_format_says_what_to_do(tmp_path, archive):
    index = json.loads(members(archive)["./archive.json"])
    newer = json.dumps({**index, "format": 2, "more": "things"}).encode()
    with pytest.raises(RecordError, match=r"is of format 2, and .* up to 1. Update asparagus"):
        Net.restore_from(rewritten(archive, tmp_path / "new", {"./archive.json": newer}))


@pytest.mark.parametrize("name", ["/etc/passwd", "../out", "./a/../../out", "./folder/inside"])
def test_a_member_that_could_leave_the_folder_is_refused(name, tmp_path, archive):
    bad = rewritten(archive, tmp_path / "bad", {}, rename={"./model_weights.ckpt": name})
    with pytest.raises(RecordError, match="an archive holds plain files without folders"):
        import_archive(bad, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_link_is_refused(tmp_path, archive):
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("./link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(RecordError, match=r"holds './link'"):
        read_index(archive)


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    (tmp_path / "text").write_text("hello " * 500)
    with pytest.raises(RecordError, match="is no archive"):
        Net.restore_from(tmp_path / "text")
    torch.save(Net().state_dict(), tmp_path / "x.ckpt")
    with pytest.raises(RecordError, match="is no archive"):
        Net.restore_from(tmp_path / "x.ckpt")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "text", "./model_config.yaml")
    with pytest.raises(RecordError, match=r"has no archive.json.*init_from=file:PATH"):
        Net.restore_from(tmp_path / "other.tar")
    with pytest.raises(RecordError, match="is a folder"):
        Net.restore_from(tmp_path)


def test_an_artifact_that_the_archive_has_not_is_named(archive):
    config = Net.restore_from(archive, return_config=True)
    config.names = f"asparagus:{'0' * 32}_gone.txt"
    with pytest.raises(RecordError, match=r"holds no 0+_gone.txt. Its artifacts: \w+_names.txt"):
        Net.restore_from(archive, config)
    config.names = "asparagus:../../secret"
    with pytest.raises(RecordError, match="is no artifact's name"):
        Net.restore_from(archive, config)
    with pytest.raises(RecordError, match="is a file inside an archive, and none is being restored"):
        Net(Net.restore_from(archive, return_config=True))


def test_a_class_that_nobody_finds_again_is_refused_when_it_is_saved(tmp_path):
    class Here(Archivable):
        pass

    with pytest.raises(RecordError, match="is defined inside a function"):
        Here().save_to(tmp_path / "x")


def test_a_target_that_is_no_module_is_not_called(archive, tmp_path):
    config = OmegaConf.create({"target": "os.getcwd"})
    with pytest.raises(RecordError, match=r"os.getcwd is no class of torch.nn.Module"):
        Archivable.restore_from(archive, config)
    config.target = "not.there.Net"
    with pytest.raises(ConfigError, match="cannot be imported"):
        Archivable.restore_from(archive, config)


class Pickled(Net):
    """Wants a pickle in its state."""

    def get_extra_state(self):
        return Path("x")


def test_no_pickle_that_executes_is_written_or_read(tmp_path):
    with pytest.raises(RecordError, match="loading it would execute code"):
        Pickled().save_to(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_weights_that_would_execute_code_are_refused_although_their_digest_is_right(tmp_path, capsys):
    torch.save({"layer.weight": Evil()}, tmp_path / "evil")
    files = {"model_weights.ckpt": tmp_path / "evil"}
    write(tmp_path / "x", kind="model", config=f"target: {Net.__module__}.Net", files=files, lineage={})
    with pytest.raises(AsparagusError, match="files that execute code on loading are refused"):
        Net.restore_from(tmp_path / "x")
    assert "executed" not in capsys.readouterr().out


def a_run(models, model, weights) -> Path:
    """Write the folder of a run with one checkpoint, as far as exporting reads it."""
    data = {"_target_": "tests.own_code.NoData", "patch_size": [8, 8]}
    spec = Spec("train", "Own", seed=1, model=model, data=data, paths=Paths(data=str(models / "none")))
    folder = create(models, spec, 1, "{}")
    folder.record.write_text(json.dumps({"run_id": 1, "stage": "train", "task": "Own", "parent": None}))
    writing = folder.checkpoints / ".writing-x"
    writing.mkdir(parents=True)
    torch.save({"state_dict": weights}, writing / STATE)
    size = (writing / STATE).stat().st_size
    seal(writing, Manifest("epoch=0-step=1", 0, 1, {}, digest_of(writing / STATE), size))
    return folder.path


def test_a_run_of_an_archivable_module_is_an_archive_of_that_with_its_artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.own_code.NoData", type("NoData", (), {}), raising=False)
    (tmp_path / "names.txt").write_text("a b c")
    model = LitNamed({"width": 2, "names": str(tmp_path / "names.txt")})
    section = {"module": {"_target_": f"{__name__}.LitNamed", "cfg": OmegaConf.to_container(model.cfg)}}
    index = save_run(a_run(tmp_path / "models", section, model.state_dict()), tmp_path / "x")
    (tmp_path / "names.txt").unlink()
    back = LitNamed.restore_from(tmp_path / "x")
    assert same_weights(model, back)
    assert back.names == ["a", "b", "c"]
    assert back.lineage == index.lineage
    assert back.lineage["checkpoint"]["name"] == "epoch=0-step=1"  # the last: nothing was measured


def test_a_network_that_a_python_file_builds_brings_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.own_code.NoData", type("NoData", (), {}), raising=False)
    file = tmp_path / "config.py"
    file.write_text("import torch\nmodel = torch.nn.Linear(3, 2)\n")
    net = {"_target_": MODEL_OF, "file": str(file), "digest": digest_of(file), "home": str(tmp_path)}
    section = {"net": net, "dimensions": "2D", "module": {"_target_": f"{__name__}.LitAround"}}
    module = LitAround(nn.Linear(3, 2))
    save_run(a_run(tmp_path / "models", section, module.state_dict()), tmp_path / "x")
    shutil.rmtree(tmp_path / "models")
    file.unlink()
    assert str(tmp_path) not in members(tmp_path / "x")["./model_config.yaml"].decode()
    back = restore_run(tmp_path / "x")
    assert same_weights(module, back)
    save_again(back, tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root):
    """A home with a run, its archive imported again, and what a run looks like that started from that."""
    home = tmp_path_factory.mktemp("archives")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASPARAGUS_HOME", str(home))
        patch.setenv("ASPARAGUS_DATA", str(data_root))
        patch.chdir(home)
        first = asparagus.launch(DIGITS, [ONE])
    save_run(first.folder, home / "first.asparagus")
    imported = import_archive(home / "first.asparagus", home / "models")
    return types.SimpleNamespace(
        home=home, first=first, imported=imported, second=started_from(imported, first, home / "models")
    )


def started_from(imported, first, models) -> Path:
    about = {"stage": "finetune_cls", "task": "Task001_Digits"}
    number = claim(models, about=about)
    folder = models / "Task001_Digits" / "finetune_cls" / f"run_id={number}"
    shutil.copytree(first.folder, folder)
    parent = Parental(str(imported.weights), imported.index.members["model_weights.ckpt"])
    record = json.loads((folder / "record.json").read_text())
    told = {**record, **about, "run_id": number, "parent": dataclasses.asdict(parent)}
    (folder / "record.json").write_text(json.dumps(told))
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "mlflow_run_id": "f" * 32}))
    return folder


@pytest.fixture
def here(trained, data_root, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_HOME", str(trained.home))
    monkeypatch.setenv("ASPARAGUS_DATA", str(data_root))
    monkeypatch.chdir(trained.home)
    return trained


def test_a_run_is_restored_from_its_archive_without_its_data(here, tmp_path, monkeypatch):
    monkeypatch.setenv("ASPARAGUS_DATA", str(tmp_path / "nothing"))
    model = restore_run(here.home / "first.asparagus", map_location="cpu")
    checkpoint = torch.load(Path(here.first.checkpoint) / "checkpoint.ckpt", weights_only=True)
    assert same_weights(model, types.SimpleNamespace(state_dict=lambda: checkpoint["state_dict"]))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert type(Archivable.restore_from(here.home / "first.asparagus")) is type(model)
    text = members(here.home / "first.asparagus")["./model_config.yaml"].decode()
    assert str(here.home) not in text


def test_three_round_trips_of_a_run_give_the_same_bytes(here, tmp_path):
    path = here.home / "first.asparagus"
    for turn in range(3):
        save_again(restore_run(path), tmp_path / str(turn))
        path = tmp_path / str(turn)
        assert path.read_bytes() == (here.home / "first.asparagus").read_bytes()
    with pytest.raises(RecordError, match="came from no archive"):
        save_again(nn.Linear(1, 1), tmp_path / "x")


def test_an_archive_knows_its_run_and_its_ancestors(here, tmp_path):
    lineage = save_run(here.second, tmp_path / "second", "last").lineage
    assert (lineage["run_id"], lineage["mlflow_run_id"]) == (2, "f" * 32)
    assert lineage["checkpoint"]["name"] == Path(here.first.checkpoint).name
    (ancestor,) = lineage["ancestors"]  # through the archive that was imported
    assert ancestor["mlflow_run_id"] == here.first.mlflow_run_id
    assert (ancestor["stage"], ancestor["imported"]) == ("train_cls", True)
    assert read_index(tmp_path / "second").lineage == lineage
    assert str(here.home) not in json.dumps(lineage)


def test_a_module_that_a_run_trains_knows_it_when_it_is_saved(here, tmp_path):
    model = LitNet({"width": 2})
    assert model.lineage == {}
    model.trainer = quiet_trainer(default_root_dir=here.first.folder)
    lineage = read_index(model.save_to(tmp_path / "x")).lineage
    assert (lineage["run_id"], lineage["mlflow_run_id"]) == (1, here.first.mlflow_run_id)
    back = LitNet.restore_from(tmp_path / "x")
    assert back.lineage == lineage
    assert back.save_to(tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()


@pytest.mark.slow
def test_a_run_that_starts_from_an_imported_archive_takes_all_its_weights_and_tells_of_it(here, tmp_path):
    words = ["stage=finetune_cls", "seed=7", f"init_from=file:{here.imported.weights}", ONE]
    outcome = asparagus.launch(DIGITS, words)
    transfer = json.loads((Path(outcome.folder) / "transfer.json").read_text())
    assert (transfer["left"], transfer["fresh"]) == ({}, [])
    (ancestor,) = save_run(outcome.folder, tmp_path / "x").lineage["ancestors"]
    assert ancestor["mlflow_run_id"] == here.first.mlflow_run_id


def test_exporting_and_importing_are_commands(here, tmp_path, capsys):
    file = tmp_path / "mine.asparagus"
    assert command("model", ["export", "2", str(file), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert command("model", ["export", "1", str(file)]) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert command("model", ["import", str(file), "--json"]) == 0
    imported = json.loads(capsys.readouterr().out)
    assert imported["digest"] == exported["digest"]
    assert command("model", ["import", str(file)]) == 0  # once more: it is there
    out = capsys.readouterr().out
    assert "run 2 · finetune_cls" in out
    assert "  from run 1 · train_cls" in out
    assert imported["init_from"] in out
    with pytest.raises(ConfigError, match=f"init_from: {file} is an archive: asp model import {file} takes it apart"):
        asparagus.plan_of(DIGITS, ["stage=finetune_cls", f"init_from=file:{file}"])
    plan = asparagus.plan_of(DIGITS, ["stage=finetune_cls", f"init_from={imported['init_from']}"])
    assert plan.parent.checkpoint == imported["init_from"].removeprefix("file:")


def test_what_cannot_be_exported_or_imported_exits_with_2_and_one_line(here, tmp_path, capsys):
    (tmp_path / "bad").write_bytes(b"x")
    for words, said in (
        (["export", "99"], "there is no such run"),
        (["export", "1", str(tmp_path / "x"), "--checkpoint", "epoch=9-step=9"], "no checkpoint 'epoch=9-step=9'"),
        (["import", str(tmp_path / "none")], "there is no such archive"),
        (["import", str(tmp_path / "bad")], "is no archive"),
    ):
        assert command("model", words) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_an_import_that_was_changed_is_not_taken_for_whole(here, tmp_path):
    imported = import_archive(here.home / "first.asparagus", tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models" / "imported").iterdir()) == [imported.index.digest]
    changed = tmp_path / "changed.asparagus"
    changed.write_bytes((here.home / "first.asparagus").read_bytes().replace(b"stage: ", b"stagE: "))
    with pytest.raises(RecordError, match=r"changed.asparagus: model_config.yaml is not as it was written"):
        import_archive(changed, tmp_path / "models")  # the unchanged one is there already
    imported.weights.write_bytes(b"rot")
    with pytest.raises(RecordError, match=r"model_weights.ckpt in it is not as it was written"):
        import_archive(here.home / "first.asparagus", tmp_path / "models")


def test_mlflow_loads_a_run_and_asks_it_with_arrays(here, tmp_path, capsys):
    folder = tmp_path / "served"
    assert command("model", ["export", "1", str(folder), "--mlflow"]) == 0
    assert f"mlflow models serve -m {folder}" in capsys.readouterr().out
    model = mlflow.pyfunc.load_model(str(folder))
    cases = np.random.default_rng(0).random((4, 1, 8, 8))
    found = model.predict(cases)
    expected = restore_run(here.home / "first.asparagus").eval()(torch.tensor(cases, dtype=torch.float32))
    assert np.array_equal(found, expected.detach().numpy())
    assert model.metadata.metadata["asparagus"]["mlflow_run_id"] == here.first.mlflow_run_id
    assert not list(folder.rglob("*.pkl"))
    with pytest.raises(DataError, match=r"the array has the shape \[4, 8, 8\]"):
        model.predict(cases[:, 0])
    with pytest.raises(DataError, match="no array of numbers"):
        model.predict([["a"]])


def test_the_mlflow_flavour_takes_an_archive_of_any_model(tmp_path):
    model = Net({"width": 3})
    served = _load_pyfunc(str(model.save_to(tmp_path / "x")))
    cases = np.ones((2, 3), dtype=np.float32)
    assert np.array_equal(served.predict(cases), model(torch.from_numpy(cases)).detach().numpy())


def test_a_segmentation_is_served_as_it_was_validated_through_its_window():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(1, 2, 5, padding="same")  # at a border of a window it knows less
    model = SegModule(net, {}, n_classes=2, patch_size=[8, 8])
    cases = np.random.default_rng(0).random((1, 1, 20, 20), dtype=np.float32)
    whole = torch.from_numpy(cases)
    with torch.inference_mode():
        assert np.array_equal(ArrayModel(model).predict(cases), model.predict_whole(whole).numpy())
        assert not torch.equal(model.predict_whole(whole), model(whole))


def test_secrets_stay_out_of_what_is_given_away_and_are_looked_up_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "hunter2hunter2")
    model = Net({"auth": reveal("${secret:HUB_TOKEN}")})
    file = tmp_path / "secret.asparagus"
    model.save_to(file)
    assert b"hunter2" not in file.read_bytes()
    config = OmegaConf.to_container(Net.restore_from(file, return_config=True))
    assert config["auth"] == "${secret:HUB_TOKEN}"
    assert Net.restore_from(file).cfg.auth == "hunter2hunter2"
