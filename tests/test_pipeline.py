"""Pipelines on the client: whose word is whose, what a stage starts from, and what is wrong with one."""

from __future__ import annotations

import pytest

from asparagus.compose import Request, compose
from asparagus.compose.pipeline import names_a_stage, of_stage, stages_of
from asparagus.errors import ConfigError, PipelineError

TWO = """# @package _global_
pipeline:
  first: {config: experiment/digits, overrides: {trainer.max_epochs: 2, optim.betas: [0.8, 0.9]}}
  second: {config: finetune_cls, from: first}
"""


@pytest.fixture
def written(home):
    def write(text: str) -> Request:
        (home / "own").mkdir(exist_ok=True)
        (home / "own/mine.yaml").write_text(text)
        return Request("mine", (), (home / "own",))

    return write


def with_words(request: Request, *words: str) -> Request:
    return Request(request.config, words, request.config_dirs)


def test_words_go_to_the_stage_that_they_name_and_bare_ones_to_all(written):
    request = with_words(written(TWO), "first:optim.lr=1e-2", "+second:optim.eps=1e-7", "seed=7", "sweep.trials=3")
    first, second = stages_of(request)
    assert (first.name, first.request.config, first.source) == ("first", "experiment/digits", None)
    assert first.request.overrides == ("trainer.max_epochs=2", "optim.betas=[0.8,0.9]", "optim.lr=1e-2", "seed=7")
    assert (second.source, second.request.overrides) == ("first", ("+optim.eps=1e-7", "seed=7"))


def test_values_of_a_trial_go_the_same_way():
    values = {"first:optim.lr": 1, "second:optim.lr": 2, "seed": 3}
    assert of_stage("second", values) == {"optim.lr": 2, "seed": 3}


def test_a_stage_starts_from_the_one_before_it_unless_it_says_so(written):
    text = "pipeline: {a: experiment/digits, b: finetune_cls, c: {config: finetune_cls, from: a}}\n"
    assert [stage.source for stage in stages_of(written(text))] == [None, "a", "a"]


def test_an_experiment_that_is_no_pipeline_is_one_stage(home):
    (only,) = stages_of(Request("experiment/digits", ("seed=3",)))
    assert (only.name, only.source, only.request.overrides) == ("train_cls", None, ("seed=3",))


def test_a_pipeline_is_refused_where_one_experiment_is_expected(written):
    with pytest.raises(PipelineError, match="is several, first, second: asp-launch runs them in turn"):
        compose(written(TWO))


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("pipeline: [a, b]\n", (), "pipeline: is not a section of stages"),
        ("pipeline: {a: {overrides: {seed: 1}}}\n", (), "pipeline.a: names no config"),
        (
            "pipeline: {a: {conffig: x, config: experiment/digits}}\n",
            (),
            "pipeline.a.conffig: no such key. Did you mean",
        ),
        ("pipeline: {a: experiment/digits, b: {config: finetune_cls, from: c}}\n", (), "'c' is no stage before it"),
        (TWO, ("frist:optim.lr=1",), "frist:optim.lr: there is no stage 'frist'. Did you mean 'first'?"),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_said(written, text, words, said):
    with pytest.raises(ConfigError) as error:
        stages_of(with_words(written(text), *words))
    assert said in str(error.value)


def test_a_word_for_a_stage_of_what_has_none_is_refused(home):
    with pytest.raises(ConfigError, match="This experiment is no pipeline"):
        stages_of(Request("experiment/digits", ("first:optim.lr=1",)))
    assert names_a_stage(Request("experiment/digits", ("first:optim.lr=1",)))
    assert not names_a_stage(Request("experiment/digits", ("optim.lr=1", "init_from=file:/a:b")))
