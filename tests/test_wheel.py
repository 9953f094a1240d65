"""What is installed from a wheel works without the repository: the experiment files and sites travel with the code."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from asparagus.compose import Request, compose_config, config_as_yaml

pytestmark = [pytest.mark.e2e]

ROOT = Path(__file__).parent.parent
WORDS = ("experiment/digits", "site=cluster")

# Tells which copy is used, and then does what `asp-launch experiment/digits site=cluster --cfg job` does.
FROM_THE_WHEEL = f"""
import sys
import asparagus
from asparagus.cli.main import run
from asparagus.paths import packaged
print(asparagus.__file__, packaged("configs"), packaged("launch"), sep="\\n", file=sys.stderr)
sys.exit(run("launch", [*{WORDS!r}, "--cfg", "job"]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="builds without isolation, so that nothing is downloaded: needs hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("asparagus-*.whl")
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution, unpacked."""
    pytest.importorskip("hatchling", reason="builds without isolation")
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("asparagus-*.tar.gz")
    with tarfile.open(made) as archive:
        archive.extractall(folder, filter="data")
    return folder / made.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("folder", ["configs", "launch"])
def test_every_yaml_file_is_in_the_wheel_as_it_is_in_the_repository(folder, unpacked):
    ours = {file.relative_to(ROOT / folder): file.read_bytes() for file in (ROOT / folder).rglob("*.yaml")}
    inside = unpacked / "asparagus" / folder
    assert ours
    assert {file.relative_to(inside): file.read_bytes() for file in inside.rglob("*.yaml")} == ours


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    ours = {str(module.relative_to(ROOT)) for module in (ROOT / "asparagus").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == ours
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"asparagus"}


def test_every_command_is_in_the_wheel(unpacked):
    (file,) = unpacked.glob("*.dist-info/entry_points.txt")
    points = configparser.ConfigParser()
    points.optionxform = str  # names as they are written
    points.read(file)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert dict(points["console_scripts"]) == scripts


def test_the_unpacked_wheel_composes_from_its_own_configs(unpacked, home):
    done = subprocess.run(
        [sys.executable, "-c", FROM_THE_WHEEL],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    inside = unpacked / "asparagus"
    assert done.stderr.splitlines() == [str(inside / part) for part in ("__init__.py", "configs", "launch")]
    config = yaml.safe_load(done.stdout)
    assert (config["task"], config["site"]["name"]) == ("Task001_Digits", "cluster")
    assert done.stdout == config_as_yaml(compose_config(Request(WORDS[0], WORDS[1:])))


def test_the_source_distribution_builds_the_same_wheel(wheel, sdist, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=sdist, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / wheel.name) as theirs, zipfile.ZipFile(wheel) as ours:
        assert {name: theirs.read(name) for name in theirs.namelist()} == {
            name: ours.read(name) for name in ours.namelist()
        }


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_the_demo_runs_from_the_wheel_in_an_empty_environment(wheel, tmp_path):
    """As a newcomer has it: nothing but the pinned packages, an empty home, and no repository in sight."""
    environment, home = tmp_path / "env", tmp_path / "home"
    home.mkdir()
    venv.create(environment, with_pip=True)
    bin_ = environment / "bin"
    install = [str(bin_ / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), str(wheel)], cwd=home, check=True)
    mine = {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "MLFLOW_"))}
    mine |= {"HOME": str(home), "PATH": f"{bin_}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(bin_ / words[0]), *words[1:]], cwd=home, env=mine, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    where = run("python", "-c", "import asparagus; print(asparagus.__file__)").stdout
    assert Path(where.strip()).is_relative_to(environment)
    demo = run("asp", "demo")
    assert "run 1 pretrain Task998_LauritSyn" in demo.stdout
    [dice] = re.findall(r"run 2 finetune_seg Task997_LauritSynSeg · finished · val/dice (\S+)", demo.stdout)
    assert float(dice) > 0.9
    noise = [line for line in demo.stderr.splitlines() if re.search("warning|deprecat|traceback", line, re.IGNORECASE)]
    assert noise == []
    for site in sorted((ROOT / "launch" / "site").glob("*.yaml")):
        assert run("asp-launch", "experiment/digits", f"site={site.stem}", "--cfg", "job").stdout
