from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asparagus.errors import RecordError
from asparagus.record.numbers import claim, find_folder, folder_name
from asparagus.record.recorder import Recorder, flatten
from asparagus.record.run_folder import create, note_child
from asparagus.spec import Paths, Spec

ABOUT = {"stage": "pretrain", "task": "Task9_X"}


def test_numbers_rise_and_are_never_used_twice(tmp_path):
    assert [claim(tmp_path, about=ABOUT) for _ in range(3)] == [1, 2, 3]
    assert claim(tmp_path, about=ABOUT, floor=531) == 532
    assert claim(tmp_path, about=ABOUT) == 533


def test_many_launches_at_once_draw_different_numbers(tmp_path):
    code = "import sys; from pathlib import Path; from asparagus.record.numbers import claim; "
    code += "print(*(claim(Path(sys.argv[1]), about={'stage': 's', 'task': 't'}) for _ in range(25)))"

    def launch(_):
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

    with ThreadPoolExecutor(8) as pool:
        drawn = [int(word) for done in pool.map(launch, range(8)) for word in done.stdout.split()]
    assert sorted(drawn) == list(range(1, 201))


@pytest.mark.slow
def test_sixty_four_launches_at_once_draw_different_numbers(tmp_path):
    code = "import sys; from pathlib import Path; from asparagus.record.numbers import claim; "
    code += "print(*(claim(Path(sys.argv[1]), about={'stage': 's', 'task': 't'}) for _ in range(20)))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(64)]
    drawn = [int(word) for process in started for word in process.communicate()[0].split()]
    assert sorted(drawn) == list(range(1, 64 * 20 + 1))


def test_a_number_by_hand_is_taken_once(tmp_path):
    assert claim(tmp_path, about=ABOUT, wanted=7) == 7
    with pytest.raises(RecordError, match=r"run.id: 7 is taken"):
        claim(tmp_path, about=ABOUT, wanted=7)
    with pytest.raises(RecordError, match="positive"):
        claim(tmp_path, about=ABOUT, wanted=0)
    assert claim(tmp_path, about=ABOUT) == 8


def test_a_run_is_found_by_its_number_also_after_the_models_folder_moved(tmp_path):
    models = tmp_path / "models"
    run_id = claim(models, about=ABOUT)
    create(models, Spec("pretrain", "Task9_X"), run_id, "{}")
    moved = models.rename(tmp_path / "elsewhere")
    assert find_folder(moved, run_id) == moved / "Task9_X" / "pretrain" / "run_id=1"


def test_a_run_that_is_not_there_or_whose_folder_is_gone_is_said_so(tmp_path):
    with pytest.raises(RecordError, match="None was trained here yet"):
        find_folder(tmp_path, 5)
    claim(tmp_path, about=ABOUT)
    with pytest.raises(RecordError, match="is gone"):
        find_folder(tmp_path, 1)
    with pytest.raises(RecordError, match="The newest here: 1"):
        find_folder(tmp_path, 5)


def test_two_folders_with_one_number_are_named_and_so_is_one_that_was_moved(tmp_path):
    claim(tmp_path, about=ABOUT)
    create(tmp_path, Spec("pretrain", "Task9_X"), 1, "{}")
    copied = tmp_path / "Task9_X" / "train_seg" / "run_id=1"
    copied.mkdir(parents=True)
    with pytest.raises(RecordError, match=r"there are 2 folders of it, .*pretrain/run_id=1 and .*train_seg/run_id=1"):
        find_folder(tmp_path, 1)
    (tmp_path / "Task9_X" / "pretrain" / "run_id=1").rename(tmp_path / "away")
    with pytest.raises(RecordError, match=r"its folder is .*train_seg/run_id=1 now. Move it back to .*pretrain"):
        find_folder(tmp_path, 1)


def test_a_run_folder_is_never_reused(tmp_path):
    create(tmp_path, Spec("pretrain", "Task9_X"), 1, "{}")
    with pytest.raises(FileExistsError):
        create(tmp_path, Spec("pretrain", "Task9_X"), 1, "{}")


def test_config_yaml_is_the_exact_spec(tmp_path):
    import yaml

    spec = Spec("pretrain", "Task9_X", optim={"lr": 1e-5, "betas": [0.9, 0.98]}, paths=Paths(models=str(tmp_path)))
    folder = create(tmp_path, spec, 3, "{}")
    assert Spec.from_dict(yaml.safe_load(folder.config.read_text())) == spec
    assert folder.path == tmp_path / folder_name("Task9_X", "pretrain", 3)


def test_children_at_once_leave_one_whole_line_each(tmp_path):
    threads = [
        threading.Thread(target=note_child, args=(tmp_path,), kwargs={"run_id": n, "folder": tmp_path / ("x" * 50)})
        for n in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "derived_models.log").read_text().splitlines()
    assert sorted(int(line.split(",")[0]) for line in lines) == list(range(40))


def test_sections_become_dotted_params():
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": {}}) == {
        "a.b": "1", "a.c.d": "None", "e": "[1, 2]", "f": "{}",
    }  # fmt: skip


def test_a_store_that_cannot_be_reached_is_one_clear_error(tmp_path):
    with (
        Recorder("http://127.0.0.1:9", tmp_path, tmp_path) as recorder,
        pytest.raises(RecordError, match=r"http://127.0.0.1:9"),
    ):
        recorder.largest_number()


def test_a_fresh_sqlite_store_opened_by_many_processes_at_once_works(tmp_path):
    """Stock MLflow 3.17 lets them race in the migration: most of them crash."""
    code = "import sys; from asparagus.record.store import Store; print(len(list(Store(sys.argv[1]).runs())))"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/new/mlflow.db"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    assert [(process.communicate()[0].strip(), process.returncode) for process in started] == [("0", 0)] * 8
