"""`asp doctor site=NAME`: what nodes say of themselves, put side by side; and the way to them."""

from __future__ import annotations

import copy
import socket
import time
from typing import Any

import pytest

from asparagus.cli.doctor import doctor
from asparagus.doctor.findings import Finding
from asparagus.doctor.site import judge
from asparagus.driver.nodes import _refused
from asparagus.driver.probe import NONCE, Probe
from asparagus.spec import Site

GB = 10**9
ROOMY = {"problem": "", "names": ["Task001_Digits"], "free": 500 * GB}
NODE: dict[str, Any] = {
    "host": "one",
    "address": "10.0.0.1",
    "python": "3.11.7",
    "packages": {"asparagus": "0.1", "torch": "2.13.0+cu128", "monai": "1.6.1"},
    "cpus": 8,
    "memory": 64 * GB,
    "gpus": ["L4, 24 GiB"],
    "shm": {"total": 32 * GB, "free": 32 * GB},
    "spill": {"total": 900 * GB, "free": 500 * GB},
    "marks": {"models": "", "results": ""},
    "folders": {"models": ROOMY, "results": ROOMY, "data": ROOMY},
    "tracking": {"problem": "", "answer": "200"},
    "resources": {"CPU": 8, "GPU": 1},
    "unseen": {"models": [], "results": []},
    "skew": 0.0,
}
HERE = {"python": "3.11.7", "packages": {"asparagus": "0.1", "torch": "2.13.0+cpu", "monai": "1.6.1"}}
SITE = Site(name="lab", address="10.0.0.1:6379", nodes=2, tracking_uri="http://mlflow.lab:5000")


def second(**other: Any) -> dict[str, Any]:
    """Return a second node, and what is otherwise there; a dotted key reaches inside."""
    node = copy.deepcopy({**NODE, "host": "two", "address": "10.0.0.2"})
    for key, value in other.items():
        *above, last = key.split("__")
        place = node
        for name in above:
            place = place[name]
        place[last] = value
    return node


def judged(*others: dict[str, Any], site: Site = SITE) -> list[Finding]:
    return list(judge(site, [NODE, *others], HERE))


def test_nodes_that_are_alike_are_well():
    findings = judged(second())
    assert {finding.state for finding in findings} == {"ok"}
    looked = {finding.what for finding in findings}
    assert looked >= {"nodes", "versions", "site models", "site data", "tracking", "clock", "shared memory", "disk"}


@pytest.mark.parametrize(
    ("other", "state", "what", "found"),
    [
        ({"packages__monai": "9.9.9"}, "bad", "versions", "two (10.0.0.2) has monai 9.9.9 (1.6.1 here)"),
        ({"packages__asparagus": None}, "bad", "versions", "asparagus is missing (0.1 here)"),
        ({"packages__torch": "2.12.0+cu128"}, "bad", "versions", "torch 2.12.0+cu128 (2.13.0+cpu here)"),
        ({"python": "3.11.9"}, "bad", "versions", "python 3.11.9 (3.11.7 here)"),
        ({"unseen__models": ["one"]}, "bad", "site models", "two (10.0.0.2) does not see what one wrote there"),
        (
            {"marks__results": "Read-only file system"},
            "bad",
            "site results",
            "cannot write there: Read-only file system",
        ),
        ({"folders__data": {"problem": "", "names": [], "free": 1}}, "bad", "site data", "does not see Task001_Digits"),
        (
            {"tracking": {"problem": "No route to host", "answer": ""}},
            "bad",
            "tracking",
            "two (10.0.0.2) does not reach http://mlflow.lab:5000: No route to host",
        ),
        ({"tracking__answer": "403"}, "bad", "tracking", "two (10.0.0.2): http://mlflow.lab:5000 answers, but refuses"),
        ({"skew": -3.0}, "warn", "clock", "two (10.0.0.2) is 3.0 s behind this machine"),
        ({"skew": 90.0}, "bad", "clock", "two (10.0.0.2) is 90.0 s ahead of this machine"),
        ({"resources__GPU": 0}, "warn", "GPUs", "two (10.0.0.2) has 1 GPUs, of which Ray knows 0"),
        ({"shm__free": GB // 16}, "warn", "shared memory", "two (10.0.0.2): 0.06 GB free"),
        ({"spill__free": 2 * GB}, "warn", "disk", "two (10.0.0.2), Ray's /tmp: 2.0 GB free"),
    ],
)
def test_a_node_that_is_otherwise_is_named_with_what_to_do(other, state, what, found):
    findings = [finding for finding in judged(second(**other)) if finding.state != "ok"]
    assert [(finding.state, finding.what) for finding in findings] == [(state, what)]
    assert found in findings[0].found
    assert findings[0].do


def test_a_node_that_does_not_answer_is_named_and_the_others_are_still_compared():
    silent = {"node": "x", "address": "10.0.0.3", "problem": "no answer within 90 s"}
    findings = judged(second(packages__monai="9.9.9"), silent)
    assert {finding.found.partition(":")[0] for finding in findings if finding.state == "bad"} == {
        "10.0.0.3 does not answer",
        "two (10.0.0.2) has monai 9.9.9 (1.6.1 here)",
    }


def test_a_profile_that_promises_more_than_there_is_is_told():
    site = Site(name="lab", address="auto", nodes=4, cpus_per_node=16, gpus_per_node=8, memory_per_node="256GB")
    told = [finding.found for finding in judged(second(), site=site) if finding.state == "warn"]
    assert told[0].startswith("2 of the 4 that the site has")
    assert sum("the profile says" in text for text in told) == 6


def test_a_mark_is_written_read_and_taken_away(tmp_path):
    probe, folders = Probe(), {"models": str(tmp_path / "models")}
    report = probe.look({"written": folders, "read": {}, "tracking": None, "nonce": "abc"})
    assert report["marks"] == {"models": ""}
    assert (tmp_path / "models" / f"{NONCE}abc").read_text() == "abc"
    assert probe.unseen(folders, ["abc"]) == {"models": []}
    probe.clean(folders, "abc")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_mark_of_another_is_waited_for_and_then_missed(tmp_path, monkeypatch):
    monkeypatch.setattr("asparagus.driver.probe.READ_WITHIN_S", 0.6)
    assert Probe().unseen({"models": str(tmp_path)}, ["of-another"]) == {"models": ["of-another"]}


def test_this_machine_alone_is_a_site_of_one(home, capsys):
    assert doctor(["site=local"]) == 0
    said = capsys.readouterr().out
    assert "written by each of 1 and seen by all" in said
    assert list((home / "models").iterdir()) == []


@pytest.mark.parametrize("key", ["site.address", "site.jobs_address"])
def test_an_address_nobody_answers_at_is_told_within_ten_seconds(key, home, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    http = "http://" if key == "site.jobs_address" else ""
    assert doctor(["site=cluster", f"{key}={http}127.0.0.1:{port}"]) == 2
    assert time.monotonic() - started < 10
    said = capsys.readouterr().out
    assert f"answers at {http}127.0.0.1:{port}" in said
    assert "Connection refused" in said


def test_something_that_listens_and_is_no_ray_is_told_within_ten_seconds(home, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        assert doctor(["site=cluster", f"site.address=127.0.0.1:{server.getsockname()[1]}"]) == 2
    assert time.monotonic() - started < 10
    assert "does not answer as Ray does" in capsys.readouterr().out


def test_no_cluster_at_all_says_where_it_was_looked_for(home, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert doctor(["site=cluster"]) == 2
    said = capsys.readouterr().out
    assert f"there is no {tmp_path}/ray/ray_current_cluster" in said


def test_an_unknown_site_is_refused_with_the_nearest(home):
    from asparagus.errors import ConfigError

    with pytest.raises(ConfigError, match="Did you mean 'slurm'"):
        doctor(["site=slrm"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0"), "other versions than this"),
        (ConnectionError("AuthenticationError: Invalid token"), "does not take this token"),
        (RuntimeError("Request failed with status code 401: ..."), "does not take this token"),
        (RuntimeError("no raylet here"), "cannot be joined from here: RuntimeError: no raylet here"),
    ],
)
def test_why_a_cluster_does_not_let_us_in_is_one_line(error, told):
    text = _refused("site.address: 10.0.0.1:6379", error)
    assert text.startswith("site.address: 10.0.0.1:6379 ")
    assert told in text
    assert "\n" not in text
