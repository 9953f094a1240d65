from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import time
from datetime import datetime, timedelta
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image
from plotly.offline import get_plotlyjs

from asparagus.sweep.moment import BINS, Moment
from asparagus.sweep.plot_kinds import plots
from asparagus.sweep.plots import write_plots
from asparagus.sweep.trial_table import lasted

SPACE = {
    "optim.lr": FloatDistribution(1e-5, 1e-1, log=True),
    "pretrain:model.depth": IntDistribution(2, 9),
    "a/b $x$ <i>": FloatDistribution(0, 1),
    "optim": CategoricalDistribution(["adam", "sgd</script><script>alert(1)</script>"]),
    "optim.momentum": FloatDistribution(0, 1),
}
METRIC = "val/<acc>"
BEGIN = datetime(2030, 1, 1)  # noqa: DTZ001 - Optuna's times have no zone
ODDS = {"infeasible": TrialState.FAIL, "out_of_memory": TrialState.FAIL, "pruned": TrialState.PRUNED}
UNCLOSED = {"meta", "br", "img"}


def a_trial(number, *, distributions=SPACE, values=None, **facts):
    """A trial as a sweep leaves it behind; one of SGD alone has a momentum."""
    share = (number * 37 % 101) / 101
    params = {"optim.lr": 10 ** (-5 + 4 * share), "pretrain:model.depth": 2 + number % 8, "a/b $x$ <i>": 1 - share**2}
    params |= {"optim": SPACE["optim"].choices[number % 2]} | ({"optim.momentum": share} if number % 2 else {})
    params = {name: value for name, value in params.items() if name in distributions}
    values = values or [1 - abs(share - 0.6)]
    attributes = {"asparagus.run_id": 100 + number, **facts.pop("attributes", {})}
    state = facts.pop("state", ODDS.get(attributes.get("asparagus.outcome"), TrialState.COMPLETE))
    given = {
        "state": state,
        "values": values if state is TrialState.COMPLETE else None,
        "params": params,
        "distributions": {name: distributions[name] for name in params},
        "user_attrs": attributes,
        "intermediate_values": {epoch: values[0] * epoch for epoch in range(3)} if len(values) == 1 else {},
        **facts,
    }
    trial = create_trial(**given)
    trial.datetime_start = BEGIN + timedelta(minutes=number)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=30) if state.is_finished() else None
    return trial


def a_study(trials, directions=("maximize",), name="97"):
    study = optuna.create_study(study_name=name, directions=directions)
    study.add_trials(trials)
    return study


def figure_on(page, name):
    packed = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page)[1]
    return gzip.decompress(base64.b64decode(packed)).decode()


def points(trace, axis):
    """The numbers of an axis, which plotly may have as bytes."""
    import numpy as np

    found = trace.get(axis, [])
    return np.frombuffer(base64.b64decode(found["bdata"]), found["dtype"]).tolist() if "bdata" in found else list(found)


class Page(HTMLParser):
    """The text of a page and what it would fetch; its tags have to be balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.fetched, self.rows = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]
        if tag not in UNCLOSED:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data.strip())


@pytest.fixture(scope="module")
def study():
    odd = {
        3: {"asparagus.outcome": "infeasible", "asparagus.error": "model.depth * 9 <= 64"},
        4: {"asparagus.outcome": "inherited"},
        5: {"asparagus.outcome": "pruned"},
        6: {"asparagus.outcome": "out_of_memory", "asparagus.error": "CUDA <out> of memory\nTried to allocate"},
    }
    trials = [a_trial(number, attributes=odd.get(number, {})) for number in range(24)]
    return a_study([*trials, a_trial(24, state=TrialState.RUNNING)], name="sweep-97")


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    place = tmp_path_factory.mktemp("sweep") / "plots"
    files = write_plots(study, place, metrics=[METRIC])
    assert sorted(files) == sorted(place.iterdir())
    assert files[0] == place / "index.html"
    return place


KINDS = ("history", "importance", "slice", "contour", "parallel", "intermediate", "timeline")


def test_each_plot_is_a_page_and_an_image(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html", "table.html", "trials.csv"} | {
        f"{kind}.{end}" for kind in KINDS for end in ("html", "png")
    }
    for kind in KINDS:
        with Image.open(folder / f"{kind}.png") as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 300
            assert max(image.size) < 4000


def test_every_page_carries_all_that_it_shows_and_stays_small(folder):
    for path in folder.glob("*.html"):
        text = path.read_text()
        assert Page(text).fetched == []
        assert path.stat().st_size < 4_000_000
        if path.name != "table.html":
            assert figure_on(text, "plotly") == get_plotlyjs()


def test_the_figures_hold_the_numbers_of_the_study(folder, study):
    index = (folder / "index.html").read_text()
    best, *_ = [trial for trial in study.trials if trial.value == study.best_value]
    history = json.loads(figure_on(index, "history-figure"))
    drawn = dict(zip(points(history["data"][0], "x"), points(history["data"][0], "y"), strict=True))
    assert drawn == {trial.number: trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    assert max(value for value in points(history["data"][1], "y") if value is not None) == best.value
    assert history["layout"]["yaxis"]["title"]["text"] == "val/&lt;acc&gt;"
    intermediate = json.loads(figure_on(index, "intermediate-figure"))
    assert len(intermediate["data"]) == len([trial for trial in study.trials if trial.state is not TrialState.FAIL])
    assert figure_on((folder / "history.html").read_text(), "history-figure") == figure_on(index, "history-figure")


def test_what_was_taken_over_and_what_is_infeasible_is_shown_as_such(folder):
    index = (folder / "index.html").read_text()
    *_, ring = json.loads(figure_on(index, "history-figure"))["data"]
    assert (ring["name"], points(ring, "x")) == ("taken over", [4])
    timeline = {trace["name"]: points(trace, "y") for trace in json.loads(figure_on(index, "timeline-figure"))["data"]}
    assert timeline["INFEASIBLE"] == [3]
    assert timeline["FAIL"] == [6]
    assert timeline["RUNNING"] == [24]
    assert all(4 not in numbers for numbers in timeline.values())
    text = " ".join(Page(index).texts)
    assert " Sweep 97 " in text
    assert "The 1 with a ring were taken over" in text
    assert "25 trials (20 finished, 1 inherited, 1 pruned, 1 running, 1 out_of_memory, 1 infeasible)" in text


def test_texts_of_users_stay_texts(folder):
    for path in folder.glob("*.html"):
        text = path.read_text()
        assert "<script>alert" not in text
        assert "CUDA <out>" not in text
    index = (folder / "index.html").read_text()
    assert "CUDA <out> of memory" in " ".join(Page(index).texts)
    figures = [json.loads(figure_on(index, f"{kind}-figure")) for kind in KINDS]
    assert "<i>" not in json.dumps(figures)  # plotly would draw it in italics
    assert "&lt;i&gt;" in json.dumps(figures)


def test_the_table_has_the_best_first_and_the_failed_last(folder, study):
    head, *found = Page((folder / "table.html").read_text()).rows
    assert head == ["trial", "run", "outcome", METRIC, *SPACE, "duration", "error"]
    values = [float(row[3]) for row in found[:21]]
    assert values == sorted(values, reverse=True)
    assert int(found[0][0]) == study.best_trial.number
    assert int(found[0][1]) == 100 + study.best_trial.number
    assert [row[2] for row in found[21:]] == ["pruned", "running", "out_of_memory", "infeasible"]
    assert found[23][-2:] == ["30.0 s", "CUDA <out> of memory"]
    assert '<tr class="best">' in (folder / "table.html").read_text()


def test_the_csv_has_every_digit_and_leaves_what_is_not_there_empty(folder, study):
    found = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))
    assert len(found) == 25
    for row in found:
        trial = study.trials[int(row["number"])]
        assert row["state"] == trial.state.name
        assert row["run_id"] == str(100 + trial.number)
        assert row[METRIC] == ("" if trial.value is None else repr(trial.value))
        for name in SPACE:
            assert row[f"params.{name}"] == str(trial.params.get(name, ""))
        assert row["seconds"] == ("" if trial.duration is None else "30.0")


def test_pyplot_is_left_as_it_was(tmp_path):
    plt.switch_backend("svg")
    mine = plt.figure()
    before = {name: value for name, value in mpl.rcParams.items() if name != "backend"}
    verbosity = optuna.logging.get_verbosity()
    try:
        write_plots(a_study(simple(3, X)), tmp_path, metrics=[METRIC])
        assert plt.get_fignums() == [mine.number]
        assert plt.gcf() is mine
        assert mpl.get_backend() == "svg"
        assert {name: value for name, value in mpl.rcParams.items() if name != "backend"} == before
        assert optuna.logging.get_verbosity() == verbosity
    finally:
        plt.close(mine)
        plt.switch_backend("agg")


X, Y = {"x": FloatDistribution(0, 1)}, {"y": FloatDistribution(0, 1)}


def simple(count, space=(), value=None, **facts):
    """Trials whose parameters all have the value of the trial."""
    made = []
    for number in range(count):
        share = number / max(1, count - 1)
        held = {"params": dict.fromkeys(space, share), "distributions": dict(space)}
        made.append(create_trial(**{"values": [share if value is None else value], **held, **facts}))
    return made


@pytest.mark.filterwarnings("ignore")  # Optuna's, which `write_plots` keeps to itself
@pytest.mark.parametrize(
    ("trials", "title", "reason"),
    [
        ([], "Optimisation history", "no trial has finished with a value yet"),
        ([], "Timeline", "no trial has started"),
        (simple(3), "Slices", "no parameter is searched"),
        (simple(3, X), "Importance of the parameters", "x is the only parameter"),
        (simple(3, X), "Contours", "it needs two parameters that are numbers and were varied; there is x"),
        (simple(1, X | Y), "Contours", "it needs two parameters that are numbers and were varied; there is none"),
        (simple(9, X | Y, 1.0), "Importance of the parameters", "all 9 values are the same"),
        (simple(7, X | Y), "Importance of the parameters", "it can be told from 8 finished trials on; there are 7"),
        (simple(4, X) + simple(4, Y), "Contours", "no trial has two of x, y"),
        (simple(4, X), "Intermediate values", "no trial has reported a value on its way"),
        (simple(2, X, float("inf")), "Optimisation history", "no trial has finished with a value yet"),
        (simple(4, X, state=TrialState.FAIL, values=None), "Slices", "no trial has finished with a value yet"),
    ],
)
def test_the_page_says_why_a_plot_is_not_there(trials, title, reason):
    moment = Moment(a_study(trials).get_trials(), ["loss"], [optuna.study.StudyDirection.MINIMIZE])
    assert {plot.title: plot.lacks for plot in plots(moment)}[title] == reason


def test_a_study_without_trials_has_a_page_that_says_so(tmp_path):
    files = write_plots(a_study([]), tmp_path, metrics=["loss"])
    assert [file.name for file in files] == ["index.html", "table.html", "trials.csv"]
    text = " ".join(Page(files[0].read_text()).texts)
    assert "0 trials." in text
    assert "Optimisation history: no trial has finished with a value yet" in text


def test_what_optuna_cannot_draw_is_left_out_with_its_reason(tmp_path, caplog):
    most = 1.7e308  # from the least to the most of them is no number
    space = {"x": FloatDistribution(-most, most), "y": FloatDistribution(0, 1)}
    made = [
        create_trial(value=number, params={"x": most * (-1) ** number, "y": number / 9}, distributions=space)
        for number in range(9)
    ]
    names = {file.name for file in write_plots(a_study(made), tmp_path, metrics=["loss"])}
    assert {"history.html", "timeline.html", "trials.csv"} <= names
    assert not {"parallel.html", "parallel.png"} & names
    text = " ".join(Page((tmp_path / "index.html").read_text()).texts)
    assert re.search(r"Parallel coordinates: it could not be drawn \(\w*Error: ", text)
    assert "parallel could not be drawn" in caplog.text


def test_choices_that_are_lists_or_sections_are_drawn_by_their_text(tmp_path):
    with pytest.warns(UserWarning, match="persistent storage"):
        space = {"c": CategoricalDistribution([[1, 2], {"a": None}, None])}
    made = [
        create_trial(value=number, params={"c": space["c"].choices[number % 3]}, distributions=space)
        for number in range(9)
    ]
    names = {file.name for file in write_plots(a_study(made), tmp_path, metrics=["loss"])}
    assert {"slice.png", "parallel.png"} <= names
    figure = figure_on((tmp_path / "slice.html").read_text(), "slice-figure")
    assert "[1, 2]" in figure
    assert json.loads(figure)["data"][0]["x"].count("None") == 3


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Where `x` alone decides the first metric, and `y` the second, which is to be large."""
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    made = []
    for number in range(100):
        x, y = (number * 37 % 101) / 101, (number * 53 % 103) / 103
        made.append(create_trial(values=[x, y**8], params={"x": x, "y": y}, distributions=space))
    place = tmp_path_factory.mktemp("two")
    write_plots(a_study(made, ("minimize", "maximize")), place, metrics=["loss", "val/dice"])
    return place, made


def test_several_metrics_have_their_front_and_plots_of_their_own(of_two):
    place, made = of_two
    kinds = {"pareto", "parallel", "timeline"} | {f"{kind}-{number}" for kind in KINDS[:4] for number in (1, 2)}
    assert {path.stem for path in place.glob("*.png")} == kinds
    index = (place / "index.html").read_text()
    text = " ".join(Page(index).texts)
    assert "Optimisation history of val/dice" in text
    assert "Intermediate values: Optuna keeps none where there are several metrics" in text
    front = json.loads(figure_on(index, "pareto-figure"))["data"][1]
    best = {
        (one.values[0], one.values[1])
        for one in made
        if not any(o.values[0] <= one.values[0] and o.values[1] >= one.values[1] and o is not one for o in made)
    }
    assert set(zip(points(front, "x"), points(front, "y"), strict=True)) == best
    assert f"On the Pareto front of loss, val/dice: {len(best)}." in text
    assert index.count('<tr class="best">') == len(best)


def test_importance_of_a_metric_to_be_large_is_about_large_values(of_two):
    place, made = of_two
    with_one = a_study(
        [create_trial(value=one.values[1], params=one.params, distributions=one.distributions) for one in made]
    )
    expected = optuna.importance.get_param_importances(with_one)
    (bars,) = json.loads(figure_on((place / "importance-2.html").read_text(), "importance-2-figure"))["data"]
    assert dict(zip(bars["y"], points(bars, "x"), strict=True)) == pytest.approx(expected)
    assert expected["y"] > 0.8
    assert "among the best 10 of 100" in (place / "importance-2.html").read_text()


@pytest.mark.filterwarnings("ignore")
def test_contours_stay_small_and_show_the_parameters_that_matter_most():
    names = [f"p{place}" for place in range(6)]
    space = {name: FloatDistribution(0.1, 1, log=name == "p5") for name in names}
    made = []
    for number in range(200):
        params = {name: 0.1 + 0.9 * (number * (31 + 2 * place) % 211) / 211 for place, name in enumerate(names)}
        value = params["p5"] * 20 + params["p4"] * 10 + params["p3"] * 5 + params["p2"] * 3
        made.append(create_trial(value=value, params=params, distributions=space))
    moment = Moment(a_study(made).get_trials(), ["loss"], [optuna.study.StudyDirection.MINIMIZE])
    (contour,) = [plot for plot in plots(moment) if plot.name == "contour"]
    assert contour.arguments["params"] == ["p2", "p3", "p4", "p5"]
    assert "the 4 of 6 numeric parameters that matter most" in contour.about
    for name in contour.arguments["params"]:
        moved = [(one.params[name], new.params[name]) for one, new in zip(made, contour.of.results, strict=True)]
        assert len({new for _, new in moved}) <= BINS
        assert all(new == pytest.approx(old, rel=0.15) for old, new in moved)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, ""), (0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1:01 min"), (3600, "1:00 h"), (9_000, "2:30 h")],
)
def test_durations_are_told_as_people_say_them(seconds, told):
    assert lasted(seconds) == told


@pytest.mark.slow
def test_a_thousand_trials_are_drawn_in_seconds(tmp_path):
    study = a_study([a_trial(number) for number in range(1000)])
    write_plots(study, tmp_path / "once", metrics=[METRIC])  # imports, fonts
    begun = time.process_time()
    write_plots(study, tmp_path, metrics=[METRIC])
    assert time.process_time() - begun < 20
