from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from asparagus.record.lineage_page import page, run_address
from asparagus.record.query import Lineage, Relative
from asparagus.record.summary import RunSummary

UNCLOSED = {"meta", "br"}


class Nodes(HTMLParser):
    """The runs on a page: the text of each, how deep it stands, where it links to; tags have to be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.nodes: list[tuple[int, str]] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag in UNCLOSED:
            return
        self.open.append(tag)
        if tag == "li":
            self.nodes.append((self.open.count("ul") - 1, ""))
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "li" in self.open and data.strip():
            depth, text = self.nodes[-1]
            self.nodes[-1] = (depth, f"{text} {data.strip()}".strip())


def a_run(number, **facts):
    values = {"stage": "finetune_seg", "task": "Task1_A", "state": "finished", "folder": "", "started": 0.0}
    return RunSummary(run_id=number, mlflow_run_id=f"uuid{number}", experiment_id="7", **{**values, **facts})


@pytest.fixture
def family():
    checkpoint = "/m/T/pretrain/run_id=1/checkpoints/epoch=0-step=1"
    return Lineage(
        a_run(2, parent_id=1, parent_checkpoint=checkpoint, monitor="val/dice", best=0.91234),
        [Relative(a_run(1, stage="pretrain"), checkpoint, "init_from", 1, 2, missing="its folder /m/x is gone")],
        [
            Relative(a_run(3, state="failed"), "/m/c/epoch=5-step=9", "init_from", 1, 2),
            Relative(a_run(4), None, "rerun", 1, 2),
            Relative(a_run(5), "/m/d/epoch=7-step=8", "init_from", 2, 3),
        ],
    )


def test_each_run_stands_below_what_it_came_from_with_all_that_is_known_of_it(family):
    assert Nodes(page(family)).nodes == [
        (0, "run 1 pretrain Task1_A finished its folder /m/x is gone"),
        (1, "epoch=0-step=1 → run 2 finetune_seg Task1_A val/dice 0.9123 finished"),
        (2, "epoch=5-step=9 → run 3 finetune_seg Task1_A failed"),
        (3, "epoch=7-step=8 → run 5 finetune_seg Task1_A finished"),
        (2, "repeated as → run 4 finetune_seg Task1_A finished"),
    ]


def test_the_run_that_was_asked_for_is_marked(family):
    (asked,) = re.findall(r'<div class="run asked">.*?</div>', page(family))
    assert "run 2" in asked


def test_the_page_needs_nothing_but_itself(family):
    text = page(family, tracking_uri="http://host:5000")
    assert re.findall(r"<(?:script|link|img|iframe)|@import|url\(|src=", text) == []
    assert "color-scheme: light dark" in text
    assert "prefers-color-scheme: dark" in text


def test_runs_link_to_the_server_that_has_them_and_never_with_its_password(family):
    found = Nodes(page(family, tracking_uri="https://me:sesame@host:5000/mlflow/"))
    assert found.links[0] == "https://host:5000/mlflow/#/experiments/7/runs/uuid1"
    assert len(found.links) == 5
    assert "sesame" not in page(family, tracking_uri="https://me:sesame@host:5000/")


def test_a_store_that_is_a_file_has_no_pages_to_link_to(family):
    assert Nodes(page(family, tracking_uri="sqlite:////home/me/mlflow.db")).links == []
    assert run_address(RunSummary(1, "", "", "not recorded", "", "", 0.0), "http://host") is None


def test_what_users_wrote_is_text_and_never_markup(family):
    evil = "<script>alert('x')</script>&\""
    run = a_run(9, task=evil, stage=evil, state=evil, monitor=evil, best=1.0, parent_checkpoint=evil)
    text = page(Lineage(run, [], [Relative(a_run(10), f"/{evil}/{evil}", evil, 1, 9, missing=evil)], evil, evil))
    assert "<script" not in text
    assert [depth for depth, _ in Nodes(text).nodes] == [0, 1]


def test_a_thousand_children_are_a_thousand_nodes(family):
    children = [Relative(a_run(number), "/c/epoch=0-step=1", "init_from", 1, 2) for number in range(10, 1010)]
    assert len(Nodes(page(Lineage(family.run, family.ancestors, children))).nodes) == 1002
