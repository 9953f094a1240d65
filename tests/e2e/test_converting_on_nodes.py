"""A conversion as Ray tasks on a cluster of two nodes, of which one is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from asparagus.data.inspect import problems_of
from asparagus.faults.nodes import ray_nodes
from tests.clusters import wait_for

REPOSITORY = Path(__file__).parents[2]
CASES = 12
CONVERSION = """
from asparagus.data.conversion import Conversion, Preprocessing
conversion = Conversion("pretrain", "raw", preprocessing=Preprocessing(target_spacing=(0.8, 0.8, 0.8)))
"""
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_lost_node_costs_a_conversion_no_case(tmp_path, monkeypatch):
    for name, value in {"ASPARAGUS_HOME": tmp_path, "ASPARAGUS_SOURCE": tmp_path, "PYTHONPATH": REPOSITORY}.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "raw").mkdir()
    values = np.random.default_rng(0).uniform(1, 9, (50, 50, 50)).astype(np.float32)
    for i in range(CASES):
        nib.save(nib.Nifti1Image(values + i, np.diag([2.0, 2, 2, 1])), tmp_path / f"raw/{i}.nii.gz")
    (tmp_path / "raw/broken.nii.gz").write_bytes(b"")
    (tmp_path / "mine.py").write_text(CONVERSION)
    command = [sys.executable, "-c", "import sys; from asparagus.cli.main import main; main('data', sys.argv[1:])"]
    with ray_nodes({"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        words = ["convert", "mine.py", "--ray", cluster.address]
        going = subprocess.Popen([*command, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        made = tmp_path / "data/mine/cases"
        wait_for(lambda: len(list(made.glob("*.pt"))) >= 3 or going.poll() is not None, 300)
        assert going.poll() is None
        cluster.kill(cluster.others[0])
        _, err = going.communicate(timeout=400)
    assert going.returncode == 3
    assert "1 of 13 cases could not be converted" in err
    assert "broken.nii.gz: cannot be read" in err
    assert len(list(made.glob("*.pt"))) == CASES
    assert problems_of(tmp_path / "data", "mine") == []
    assert not list((tmp_path / "data").rglob("*.tmp"))
