"""Where it runs is said in launch/ alone, and what is trained in configs/ alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from asparagus.cli.main import run
from asparagus.compose import Request, compose, compose_config
from asparagus.spec import Site, Spec

ROOT = Path(__file__).parent.parent
CONFIGS, LAUNCH = ROOT / "configs", ROOT / "launch"
SITES = sorted(path.stem for path in (LAUNCH / "site").glob("*.yaml"))
SITE_KEYS = {field.name for field in dataclasses.fields(Site)}
SCIENCE = {field.name for field in dataclasses.fields(Spec)} - {"site", "paths"}
"""What decides the weights: the sections and keys of an experiment."""
PLACE = re.compile(r"^[/~]|file:/|://|\blocalhost\b|\b\d+\.\d+\.\d+\.\d+\b|^[\w.-]+:\d{2,5}$")
"""An absolute path, a URI, or an address."""


def files(folder: Path) -> list[Any]:
    paths = sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, dotted, and its value; a list's items share its key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, key)
    else:
        yield key, node


def load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text()) or {}


def package(file: Path) -> str:
    """Return what a `# @package` line directs the file's keys to, if there is one."""
    found = re.search(r"^#\s*@package\s+(\S+)", file.read_text(), re.MULTILINE)
    return found[1] if found else ""


def composed(site: str) -> dict[str, Any]:
    config = compose_config(Request("experiment/digits", (f"site={site}",)))
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.mark.parametrize("site", SITES)
def test_a_site_composes_and_carries_its_own_name(site, home):
    spec = compose(Request("experiment/digits", (f"site={site}",)))
    assert spec.site.name == site
    own = load(LAUNCH / "site" / f"{site}.yaml")
    assert spec.site.tracking_uri == f"sqlite:///{own.get('results', home / 'results')}/mlflow.db"
    assert (spec.paths.models, spec.paths.results) == tuple(
        own.get(name, str(home / name)) for name in ("models", "results")
    )


@pytest.mark.parametrize("site", SITES)
def test_a_site_sets_keys_of_the_site_and_nothing_else(site, home):
    values, local = composed(site), composed("local")
    assert set(values.pop("site")) <= SITE_KEYS
    local.pop("site")
    assert values == local


@pytest.mark.parametrize("file", files(LAUNCH / "site"))
def test_a_site_holds_no_hyperparameter(file):
    keys = {part for key, _ in leaves(load(file)) for part in key.split(".")}
    assert keys & (SCIENCE - SITE_KEYS) == set()
    assert package(file) in ("", "site"), "its keys would land outside of the site"


@pytest.mark.parametrize("file", [path for path in (LAUNCH / "up").rglob("*") if path.is_file()])
def test_what_makes_clusters_holds_no_hyperparameter(file):
    sections = "|".join(SCIENCE - {"resources", "run", "stage", "task", "seed"})
    assert re.search(rf"\b({sections})\.\w+=", file.read_text()) is None


def test_a_sites_folders_win_over_this_machines_and_give_way_to_what_is_typed(home):
    words = ("site=cluster", "resources.workers=1", "site.models=/shared/models", "site.results=/shared/results")
    spec = compose(Request("experiment/digits", words))
    assert (spec.paths.models, spec.paths.results) == ("/shared/models", "/shared/results")
    assert spec.site.tracking_uri == "sqlite:////shared/results/mlflow.db"
    typed = compose(Request("experiment/digits", (*words, "paths.models=/mine")))
    assert (typed.paths.models, typed.paths.results) == ("/mine", "/shared/results")


def test_in_a_slurm_job_the_site_is_as_large_as_the_job(home, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    site = compose(Request("experiment/digits", ("site=slurm", "resources.workers=1"))).site
    assert (site.nodes, site.cpus_per_node) == (3, 4)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("site=clster", "site: 'clster' is not known. Did you mean 'cluster'?"),
        ("site.max_worker=3", "site.max_worker: no such key. Did you mean 'site.max_workers'?"),
        ("site.max_hours=long", "site.max_hours"),
    ],
)
def test_a_typo_in_a_site_is_told_with_what_is_near(word, told, home, capsys):
    assert run("launch", ["experiment/digits", word, "--dry-run"]) == 2
    assert told in capsys.readouterr().err


def test_more_workers_than_a_site_lets_a_run_have_are_refused(home, capsys):
    words = ["experiment/digits", "site=cluster", "site.max_workers=4", "resources.workers=5", "--dry-run"]
    assert run("launch", words) == 2
    assert "Ask for at most 4" in capsys.readouterr().err


@pytest.mark.parametrize("file", files(CONFIGS))
def test_configs_never_set_where_it_runs(file):
    content = load(file)
    groups = [str(entry) for entry in content.pop("defaults", []) if re.search(r"\bsite\b", str(entry))]
    assert groups == (["{'/site': 'local'}"] if file == CONFIGS / "core" / "base.yaml" else [])
    assert [key for key, _ in leaves(content) if key.split(".")[0] == "site"] == []
    assert not package(file).startswith("site")


@pytest.mark.parametrize("file", files(CONFIGS))
def test_configs_name_no_machine_and_no_private_path(file):
    content = load(file)
    content.pop("defaults", None)  # names of groups begin with a slash, too
    assert {key: value for key, value in leaves(content) if isinstance(value, str) and PLACE.search(value)} == {}


@pytest.mark.parametrize(
    "value",
    ["/data/x", "~/x", "s3://b/x", "file:/w.pt", "10.0.0.7", "node7:6379", "gpu.uni.dk:22", "http://localhost:5000"],
)
def test_the_guard_knows_a_place_when_it_sees_one(value):
    assert PLACE.search(value)


@pytest.mark.parametrize("value", ["asparagus.models.mlp.MLP", "32-true", "${model.features}", "run:1/best", "2D"])
def test_the_guard_lets_settings_pass(value):
    assert not PLACE.search(value)
