"""What `-m` searches: words and files into a space, points of it, and each point into the config of a trial."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from asparagus.compose import Request, compose, config_of, spec_of
from asparagus.compose.overrides import normalise
from asparagus.compose.points import count, drawn, placed, points, satisfied
from asparagus.compose.space import ComposedSweep, compose_sweep, split_words
from asparagus.compose.sweep_section import disk_of, seconds_of, settled
from asparagus.compose.trial import config_with, folders_of, needs_composing, request_with, with_values, words_of
from asparagus.errors import ConfigError
from asparagus.space import Choice, Dimension, Interval, Space, SweepOptions, sample, sampler_named

DIGITS = "experiment/digits"
CONFIGS = Path(__file__).parent.parent / "configs"
SHELF = [CONFIGS]


def searched(*words: str, config: str = DIGITS) -> ComposedSweep:
    return compose_sweep(Request(config, words))


def domains(*words: str) -> dict[str, object]:
    return dict(split_words(words, SHELF)[1])


def refused(*words: str, config: str = DIGITS) -> str:
    with pytest.raises(ConfigError) as wrong:
        searched(*words, config=config)
    assert wrong.value.exit_status == 2
    return str(wrong.value)


def refused_in_file(home: Path, section: str, *words: str) -> str:
    return refused(*words, config=written(home, section))


def written(home: Path, section: str) -> str:
    (home / "mine.yaml").write_text(f"defaults: [experiment/digits, _self_]\nsweep:\n{section}")
    return "mine.yaml"


# ---- words


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("1,2,3", Choice((1, 2, 3))),
        ("a, b", Choice(("a", "b"))),
        ("1e-3,null,true,'1,5'", Choice((1e-3, None, True, "1,5"))),
        ("[8,16],[8,16,32]", Choice(([8, 16], [8, 16, 32]))),
        ("{a:1},{a:2}", Choice(({"a": 1}, {"a": 2}))),
        ("choice(a,b)", Choice(("a", "b"))),
        ("choice(a)", Choice(("a",))),
        ("choice('x=1',y=2)", Choice(("x=1", "y=2"))),
        ("run:1/epoch=4-step=2.ckpt,run:2/best", Choice(("run:1/epoch=4-step=2.ckpt", "run:2/best"))),
        ("${a},${b}", Choice(("${a}", "${b}"))),
        ("float(1,2)", Choice((1.0, 2.0))),
        ("str(1,2)", Choice(("1", "2"))),
        ("sort(3,1,2)", Choice((1, 2, 3))),
        ("sort(3,1,2,reverse=true)", Choice((3, 2, 1))),
        ("range(1,5)", Interval(1, 4, integer=True)),
        ("range(3)", Interval(0, 2, integer=True)),
        ("range(start=1,stop=10,step=4)", Interval(1, 9, step=4, integer=True)),
        ("range(10,1,-3)", Interval(4, 10, step=3, integer=True)),
        ("range(0,1,0.1)", Interval(0.0, 0.9, step=0.1)),
        ("float(range(1,4))", Interval(1.0, 3.0, step=1.0)),
        ("tag(int,range(1.0,4.0))", Interval(1, 3, integer=True)),
        ("range(5,6)", Choice((5,))),
        ("interval(0,1)", Interval(0.0, 1.0)),
        ("interval(start=0,end=1)", Interval(0.0, 1.0)),
        ("tag(log,interval(1e-5,1e-1))", Interval(1e-5, 1e-1, log=True)),
        ("tag(log,int,interval(1,64))", Interval(1, 64, log=True, integer=True)),
        ("int(interval(1,9))", Interval(1, 9, integer=True)),
        ("int(tag(log,interval(1,9)))", Interval(1, 9, log=True, integer=True)),
    ],
)
def test_hydras_grammar_is_what_is_searched(value, domain):
    found = domains(f"optim.x={value}")["optim.x"]
    assert found == domain
    assert json.dumps(_kinds(found)) == json.dumps(_kinds(domain))


def _kinds(domain) -> list:
    parts = domain.values if isinstance(domain, Choice) else (domain.low, domain.high, domain.step)
    return [type(part).__name__ for part in parts]


@pytest.mark.parametrize(
    "word",
    [
        "optim.lr=1",
        "run.label='a,b'",
        "data.patch_size=[8,8]",
        "a={b: 1, c: 2}",
        "init_from=run:1/epoch=4-step=2.ckpt",
        "~optim.sched",
        "run.label=",
        "optim.lr=${a.b}",
        "x=sort([3,1])",
        "x=int('3')",
        "sweep.constraints=optim.lr<3",
        "sweep.metric=[a,b]",
    ],
)
def test_one_value_is_no_search(word):
    assert split_words([word], SHELF) == ([word], [])


def test_a_group_is_searched_over_its_options():
    assert domains("model=mlp,unet", "+experiment=digits,coming_from_hydra_lightning", "hardware=glob(*gpu)") == {
        "model": Choice(("mlp", "unet")),
        "experiment": Choice(("digits", "coming_from_hydra_lightning")),
        "hardware": Choice(("1gpu",)),
    }
    assert domains("optim=glob([a*,s*],exclude=adam)") == {"optim": Choice(("adamw", "sgd", "sgd_finetune"))}


def test_options_of_a_group_are_texts_and_may_lie_deeper(tmp_path):
    (tmp_path / "fold" / "left").mkdir(parents=True)
    for name in ("0", "1", "left/robust"):
        (tmp_path / "fold" / f"{name}.yaml").write_text("a: 1\n")
    found = dict(split_words(["fold=0,1,left/robust", "fold@second=0,1"], [tmp_path])[1])
    assert found == {"fold": Choice(("0", "1", "left/robust")), "fold@second": Choice(("0", "1"))}


def test_keys_are_kept_as_an_override_spells_them():
    words = ("pretrain:optim.lr=1,2", "+optim.eps=1,2", "++optim.x=1,2", "pretrain:model=mlp,unet")
    assert [*domains(*words)] == ["pretrain:optim.lr", "optim.eps", "optim.x", "pretrain:model"]


def test_shuffled_values_have_the_same_order_each_time():
    words = ("a=shuffle(1,2,3,4,5,6)", "b=shuffle(range(0,9))")
    first = domains(*words)
    assert sorted(first["a"].values) == [1, 2, 3, 4, 5, 6]
    assert sorted(first["b"].values) == [*range(9)]
    assert first["a"].values != (1, 2, 3, 4, 5, 6)
    assert first == domains(*words)


def test_a_value_that_is_given_twice_is_tried_once(caplog):
    assert domains("optim.x=1,2,1.0,true,2")["optim.x"] == Choice((1, 2, True))
    assert "optim.x: 1.0 is given twice, and tried once" in caplog.text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim.lr=choice()", ["choice() is empty", "at least one value"]),
        ("optim.lr=range(5,1)", ["range(5,1) is empty", "ends before 1"]),
        ("optim.lr=range(1,5,0)", ["is no range", "step not 0"]),
        ("optim.lr=interval(5,1)", ["from 5 to 1 there is nothing", "low=1, high=5"]),
        ("optim.lr=interval(1,1)", ["from 1 to 1 there is nothing", "Give the value itself"]),
        ("optim.lr=interval(0,inf)", ["high is inf"]),
        ("optim.lr=tag(log,interval(0,1))", ["low is 0", "above 0"]),
        ("optim.lr=tag(log,range(1,5))", ["no tag log", "interval(low,high)"]),
        ("optim.lr=tag(lgo,interval(1,2))", ["'lgo' is not known", "Did you mean 'log'"]),
        ("optim.lr=tag(log,choice(1,2))", ["tags say how an interval is searched"]),
        ("optim.lr=tag(int,interval(0.5,2))", ["low is 0.5", "whole numbers"]),
        ("optim.lr=interval(1)", ["missing a required argument: 'end'", "interval(0,1)"]),
        ("optim.lr=interval(a,b)", ["str is incompatible"]),
        ("optim.lr=interval(1,2),3", ["a search in a search"]),
        ("optim.lr=1,,2", ["cannot be read", "choice(a,b)"]),
        ("optim.lr=a;b,c", ["cannot be read", "('a,b')"]),
        ("optim.name=glob(*)", ["options of a group", "optim.name is none"]),
        ("model=glob(x*)", ["fits no option", "Known: mlp, "]),
        ("model=mlp,unt", ["'unt' is not known", "Did you mean 'unet'", "Known: mlp, "]),
        ("model=null,mlp", ["model is a group", "give one of its options"]),
        ("hydra.sweeper.x=1,2", ["Hydra's own launcher"]),
        ("data.root=${secret:A},secret:abc", ["a secret is written here in plain text"]),
        ("sweep.trials=5,6", ["a sweep has one of each setting"]),
        ("sweep=asha,tpe", ["a sweep has one of each setting"]),
        ("sweep.space.optim.lr=1,2", ["stands without sweep.space"]),
    ],
)
def test_several_values_that_cannot_be_meant_are_refused_with_their_word(word, said, home):
    text = refused(word)
    for part in (word, *said):
        assert part in text


def test_every_wrong_word_is_told_at_once(home):
    text = refused("optim.lr=1,2", "optim.lr=3,4", "data.fold=1,2", "data.fold=0", "seed=interval(2,1)")
    assert "optim.lr: is searched twice: optim.lr=1,2 and optim.lr=3,4" in text
    assert "data.fold: has one value (data.fold=0) and several (data.fold=1,2)" in text
    assert "seed: from 2 to 1 there is nothing" in text


@pytest.mark.parametrize("word", ["optim.lr=1,2", "seed=int(interval(1,9))", "optim.name=float(1,2)"])
def test_a_plain_run_refuses_several_values_and_names_the_search(word, home):
    with pytest.raises(ConfigError, match=r"several values, and one run takes one\. -m searches them") as wrong:
        compose(Request(DIGITS, (word,)))
    assert word in str(wrong.value)


# ---- the section and the space


def test_words_and_the_section_make_one_sweep(home):
    sweep = searched("optim.lr=1e-3,1e-2", "trainer.max_epochs=2", "sweep.trials=4", "sweep=asha", "sweep.from=7")
    assert sweep.base == Request(DIGITS, ("trainer.max_epochs=2",))
    assert sweep.space == Space((Dimension("optim.lr", Choice((1e-3, 1e-2))),))
    assert (sweep.options.trials, sweep.options.warm_start) == (4, 7)
    assert sweep.options.scheduler == {"name": "asha", "grace_period": 1, "reduction_factor": 4}


def test_a_file_says_what_is_searched_in_any_of_its_spellings(home):
    section = """
  metric: val/accuracy
  space:
    optim.lr: tag(log,interval(1e-5,1e-1))
    optim: {eps: {low: 1.0e-8, high: 1.0e-6, log: true}, name: [adam, sgd]}
    data.batch_size: {low: 8, high: 70, step: 16, int: true}
    model: [mlp, unet]
    trainer.max_epochs: range(1,4)
    optim.momentum: {choice: [0.0, 0.9], when: {optim.name: sgd, data.batch_size: [8, 24]}}
    "pretrain:optim.lr": [1, 2]
  constraints: optim.lr * data.batch_size < 1
  points: [{optim.lr: 1.0e-3, optim: {name: adam}}]
"""
    sweep = searched(config=written(home, section))
    assert {one.key: (one.domain, dict(one.when)) for one in sweep.space.dimensions} == {
        "optim.lr": (Interval(1e-5, 1e-1, log=True), {}),
        "optim.eps": (Interval(1e-8, 1e-6, log=True), {}),
        "optim.name": (Choice(("adam", "sgd")), {}),
        "data.batch_size": (Interval(8, 56, step=16, integer=True), {}),
        "model": (Choice(("mlp", "unet")), {}),
        "trainer.max_epochs": (Interval(1, 3, integer=True), {}),
        "optim.momentum": (Choice((0.0, 0.9)), {"optim.name": ("sgd",), "data.batch_size": (8, 24)}),
        "pretrain:optim.lr": (Choice((1, 2)), {}),
    }
    assert sweep.space.constraints == ("optim.lr * data.batch_size < 1",)
    assert sweep.options.points == ({"optim.lr": 1e-3, "optim.name": "adam"},)
    assert Space.from_dict(json.loads(json.dumps(sweep.space.to_dict()))) == sweep.space


def test_what_others_depend_on_comes_first(home):
    section = """
  space:
    c: {choice: [1], when: {b: 2}}
    b: {choice: [2, 3], when: {a: [x, y]}}
    z: [1, 2]
    a: [x, y]
"""
    assert [one.key for one in searched(config=written(home, section)).space.dimensions] == ["z", "a", "b", "c"]


def test_what_is_typed_wins_over_the_file(home):
    config = written(home, "  space: {optim.lr: [1, 2], optim.eps: [3, 4]}\n  trials: 3\n")
    sweep = searched("optim.eps=5,6", "optim.lr=0.5", "seed=7,8", "sweep.trials=9", config=config)
    assert {one.key: one.domain.values for one in sweep.space.dimensions} == {
        "optim.lr": (0.5,),
        "optim.eps": (5, 6),
        "seed": (7, 8),
    }
    assert sweep.options.trials == 9


def test_what_was_typed_away_takes_what_depended_on_it_along(home, caplog):
    section = """
  space:
    optim: [adam, sgd]
    optim.momentum: {choice: [0.0, 0.9], when: {optim: sgd}}
    optim.nesterov: {choice: [true, false], when: {optim.momentum: 0.9}}
"""
    config = written(home, section)
    sweep = searched("optim=adam", config=config)
    assert [one.key for one in sweep.space.dimensions] == ["optim"]
    assert "sweep.space.optim.nesterov: is not searched" in caplog.text
    kept = searched("optim=sgd", config=config).space.dimensions
    assert [(one.key, dict(one.when)) for one in kept][1] == ("optim.momentum", {"optim": ("sgd",)})
    assert count(Space(kept)) == 1 + 2


def test_the_section_is_found_where_the_searched_experiments_bring_it(home):
    folder = home / "configs" / "experiment"
    folder.mkdir(parents=True)
    for name in ("first", "second"):
        text = "# @package _global_\ntask: Task001_Digits\nsweep: {trials: 6}\n"
        (folder / f"{name}.yaml").write_text(text)
    sweep = searched("experiment=first,second", config="train_cls")
    assert sweep.base == Request("train_cls")
    assert sweep.options.trials == 6
    assert sweep.space.dimensions[0].domain == Choice(("first", "second"))


def test_the_words_of_stages_are_not_for_the_pipeline_itself(home):
    (home / "line.yaml").write_text("pipeline: {a: experiment/digits, b: train_cls}\nsweep: {trials: 2}\n")
    words = ("a:optim.lr=1,2", "b:model=mlp,unet", "b:data.fold=1", "~optim.sched", "seed=1")
    sweep = searched(*words, config="line.yaml")
    assert [one.key for one in sweep.space.dimensions] == ["a:optim.lr", "b:model"]
    assert sweep.base.overrides == ("b:data.fold=1", "~optim.sched", "seed=1")
    assert sweep.options.trials == 2


def test_a_config_in_python_is_searched_by_its_own_names(home):
    (home / "train.py").write_text('stage = "train_cls"\ntask = "Task001_Digits"\nlearning_rate = 1e-3\n')
    sweep = searched("learning_rate=1e-3,1e-2", "epochs=2", "sweep.trials=2", config="train.py")
    assert sweep.base.overrides == ("epochs=2",)
    assert sweep.space.dimensions == (Dimension("learning_rate", Choice((1e-3, 1e-2))),)
    assert sweep.options.trials == 2
    spec = compose(request_with(sweep.base, {"learning_rate": 0.01}))
    assert (spec.optim["lr"], spec.trainer["max_epochs"]) == (0.01, 2)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{tials: 5}", ["sweep.tials: no such key", "Did you mean 'sweep.trials'", "mine.yaml:3"]),
        ("{trials: many}", ["sweep.trials", "'many'", "Integer", "mine.yaml:3"]),
        ("{warm_start: 3}", ["sweep.warm_start: no such key", "'sweep.from'"]),
        ("{from: x}", ["sweep.from", "'x'"]),
        ("{space: [1]}", ["sweep.space"]),
        ("{metric: '???'}", ["sweep.metric: is open"]),
        ("{metric: '${nowhere}'}", ["sweep.metric", "'nowhere' not found"]),
        ("5", ["sweep: 5 given", "trials"]),
        ("{space: {optim.lr: 5}}", ["sweep.space.optim.lr: 5 is one value", "range(1,5)", "mine.yaml:3"]),
        ("{space: {optim.lr: adam}}", ["sweep.space.optim.lr: 'adam' is one value"]),
        ("{space: {optim: {}}}", ["sweep.space.optim: is empty"]),
        ("{space: {optim.lr: null}}", ["sweep.space.optim.lr: is empty"]),
        ("{space: {optim.lr: []}}", ["sweep.space.optim.lr: [] is empty"]),
        ("{space: {optim.lr: {choice: 5}}}", ["sweep.space.optim.lr.choice: 5 given", "a list of values"]),
        ("{space: {optim.lr: {choice: [1], low: 1}}}", ["sweep.space.optim.lr.low", "Known: choice, when"]),
        ("{space: {optim.lr: {low: 1, hihg: 2}}}", ["sweep.space.optim.lr.hihg", "Did you mean 'high'"]),
        ("{space: {optim.lr: {low: 1}}}", ["sweep.space.optim.lr.high: is missing"]),
        ("{space: {optim.lr: {low: a, high: 2}}}", ["sweep.space.optim.lr: low is 'a'"]),
        ("{space: {optim.lr: {low: 3, high: 2}}}", ["sweep.space.optim.lr: from 3 to 2", "low=2, high=3"]),
        ("{space: {optim.lr: {low: 1, high: 2, log: maybe}}}", ["optim.lr.log: 'maybe' given", "true or false"]),
        ("{space: {optim.lr: {low: 1, high: 2, step: 0}}}", ["step is 0"]),
        ("{space: {optim.lr: {low: 1, high: 2, step: 5}}}", ["step is 5", "at most 1"]),
        ("{space: {optim.lr: {low: 1, high: 9, step: 2, log: true}}}", ["log and step exclude each other"]),
        ("{space: {optim.lr: {low: 1.5, high: 9, int: true}}}", ["low is 1.5", "whole numbers"]),
        ("{space: {model: [mlp, unt]}}", ["sweep.space.model: ", "'unt' is not known", "Did you mean 'unet'"]),
        ("{space: {a: {choice: [1], when: 5}}}", ["sweep.space.a.when: 5 given"]),
        ("{space: {a: {choice: [1], when: {b: []}}}}", ["b has no values", "would never exist"]),
        ("{space: {aa: {choice: [1], when: {bb: 1}}, bbb: [1, 2]}}", ["bb is not searched", "Did you mean 'bbb'"]),
        ("{space: {a: {choice: [1], when: {b: 3}}, b: [1, 2]}}", ["a.when: b is never 3", "one of 1, 2"]),
        ("{space: {a: {choice: [1], when: {b: 3}}, b: {low: 4, high: 9}}}", ["b is never 3", "from 4 to 9"]),
        (
            "{space: {a: {choice: [1], when: {b: 1}}, b: {choice: [1], when: {c: 1}}, c: {choice: [1], when: {a: 1}}}}",
            ["a <- b <- c <- a", "in a circle"],
        ),
        ("{space: {a: {choice: [1], when: {a: 1}}}}", ["a <- a"]),
        (
            "{space: {a: {choice: [1], when: {b: 1, c: 2}}, b: {choice: [1], when: {c: 3}}, c: [2, 3]}}",
            ["sweep.space.a.when: can never be met", "c would need two values at once"],
        ),
        ("{space: {a: [1, 2]}, constraints: [b < 1]}", ["sweep.constraints: 'b < 1': b is not searched"]),
        ("{space: {a: [1, 2]}, constraints: [a <]}", ["sweep.constraints: 'a <' cannot be read"]),
        ("{space: {a: [1, 2]}, constraints: [a > 1, a < 2]}", ["no point of the space meets a > 1 and a < 2"]),
        ("{space: {a: {low: 0, high: 1}}, constraints: [a > 2]}", ["no point of the space meets a > 2"]),
        ("{space: {aa: [1, 2]}, points: [{ab: 1}]}", ["sweep.points[0]: ab is not searched", "Did you mean 'aa'"]),
        ("{space: {a: [1, 2]}, points: [{a: 1}, {a: 3}]}", ["sweep.points[1]: a=3 is outside", "one of 1, 2"]),
        ("{space: {a: 'range(1,9,2)'}, points: [{a: 4}]}", ["a=4 is outside", "from 1 to 7, in steps of 2"]),
        ("{space: {a: [1, 2]}, constraints: [a > 1], points: [{a: 1}]}", ["sweep.points[0]: breaks", "'a > 1'"]),
        (
            "{space: {a: {choice: [1], when: {b: 2}}, b: [1, 2]}, points: [{a: 1, b: 1}]}",
            ["sweep.points[0]: a exists only where b is 2"],
        ),
        ("{trials: 5}", ["nothing is searched", "key=interval(0,1)"]),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused_with_its_key(section, said, home):
    text = refused_in_file(home, f"  {section}\n")
    for part in said:
        assert part in text


def test_what_a_check_finds_is_told_with_its_place(home):
    section = "  scheduler:\n    name: ahsa\n  space: {optim.lr: [1, 2]}\n"
    sweep = searched("sweep.trials=0", "seed=1,2", config=written(home, section))
    found = sweep.located(["sweep.trials: 0 is", "sweep.scheduler.name: 'ahsa' is", "seed: no [command line: seed=1]"])
    assert found == [
        "sweep.trials: 0 is [command line: sweep.trials=0]",
        "sweep.scheduler.name: 'ahsa' is [mine.yaml:4]",
        "seed: no [command line: seed=1]",
    ]


def test_every_problem_of_a_section_is_told_at_once(home):
    section = "  {tials: 5, space: {a: [], b: 5, c: 'interval(2,1)'}}\n"
    text = refused_in_file(home, section)
    assert [line.partition(": ")[0] for line in text.splitlines()] == [
        "sweep.tials",
        "sweep.space.a",
        "sweep.space.b",
        "sweep.space.c",
    ]


def test_a_wrong_experiment_is_told_as_without_a_search(home):
    assert "config 'experiment/digit' is not known" in refused("seed=1,2", config="experiment/digit")
    assert "there is no such key" in refused("~optim.nothing", "seed=1,2")


def test_a_plain_run_takes_no_notice_of_a_search_but_of_its_typos(home, caplog):
    config = written(home, "  {space: {optim.lr: [1, 2]}, metric: '???', trials: 5}\n")
    assert compose(Request(config)) == compose(Request(DIGITS))
    assert "-m does that" not in caplog.text
    compose(Request(DIGITS, ("sweep.trials=5", "sweep=asha")))
    assert "sweep.trials=5 sweep=asha: is not used, for nothing is searched: -m does that" in caplog.text
    with pytest.raises(ConfigError, match=r"sweep.tials: no such key. Did you mean 'sweep.trials'\?"):
        compose(Request(written(home, "  tials: 5\n")))


def test_a_search_can_look_as_far_as_the_experiment_goes(home):
    config = written(home, "  {space: {seed: [1, 2]}, scheduler: {name: asha, max_t: '${trainer.max_epochs}'}}\n")
    assert searched("trainer.max_epochs=7", config=config).options.scheduler == {"name": "asha", "max_t": 7}


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml")))
def test_every_option_of_the_group_says_how_it_is_used_and_works(option, home):
    first = (CONFIGS / "sweep" / f"{option}.yaml").read_text().splitlines()[0]
    assert first.startswith("# asp-launch experiment/")
    assert f" -m sweep={option} " in first
    sweep = searched(f"sweep={option}", "optim.lr=interval(1e-4,1e-1)")
    written = OmegaConf.to_container(OmegaConf.load(CONFIGS / "sweep" / f"{option}.yaml"))
    changed = {"warm_start" if key == "from" else key: value for key, value in written.items() if value is not None}
    options = {
        key: list(value) if isinstance(value, tuple) else value for key, value in sweep.options.to_dict().items()
    }
    assert changed.items() <= options.items()
    if option == "default":
        assert sweep.options == SweepOptions()
        assert len(written) == len(options)


def test_a_sampler_and_a_scheduler_are_chosen_together(home):
    options = searched("sweep=[tpe,asha]", "optim.lr=interval(1e-4,1e-1)").options
    assert (options.sampler["name"], options.scheduler["name"]) == ("tpe", "asha")


# ---- points

BRANCHES = Space(
    (
        Dimension("name", Choice(("adam", "sgd"))),
        Dimension("momentum", Choice((0.0, 0.5, 0.9)), {"name": ("sgd",)}),
        Dimension("depth", Interval(1, 3, integer=True)),
    ),
    ("depth + momentum < 3",),
)


def test_points_are_counted_by_their_branches_and_constraints():
    found = [*points(BRANCHES)]
    assert count(BRANCHES) == len(found) == 3 + 2 * 3
    assert {"name": "adam", "depth": 3} in found
    assert {"name": "sgd", "momentum": 0.9, "depth": 3} not in found
    assert all(satisfied(BRANCHES, point) for point in found)


def test_what_cannot_be_counted_has_no_number():
    assert count(Space((Dimension("a", Interval(0, 1)),))) is None
    assert count(Space((Dimension("a", Interval(1, 9, log=True, integer=True)),))) is None
    huge = Dimension("a", Interval(0, 10**9, integer=True))
    assert count(Space((huge,))) == 10**9 + 1
    assert count(Space((huge,), ("a > 5",))) is None
    many = tuple(Dimension(f"k{number}", Choice(tuple(range(10)))) for number in range(9))
    assert count(Space(many)) == 10**9
    assert count(Space(many, ("k0 < 5",))) is None


def test_points_at_random_are_of_the_space():
    chance = random.Random(5)
    space = Space(
        (
            *BRANCHES.dimensions,
            Dimension("lr", Interval(1e-5, 1e-1, log=True)),
            Dimension("width", Interval(16, 10**9, step=16, integer=True)),
            Dimension("drop", Interval(0.0, 0.5)),
        )
    )
    found = [drawn(space, chance) for _ in range(300)]
    assert all(placed(space, point, "here") == point for point in found)
    assert {"momentum" in point for point in found if point["name"] == "sgd"} == {True}
    assert {"momentum" in point for point in found if point["name"] == "adam"} == {False}
    assert 0.3 < sum(point["lr"] < 1e-3 for point in found) / len(found) < 0.7
    assert drawn(space, chance, {"name": "sgd", "drop": 0.25})["drop"] == 0.25


def test_a_point_is_spelled_as_the_space_spells_it():
    space = Space(
        (
            Dimension("a", Interval(1, 9, integer=True)),
            Dimension("b", Interval(0, 1)),
            Dimension("c", Choice((1.0, True))),
        )
    )
    assert repr(placed(space, {"a": 3.0, "b": 1, "c": 1}, "here")) == "{'a': 3, 'b': 1.0, 'c': 1.0}"
    with pytest.raises(ConfigError, match="here: a=True is outside of the space: it is a whole number from 1 to 9"):
        placed(space, {"a": True}, "here")


@pytest.mark.parametrize(
    ("given", "dimensions", "sampler", "trials"),
    [
        ({}, [Choice((1, 2)), Interval(1, 3, integer=True)], "grid", 6),
        ({}, [Choice((1, 2)), Interval(0, 1)], "tpe", 20),
        ({"trials": 4}, [Choice((1, 2)), Choice((1, 2))], "tpe", 4),
        ({"sampler": "grid", "trials": 3}, [Choice((1, 2)), Choice((1, 2))], "grid", 3),
        ({"sampler": "grid", "trials": 9}, [Choice((1, 2)), Choice((1, 2))], "grid", 4),
        ({"sampler": "random"}, [Choice((1, 2))], "random", 20),
        ({"sampler": "brute_force"}, [Interval(0, 1, step=0.5)], "brute_force", 3),
        ({"sampler": {"name": "gp"}, "trials": 5}, [Choice((1, 2))], {"name": "gp"}, 5),
        ({"sampler": "grid", "trials": 7}, [Interval(0, 10**9, integer=True)], "grid", 7),
    ],
)
def test_what_is_left_open_is_settled_by_the_space(given, dimensions, sampler, trials):
    space = Space(tuple(Dimension(f"k{place}", domain) for place, domain in enumerate(dimensions)))
    options = settled(SweepOptions(**given), space)
    assert (options.sampler, options.trials) == (sampler, trials)
    assert settled(options, space) == options


def test_a_grid_has_the_points_that_meet_the_constraints():
    assert settled(SweepOptions(), BRANCHES).trials == 9


@pytest.mark.parametrize(
    ("given", "domain", "said"),
    [
        (
            {"sampler": "grid"},
            Interval(0, 1),
            ["sweep.sampler: grid", "optim.lr cannot be counted", "range(low,high,step)"],
        ),
        ({"sampler": "GridSampler"}, Interval(1, 9, log=True, integer=True), ["optim.lr cannot be counted"]),
        (
            {},
            Interval(0, 10**9, integer=True),
            ["sweep.trials: the space has 1,000,000,001 points", "sweep.trials=100"],
        ),
    ],
)
def test_a_grid_without_end_is_refused_by_key(given, domain, said):
    with pytest.raises(ConfigError) as wrong:
        settled(SweepOptions(**given), Space((Dimension("optim.lr", domain),)))
    for part in said:
        assert part in str(wrong.value)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("tpe", "tpe"),
        ({"name": "tpe", "seed": 1}, "tpe"),
        ("TPESampler", "tpe"),
        ({"_target_": "optuna.samplers.NSGAIISampler"}, "nsga2"),
        ("brute-force", "brute_force"),
        ("tpee", "tpee"),
        (None, None),
    ],
)
def test_a_sampler_is_known_by_the_name_of_its_class_too(written, name):
    assert sampler_named(written)[0] == name


# ---- limits


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (2, 7200),
        (0.5, 1800),
        ("2", 7200),
        ("90s", 90),
        ("30min", 1800),
        ("2h", 7200),
        ("1d", 86400),
        ("1d 12h", 129600),
    ],
)
def test_time_is_hours_or_has_a_unit(time, seconds):
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    "time", ["3parsecs", "", "h", "2 h 3", True, [2], "1:30", 0, "0min", -1, "-2h", math.inf, "nan"]
)
def test_what_is_no_time_is_refused_with_how_to_write_one(time):
    with pytest.raises(ConfigError, match=r"^sweep\.time: .*(30min, 2h, 1d|Give a time above 0)"):
        seconds_of(time)


def test_disk_is_a_size():
    assert (disk_of("50GB"), disk_of(1000), disk_of("1.5GiB")) == (50 * 10**9, 1000, 3 * 2**29)
    with pytest.raises(ConfigError, match=r"sweep\.disk: '50 loads' is no size"):
        disk_of("50 loads")


# ---- trials

NASTY = [
    *(None, True, False, 0, -3, 10**20, 0.1, 1e-5, 1e22, 5e-324, 1 / 3, math.inf, -math.inf, 3.0),
    *("", " ", "a", "a b", " a ", "a,b", "a=b", "a='b'", 'a"b', "it's", "\\", "\\'", "a\\", "a\\'b", "'", '"', "''"),
    *("null", "True", "1", "1e-3", "nan", "inf", "-inf", "[1,2]", "{a:1}", "choice(a,b)", "range(1,2)", "a\nb", "\t"),
    *(
        "${a.b}",
        "${a.${b}}",
        "épaule",
        "run:1/epoch=4-step=2.ckpt",
        "s3://x/y?z=1&w",
        "# no comment",
        "a: b",
        "~x",
        "<3>",
    ),
    *([], [1, "a,b", None, [True]], ["${x}"], {}, {"a": {"b": [1, "it's"]}}, {"x y": 1, "a,b": "c", "u.v": None, 1: 2}),
]


@pytest.mark.parametrize("value", NASTY, ids=repr)
def test_an_override_reads_back_as_the_value_that_it_was_made_of(value):
    word = normalise(words_of({"a.b": value}), [])[0]
    assert repr(OverridesParser.create().parse_override(word).value()) == repr(value)


def test_any_text_and_any_nesting_reads_back():
    chance = random.Random(12345)
    parser = OverridesParser.create()

    def text() -> str:
        return "".join(chance.choice("ab1 .,'\"\\=${}[]()#:/\n\té<>|~+-%@!?*&;") for _ in range(chance.randrange(9)))

    def value(depth: int) -> object:
        kind = chance.randrange(5 if depth else 3)
        if kind == 3:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        if kind == 4:
            return {f"k{place} {chance.choice(',=:()[]{}')}": value(depth - 1) for place in range(chance.randrange(3))}
        return text() if kind else chance.choice([chance.random() * 10 ** chance.randrange(-9, 9), 7, None, True])

    for _ in range(400):
        given = value(2)
        (word,) = normalise(words_of({"a.b": given}), [])
        assert repr(parser.parse_override(word).value()) == repr(given), word


def test_plain_words_stay_as_a_person_writes_them():
    values = {"optim.name": "adam", "model": "unet", "optim.lr": 0.001, "a": [8, 16], "pretrain:b": None}
    assert words_of(values) == ["optim.name=adam", "model=unet", "optim.lr=0.001", "a=[8,16]", "pretrain:b=null"]


@pytest.mark.parametrize("key", ["1", "true", "", "é", "a\nb"])
def test_a_key_that_cannot_be_written_is_refused(key):
    with pytest.raises(ConfigError, match=r"optim\.x: the key .* cannot be written on a command line"):
        words_of({"optim.x": {key: 1}})


def test_a_value_that_is_no_plain_one_is_refused():
    with pytest.raises(ConfigError, match=r"optim\.x: a set cannot be written"):
        words_of({"optim.x": {1}})


TRIALS = [
    {"optim.lr": 0.25, "optim.weight_decay": 0.0, "seed": 7},
    {"optim": {"lr": 0.5}, "trainer.max_epochs": 2, "run.label": "it's a,b=c"},
    {"model.features": [4, 8], "data.patch_size": None, "data.batch_size": 3},
    {"epochs": 4, "network": "MLP", "task": "Task001_Digits"},
    {"trainer.devices": 2, "trainer.precision": "bf16-mixed", "hardware": {"precision": "64-true"}},
    {"trainer.callbacks.0.monitor": "val/loss", "trainer.callbacks.0.save_top_k": 2},
    {"run.num_epochs": 6, "run.batch_size_per_gpu": 5},
    {"data.batch_size": 5, "trainer.accelerator": "cpu", "run.gpus": 0, "new.key": 1},
    {
        "model.cls_net._target_": "asparagus.models.mlp.MLP",
        "callbacks": {"stop": {"_target_": "x.Y", "a": [1, {"b": 2}]}},
    },
]
WORDS = ("optim.lr=1e-9", "trainer.max_epochs=9", "+logger=csv")


@pytest.mark.parametrize("config", sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")))
def test_setting_values_is_composing_with_them(config, home):
    request = Request(f"experiment/{config}", WORDS)
    header = (CONFIGS / "experiment" / f"{config}.yaml").read_text().splitlines()[1].split()
    if header[2] != f"experiment/{config}":  # a diff on top of a stage: its first line says of which
        request = Request(header[2], (f"experiment={config}", *WORDS))
    base = config_of(request)
    before = OmegaConf.to_yaml(base)
    for values in TRIALS:
        fast, slow = with_values(base, values), config_of(request_with(request, values))
        assert OmegaConf.to_yaml(fast) == OmegaConf.to_yaml(slow), values
    assert OmegaConf.to_yaml(base) == before


def test_a_trial_has_the_spec_that_it_would_have_alone(home):
    request = Request("train_cls", ("experiment=coming_from_hydra_lightning", "trainer.limit_val_batches=1"))
    values = {"epochs": 4, "network": "MLP", "optim.lr": 0.5, "run.label": "it's a,b=c"}
    full = request_with(request, values)
    spec = spec_of(config_with(config_of(request), request, values), full)
    assert spec == compose(full)
    assert (spec.trainer["max_epochs"], spec.run.label) == (4, "it's a,b=c")


def test_what_refers_to_a_searched_key_follows(home):
    request = Request("train_cls", ("experiment=coming_from_hydra_lightning", "run.name=${task}-${epochs}"))
    spec = spec_of(with_values(config_of(request), {"epochs": 3, "optim.lr": "${oc.decode:'0.5'}"}))
    assert (spec.trainer["max_epochs"], spec.run.name, spec.optim["lr"]) == (3, "Task001_Digits-3", 0.5)
    request = Request("experiment/laurit_pretrain")
    spec = spec_of(with_values(config_of(request), {"model.features": [4, 8]}))
    assert spec.model["pretrain_net"]["features"] == [4, 8]


def test_a_group_is_composed_anew(home):
    request = Request(DIGITS, ("seed=3",))
    base = config_of(request)
    assert needs_composing(request, {"optim": "sgd", "seed": 1})
    assert needs_composing(request, {"optim@second": "sgd"})
    assert not needs_composing(request, {"optim.lr": 1})
    spec = spec_of(config_with(base, request, {"optim": "sgd", "optim.lr": 0.5}))
    assert (spec.optim["name"], spec.optim["momentum"], spec.optim["lr"], spec.seed) == ("sgd", 0.99, 0.5, 3)
    assert spec_of(config_with(base, request, {"optim.lr": 0.5})).optim == {"name": "adam", "lr": 0.5}


def test_a_config_in_python_is_composed_anew(home):
    (home / "train.py").write_text('task = "Task997_LauritSynSeg"\niterations_per_epoch = 10\n')
    request = Request("train.py")
    assert needs_composing(request, {"batch_size": 4})
    spec = spec_of(config_with(config_of(request), request, {"batch_size": 4}))
    assert (spec.data["batch_size"], spec.data["samples_per_epoch"]) == (4, 40)
    assert CONFIGS.resolve() in [folder.resolve() for folder in folders_of(request)]


def test_a_value_that_cannot_stand_there_is_refused_by_key(home):
    with pytest.raises(ConfigError, match=r"data\.patch_size\.x: 1 cannot take the place of what is there"):
        with_values(config_of(Request(DIGITS, ("data.patch_size=[8,8]",))), {"data.patch_size.x": 1})


def test_the_first_point_of_a_space_composes(home):
    sweep = searched("optim.lr=tag(log,interval(1e-3,1e-1))", "model=mlp,unet", "data.batch_size=16,32")
    spec = compose(request_with(sweep.base, sample(sweep.space)))
    assert (spec.optim["lr"], spec.data["batch_size"]) == (1e-3, 16)


def test_a_space_needs_neither_torch_nor_ray_nor_optuna(home):
    code = (
        "import sys\n"
        "from asparagus.compose import Request\n"
        "from asparagus.compose.space import compose_sweep, settled\n"
        "import asparagus.check.space\n"
        "sweep = compose_sweep(Request('experiment/digits', ('optim.lr=1,2', 'sweep=tpe')))\n"
        "settled(sweep.options, sweep.space)\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'optuna') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
