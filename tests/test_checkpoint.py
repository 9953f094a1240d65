from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from asparagus.checkpoint.folder import (
    MANIFEST,
    STATE,
    WRITING,
    Manifest,
    best_of,
    digest_of,
    manifests,
    name_of,
    newest_whole,
    pick,
    seal,
)
from asparagus.checkpoint.transfer import read_weights, take_over, transfer
from asparagus.errors import RecordError, RunError
from asparagus.spec import Parent, Transfer


def write(folder, epoch, score, *, mode="max"):
    writing = folder / f"{WRITING}x"
    writing.mkdir(parents=True)
    (writing / STATE).write_bytes(b"state %d" % epoch)
    name = name_of(epoch, 10 * (epoch + 1))
    size, digest = (writing / STATE).stat().st_size, digest_of(writing / STATE)
    manifest = Manifest(name, epoch, 10 * (epoch + 1), {"val/dice": score}, digest, size, monitor="val/dice", mode=mode)
    return seal(writing, manifest)


def test_last_and_best_are_told_by_recorded_step_and_metric_and_never_by_position(tmp_path):
    for epoch, score in ((0, 0.5), (1, 0.9), (2, 0.7)):
        write(tmp_path, epoch, score)
    assert pick(tmp_path, "last")[1].epoch == 2
    assert pick(tmp_path, "best")[1].epoch == 1
    assert pick(tmp_path, "epoch=0-step=10.ckpt")[1].epoch == 0
    assert pick(tmp_path, "epoch=0-step=10")[1].epoch == 0


def test_best_of_a_loss_is_the_smallest_and_the_earliest_among_equals(tmp_path):
    for epoch, score in ((0, 0.5), (1, 0.1), (2, 0.1)):
        write(tmp_path, epoch, score, mode="min")
    assert best_of(manifests(tmp_path)).epoch == 1


def test_nan_is_never_the_best(tmp_path):
    write(tmp_path, 0, float("nan"))
    write(tmp_path, 1, 0.1)
    assert best_of(manifests(tmp_path)).epoch == 1


def test_a_torn_checkpoint_is_recognised_and_the_one_before_it_is_used(tmp_path, caplog):
    first = write(tmp_path, 0, 0.5)
    second = write(tmp_path, 1, 0.6)
    assert newest_whole(tmp_path) == second
    (second / STATE).write_bytes(b"state X")  # same length, other content: only the digest tells
    assert newest_whole(tmp_path) == first
    assert "torn" in caplog.text


def test_a_half_written_one_is_not_a_checkpoint(tmp_path):
    (tmp_path / f"{WRITING}epoch=0-step=1").mkdir()
    (tmp_path / f"{WRITING}epoch=0-step=1" / MANIFEST).write_text("{}")
    (tmp_path / "epoch=1-step=2").mkdir()
    assert manifests(tmp_path) == []
    assert newest_whole(tmp_path) is None


def test_writing_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 0, 0.5)
    write(tmp_path, 0, 0.6)
    assert [manifest.metrics["val/dice"] for manifest in manifests(tmp_path)] == [0.6]


def test_a_checkpoint_that_is_not_there_names_those_that_are(tmp_path):
    write(tmp_path, 0, 0.5)
    with pytest.raises(RecordError, match="epoch=0-step=10"):
        pick(tmp_path, "epoch=7-step=1.ckpt")
    with pytest.raises(RecordError, match="no checkpoint is there yet"):
        pick(tmp_path / "empty", "last")


def network(out=3):
    net = nn.Module()
    net.encoder, net.decoder, net.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, out)
    module = nn.Module()
    module.net = net
    return module


def test_transfer_takes_what_fits_and_says_what_became_of_the_rest():
    source, target = network(out=3), network(out=5)
    report = transfer(target, source.state_dict(), source="run 1")
    assert torch.equal(target.net.encoder.weight, source.net.encoder.weight)
    assert torch.equal(target.net.decoder.weight, source.net.decoder.weight)
    assert report.taken == ["net.decoder.bias", "net.decoder.weight", "net.encoder.bias", "net.encoder.weight"]
    assert report.left["net.head.weight"] == "shape (3, 4), here (5, 4)"
    assert "4 of 6 tensors taken from run 1" in report.describe()


def test_transfer_leaves_the_decoder_behind_when_told_to():
    source, target = network(), network()
    report = transfer(target, source.state_dict(), Transfer(decoder=False), source="x")
    assert report.taken == ["net.encoder.bias", "net.encoder.weight"]
    assert not torch.equal(target.net.decoder.weight, source.net.decoder.weight)


def test_transfer_strips_what_compile_adds_to_names():
    source, target = network(), network()
    weights = {name.replace("net.", "net._orig_mod."): value for name, value in source.state_dict().items()}
    assert len(transfer(target, weights, Transfer(strict=True), source="x").taken) == 6


def stem(channels, kind=torch.nn.Conv3d):
    return torch.nn.Sequential(kind(channels, 4, 3), torch.nn.ReLU(), kind(4, 4, 3))


@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.Conv3d])
def test_a31_the_first_kernel_grows_from_one_channel_to_several_and_answers_the_same(kind):
    source, target = stem(1, kind), stem(3, kind)
    report = transfer(target, source.state_dict(), source="x")
    assert report.changed == {"0.weight": "1 channel to 3, each 1/3 of it"}
    image = torch.randn(1, 1, *[9] * (target[0].weight.ndim - 2))
    torch.testing.assert_close(target(image.expand(1, 3, *image.shape[2:])), source(image))
    assert "changed   0.weight: 1 channel to 3" in report.describe()


def test_a31_only_the_first_kernel_grows_and_only_from_one_channel():
    report = transfer(stem(3), stem(2).state_dict(), source="x")
    assert (report.changed, list(report.left)) == ({}, ["0.weight"])
    later = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.Conv3d(4, 4, 3, groups=4))
    other = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.Conv3d(4, 4, 3))
    assert list(transfer(other, later.state_dict(), source="x").left) == ["1.weight"]


class Embedded(torch.nn.Module):
    def __init__(self, positions, axes):
        super().__init__()
        self.patches = (torch.nn.Conv2d if axes == 2 else torch.nn.Conv3d)(1, 6, 2)
        self.pos_embed = torch.nn.Parameter(torch.randn(1, positions, 6))


@pytest.mark.parametrize(("axes", "before", "after"), [(2, 16, 64), (3, 8, 64), (3, 64, 8)])
def test_a31_embeddings_of_positions_are_interpolated_on_their_grid(axes, before, after):
    source, target = Embedded(before, axes), Embedded(after, axes)
    edge, ours = round(before ** (1 / axes)), round(after ** (1 / axes))
    report = transfer(target, source.state_dict(), Transfer(strict=True), source="x")
    assert report.changed == {"pos_embed": f"positions {before} to {after}"}
    grid = source.pos_embed.transpose(1, 2).reshape(1, 6, *[edge] * axes)
    mode = "bicubic" if axes == 2 else "trilinear"
    expected = torch.nn.functional.interpolate(grid, size=[ours] * axes, mode=mode)
    torch.testing.assert_close(target.pos_embed.transpose(1, 2).reshape(expected.shape), expected)


def test_a31_embeddings_that_lie_on_no_grid_are_left():
    assert list(transfer(Embedded(64, 2), Embedded(17, 2).state_dict(), source="x").left) == ["pos_embed"]


def test_b2_a_warm_start_includes_and_excludes_by_parts_of_names():
    weights = network().state_dict()
    some = next(iter(weights))
    only = transfer(network(), weights, Transfer(include=[some]), source="x")
    assert only.taken
    assert all(some in name for name in only.taken)
    assert set(only.left.values()) == {"not among transfer.include"}
    without = transfer(network(), weights, Transfer(exclude=[some]), source="x")
    assert not any(some in name for name in without.taken)
    with pytest.raises(RunError, match=r"left behind by transfer\.exclude"):
        transfer(network(), weights, Transfer(exclude=[""]), source="x")


def test_a_rename_reads_through_what_compile_adds_and_never_overwrites():
    weights = {f"backbone.{name}": value for name, value in network().state_dict().items()}
    compiled = {f"_orig_mod.{name}": value for name, value in weights.items()}
    assert not transfer(network(), compiled, Transfer(rename={"backbone.": ""}), source="x").fresh
    double = weights | {f"other.{name}": value for name, value in network().state_dict().items()}
    report = transfer(network(), double, Transfer(rename={"backbone.": "", "other.": ""}), source="x")
    assert len(report.left) == len(weights)
    assert all("another weight is" in why for why in report.left.values())


def test_a_test_measures_all_weights_as_they_are(tmp_path):
    torch.save(stem(1).state_dict(), tmp_path / "w.pt")
    parent = Parent(str(tmp_path / "w.pt"))
    partly = Transfer(include=["2."])
    assert take_over(stem(1), parent, partly).fresh
    assert not take_over(stem(1), parent, partly, mode="test").fresh
    with pytest.raises(RunError, match="some do not fit as they are"):
        take_over(stem(3), parent, Transfer(), mode="test")


def test_names_of_another_library_are_translated_by_their_beginnings():
    weights = {f"backbone.{name}": value for name, value in network().state_dict().items()}
    report = transfer(network(), weights, Transfer(strict=True, rename={"backbone.": "", "back": "wrong"}), source="x")
    assert not report.fresh


def test_transferring_nothing_is_an_error_and_so_is_anything_fresh_when_strict():
    with pytest.raises(RunError, match="no weight of x fits"):
        transfer(network(), {"other.weight": torch.zeros(1)}, source="x")
    with pytest.raises(RunError, match="2 weights would stay fresh"):
        transfer(network(5), network(3).state_dict(), Transfer(strict=True), source="x")


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_norms_and_biases_alone_are_nothing_to_start_from_unless_asked_for():
    wide, narrow = (torch.nn.Sequential(torch.nn.Linear(4, n), torch.nn.Linear(n, 3)) for n in (8, 6))
    before = {name: weight.clone() for name, weight in narrow.state_dict().items()}
    with pytest.raises(RunError, match=r"no kernel of parent fits this network, but norms and biases.*\n.*1 of 4"):
        transfer(narrow, wide.state_dict(), source="parent")
    assert all(torch.equal(before[name], weight) for name, weight in narrow.state_dict().items())
    assert transfer(narrow, wide.state_dict(), Transfer(include=["bias"]), source="parent").taken == ["1.bias"]


def test_a_file_that_would_execute_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(RunError, match="cannot be read as weights"):
        read_weights(tmp_path / "evil.ckpt")
    assert "executed" not in capsys.readouterr().out


def test_weights_are_read_from_lightning_checkpoints_and_bare_state_dicts(tmp_path):
    weights = network().state_dict()
    torch.save({"state_dict": weights, "epoch": 1}, tmp_path / "a.ckpt")
    torch.save(weights, tmp_path / "b.pt")
    assert read_weights(tmp_path / "a.ckpt").keys() == read_weights(tmp_path / "b.pt").keys() == weights.keys()


def test_a_manifest_is_plain_values():
    manifest = Manifest("n", 0, 1, {}, "d", 1)
    assert Manifest(**dataclasses.asdict(manifest)) == manifest
