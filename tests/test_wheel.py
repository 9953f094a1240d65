"""What is installed from a wheel works without the repository: the experiment files and sites travel with the code."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tomllib
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
