"""What a failure is, who was first, and what comes after it: decided from values, without a cluster."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from asparagus.errors import ConfigError, HungError, LeftError, NanLossError, RunError
from asparagus.failure import Death, Kind, death_of, first_of, kind_of, read_death, write_death
from asparagus.failure_policy import decide, halved, what_to_lower
from asparagus.identity import identity
from asparagus.spec import Failures, RunOptions, Spec


def spec(*, batch=64, accumulate=None, max_failures=3, **failures) -> Spec:
    trainer = {} if accumulate is None else {"accumulate_grad_batches": accumulate}
    data = {} if batch is None else {"batch_size": batch}
    return Spec(
        "train_cls",
        "Task001_Digits",
        data=data,
        trainer=trainer,
        run=RunOptions(max_failures=max_failures),
        failures=Failures(**failures),
    )


def lost(cause=None) -> Exception:
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=cause or ActorDiedError())


def death(kind, *, story="", step=0, killed=False, node="") -> Death:
    return Death(0, kind, "told", story, step=step, killed=killed, node=node)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("boom"), Kind.BUG),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), Kind.BUG),
        (FileNotFoundError(2, "No such file or directory"), Kind.BUG),
        (ImportError("No module named 'wandb'"), Kind.REQUEST),
        (ConfigError("optim.lr: no"), Kind.REQUEST),
        (RunError("the disk is full"), Kind.REQUEST),
        (MemoryError(), Kind.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), Kind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), Kind.OUT_OF_MEMORY),
        (OSError(12, "Cannot allocate memory"), Kind.OUT_OF_MEMORY),
        (lost(OutOfMemoryError("Task was killed due to the node running low on memory")), Kind.OUT_OF_MEMORY),
        (lost(), Kind.LOST),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Kind.HARDWARE),
        (OSError(5, "Input/output error"), Kind.HARDWARE),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), Kind.COLLATERAL),
        (ConnectionResetError(104, "Connection reset by peer"), Kind.COLLATERAL),
        (OSError(116, "Stale file handle"), Kind.UNKNOWN),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error"), Kind.HARDWARE),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), Kind.UNKNOWN),
        (NanLossError("nan"), Kind.NAN_LOSS),
        (HungError("no step"), Kind.HUNG),
        (LeftError("a SIGTERM"), Kind.PREEMPTION),
    ],
)
def test_a_failure_is_told_by_what_was_raised(error, kind):
    assert kind_of(error) is kind


def test_an_error_keeps_its_kind_through_those_that_wrap_it():
    outer = ValueError("while a batch was made")
    outer.__cause__ = MemoryError()
    assert kind_of(outer) is Kind.OUT_OF_MEMORY


def test_the_first_rank_is_the_earliest_of_those_that_did_not_follow():
    deaths = {
        0: Death(0, Kind.COLLATERAL, "Connection closed by peer", when=1.0),
        1: Death(1, Kind.COLLATERAL, "Connection closed by peer", when=1.1),
        2: Death(2, Kind.BUG, "ValueError: boom", when=1.3),
        3: Death(3, Kind.LOST, "its process is gone", when=2.5),
    }
    assert first_of(deaths).rank == 2


def test_who_was_told_to_leave_is_named_and_not_who_left_with_it_a_moment_before():
    told = death_of(LeftError("a SIGTERM to rank 0"), rank=0, when=2.0)
    with_it = death_of(LeftError("another rank was told to leave", followed=True), rank=1, when=1.0)
    assert first_of({0: told, 1: with_it}) == told
    assert Death.from_dict(with_it.to_dict()) == with_it


def test_last_words_survive_the_file_and_half_of_one_is_none(tmp_path):
    told = death_of(ValueError("boom"), rank=3, step=17, host="node7", when=5.0)
    write_death(tmp_path / "deep" / "rank=3.json", told)
    assert read_death(tmp_path / "deep" / "rank=3.json") == told
    (tmp_path / "half").write_text('{"rank": 3')
    assert read_death(tmp_path / "half") is None


@pytest.mark.parametrize("kind", [Kind.BUG, Kind.REQUEST])
def test_a_bug_and_a_wrong_request_are_not_tried_again(kind):
    assert not decide(spec(), [], death(kind)).again


@pytest.mark.parametrize(
    ("kind", "settings", "tries"),
    [
        (Kind.LOST, {"max_failures": 3}, 3),
        (Kind.COLLATERAL, {"max_failures": 0}, 0),
        (Kind.UNKNOWN, {"max_failures": 2}, 2),
        (Kind.NAN_LOSS, {}, 0),
        (Kind.NAN_LOSS, {"nan_loss": 1}, 1),
        (Kind.HUNG, {"hung": 2}, 2),
        (Kind.HARDWARE, {"hardware": 1}, 1),
        (Kind.PREEMPTION, {"preemption": 5}, 5),
        (Kind.PREEMPTION, {"preemption": 0}, 0),
    ],
)
def test_every_kind_has_a_bound_of_its_own(kind, settings, tries):
    before = []
    while decide(spec(**settings), before, death(kind, step=len(before))).again:
        before.append(death(kind, step=len(before)))
        assert len(before) < 50
    assert len(before) == tries


def test_preemptions_do_not_use_up_what_lost_workers_may():
    before = [death(Kind.PREEMPTION)] * 20
    assert decide(spec(max_failures=1), before, death(Kind.LOST)).again
    assert not decide(spec(max_failures=1), [*before, death(Kind.LOST)], death(Kind.LOST)).again


def test_the_same_traceback_twice_at_the_same_step_is_a_bug():
    first = death(Kind.UNKNOWN, story="OSError: [Errno 116] at 0x7f1a2b, pid 17", step=5)
    again = death(Kind.UNKNOWN, story="OSError: [Errno 116] at 0x7f99ff, pid 18", step=5)
    elsewhere = death(Kind.UNKNOWN, story=first.story, step=9)
    assert decide(spec(), [], first).again
    assert decide(spec(), [first], elsewhere).again
    ended = decide(spec(), [first], again)
    assert not ended.again
    assert "the same error twice at step 5" in ended.why


def test_memory_that_ran_out_halves_the_batch_as_often_as_asked_and_keeps_the_global_one():
    asked, oom = spec(batch=12, accumulate=3, smaller_batch=5), death(Kind.OUT_OF_MEMORY)
    first = decide(asked, [], oom)
    assert (first.again, first.halvings) == (True, 1)
    assert "data.batch_size=6 trainer.accumulate_grad_batches=6" in first.why
    second = decide(asked, [oom], oom, halvings=1)
    assert (second.again, second.halvings) == (True, 2)
    third = decide(asked, [oom, oom], oom, halvings=2)  # 3 cannot be halved
    assert (third.again, third.halvings) == (False, 2)
    made = halved(asked, 2)
    assert made.data["batch_size"] * made.trainer["accumulate_grad_batches"] == 12 * 3


def test_memory_is_not_tried_again_unasked_unless_the_machine_ended_the_worker():
    assert not decide(spec(), [], death(Kind.OUT_OF_MEMORY)).again
    assert not decide(spec(batch=None, smaller_batch=3), [], death(Kind.OUT_OF_MEMORY)).again
    assert decide(spec(), [], death(Kind.OUT_OF_MEMORY, killed=True)).again


def test_a_broken_node_is_left_out():
    assert decide(spec(), [], death(Kind.HARDWARE, node="abc")).leave_out == "abc"
    assert decide(spec(), [], death(Kind.LOST, node="abc")).leave_out == ""


def test_what_to_lower_is_named_with_its_value():
    told = what_to_lower(spec(batch=64, accumulate=2), death(Kind.OUT_OF_MEMORY))
    assert "data.batch_size (now 64 per worker)" in told
    assert "trainer.accumulate_grad_batches=4" in told
    assert "failures.smaller_batch" in told


def test_how_failures_are_met_is_no_part_of_what_a_run_is():
    assert identity(spec()) == identity(spec(smaller_batch=2, nan_loss=1, hung_after_min=1.0, max_failures=0))
