"""What a job brings: the composed specs or the configs of a sweep, the folders' fallbacks, the code's state, values."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from asparagus import __version__
from asparagus.compose import Request
from asparagus.compose.experiment import with_this_machine
from asparagus.errors import SubmitError
from asparagus.paths import FOLDERS, SQLITE, get_paths, get_tracking_uri, packaged
from asparagus.record.environment import SUBMITTED, Code
from asparagus.secrets import carry, references
from asparagus.spec import Site, Spec

FOLDER = SUBMITTED.parent
"""In the working directory of the job: what is ours there."""
JOB = "job.json"
CONFIGS = "configs"
CODE = "code"
TRACKING = "MLFLOW_TRACKING_URI"
HOME = "ASPARAGUS_HOME"
PLACES = (HOME, *(f"ASPARAGUS_{name.upper()}" for name in FOLDERS))
"""Variables that say where things are: the cluster's own win."""
STAYS = re.compile(r"(RAY|ASPARAGUS|CUDA)_\w+|(LD_LIBRARY_|PYTHON)?PATH|HOME|USER|SHELL|TMPDIR|VIRTUAL_ENV")
"""Variables of this machine, which would do harm on another."""
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
USED = re.compile(r"\$\{\s*(?:oc\.env|secret)\s*:\s*([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Stage:
    """A run that is asked for."""

    name: str
    source: str | None
    """The stage whose run it starts from."""
    spec: Spec


@dataclass(frozen=True)
class Errand:
    """All that a job is told. Plain values, which lie in its working directory: no secret is among them."""

    command: tuple[str, ...]
    """What was typed."""
    stages: tuple[Stage, ...] = ()
    """The runs, in turn; none for a sweep."""
    sweep: tuple[str, ...] = ()
    """The words of a sweep: its trials are composed there, from the configs that travel."""
    config_dirs: tuple[str, ...] = ()
    """Of a sweep: folders in the package."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where things are here: counts where the cluster says nothing."""
    site_env: Mapping[str, str] = field(default_factory=dict)
    """Where the site says that things are: counts before the cluster's own word."""
    home: str = ""
    """The working directory that files were named in."""
    sealed: str | None = None
    """Under which name the values wait that came another way."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def read(cls, folder: Path) -> Errand:
        """Read what lies in the working directory of a job."""
        values = json.loads((folder / JOB).read_text(encoding="utf-8"))
        stages = tuple(
            Stage(stage["name"], stage["source"], Spec.from_dict(stage["spec"])) for stage in values["stages"]
        )
        lists = {name: tuple(values[name]) for name in ("command", "sweep", "config_dirs")}
        return cls(**{**values, **lists, "stages": stages})


def versions(*, code_travels: bool) -> dict[str, str]:
    """Return what the cluster has to have in the same version."""
    known = {"python": ".".join(platform.python_version_tuple()[:2]), "ray": metadata.version("ray")}
    return known if code_travels else {**known, "asparagus": __version__}


def for_elsewhere(spec: Spec) -> Spec:
    """Return a spec without what is this machine's: the folders and the store, unless the experiment names them."""
    here = get_paths()
    own = {name: value for name, value in dataclasses.asdict(spec.paths).items() if value != getattr(here, name)}
    known = (get_tracking_uri(here), get_tracking_uri(spec.paths), f"${{secret:{TRACKING}}}")
    uri = None if spec.site.tracking_uri in known else spec.site.tracking_uri
    site = dataclasses.replace(spec.site, address="auto", tracking_uri=uri)
    nowhere: dict[str, Any] = dict.fromkeys(FOLDERS, "")
    blank = dataclasses.replace(here, **nowhere)
    return dataclasses.replace(spec, site=site, paths=dataclasses.replace(blank, **own))


def settled(spec: Spec, home: str) -> Spec:
    """Return a spec that came from elsewhere as it is meant here: with the folders and the store of this environment.

    Args:
        spec: As it came.
        home: The working directory over there: what lay in it lies in ours.
    """
    here = get_paths()
    own = {name: value for name, value in dataclasses.asdict(spec.paths).items() if value}
    moved = Spec.from_dict(_moved(spec.to_dict(), home, str(Path.cwd())))
    ours = dataclasses.replace(moved, paths=dataclasses.replace(here, **own))
    return dataclasses.replace(ours, site=with_this_machine(ours))


def settle(errand: Errand) -> None:
    """Let this environment say where things are: the site first, then the cluster, then who submitted."""
    os.environ.update(errand.site_env)
    theirs = dict(errand.places)
    uri = theirs.pop(TRACKING, None)
    if not any(name in os.environ for name in PLACES):
        os.environ.update(theirs)
    if uri is not None:
        os.environ.setdefault(TRACKING, uri)
    os.environ.pop("ASPARAGUS_CONFIGS", None)  # what was composed there is not to meet other files here


def of_site(site: Site) -> dict[str, str]:
    """Return what a site says of where things are."""
    said = {name: value for name, value in site.env.items() if name in {*PLACES, TRACKING}}
    return {name: value for name, value in said.items() if not any(references(value))}


def places() -> dict[str, str]:
    """Return where this environment says that things are, as far as another machine could see them too."""
    said = {name: os.environ[name] for name in PLACES if os.environ.get(name)}
    uri = os.environ.get(TRACKING, "")
    # One with a password in it travels with the values instead.
    return {**said, TRACKING: uri} if _is_server(uri) and "@" not in uri else said


def values_for(specs: Iterable[Spec], texts: Iterable[str], folder: Path) -> dict[str, str]:
    """Return the environment variables that travel: those of `.env`, and those that the request refers to.

    Args:
        specs: The runs.
        texts: Configs that are composed there.
        folder: Where `.env` is looked for, and above.
    """
    names = {name for spec in specs for name in references(spec.to_dict())}
    names |= {name for text in texts for name in USED.findall(text)}
    uri = os.environ.get(TRACKING, "")
    names |= (
        {*CREDENTIALS, TRACKING} if _is_server(uri) and "@" in uri else {*CREDENTIALS} if _is_server(uri) else set()
    )
    names |= set(_written(folder))
    kept = {name for name in names if not STAYS.fullmatch(name) and (name != TRACKING or "@" in uri)}
    return {name: os.environ[name] for name in sorted(kept) if name in os.environ}


def own_configs(folders: Iterable[Path]) -> list[Path]:
    """Return the config folders that do not come with asparagus."""
    shipped = {packaged("configs"), packaged("launch")}
    return [folder for folder in dict.fromkeys(folders) if folder not in shipped]


def files_of_configs(folders: Iterable[Path]) -> dict[str, bytes]:
    """Return the YAML files of config folders as they lie in the package."""
    found = {}
    for number, folder in enumerate(folders):
        for file in sorted(folder.rglob("*.yaml")):
            if file.is_file():
                found[f"{FOLDER}/{CONFIGS}/{number}/{file.relative_to(folder)}"] = file.read_bytes()
    return found


def files_of_code() -> dict[str, bytes]:
    """Return asparagus itself, as an installed one lies: for a cluster that has none."""
    package = Path(__file__).parents[1]
    found = {f"asparagus/{file.relative_to(package)}": file for file in package.rglob("*") if _is_source(file)}
    for name in ("configs", "launch"):
        folder = packaged(name)
        found |= {
            f"asparagus/{name}/{file.relative_to(folder)}": file for file in folder.rglob("*") if _is_source(file)
        }
    return {f"{FOLDER}/{CODE}/{name}": file.read_bytes() for name, file in sorted(found.items())}


def files_of(errand: Errand, code: Code) -> dict[str, bytes]:
    """Return what every job brings beside its working directory."""
    start = Path(__file__).with_name("start.py").read_bytes()
    return {
        f"{FOLDER}/{JOB}": errand.to_json().encode(),
        f"{FOLDER}/start.py": start,
        str(SUBMITTED): json.dumps(dataclasses.asdict(code)).encode(),
    }


def unseal(name: str | None) -> None:
    """Take the values that wait for this job, and leave nothing behind.

    Raises:
        SubmitError: They are gone: they wait for ten minutes.
    """
    if name is None:
        return
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # not in its stubs

    store = GcsClient(address=os.environ["RAY_ADDRESS"])
    key = _key(name)
    found = store.internal_kv_get(key, namespace=None)
    if found is None:
        raise SubmitError(
            "the values of .env and the secrets are gone: they wait ten minutes for their job, and this one began "
            "later, or began twice. Submit it again."
        )
    store.internal_kv_del(key, del_by_prefix=False, namespace=None)
    carry(json.loads(found))


def sealed_name() -> str:
    """Return a name that nobody can guess, of the kind that Ray's dashboard takes."""
    return f"_ray_pkg_{secrets.token_hex(20)}.zip"


def _key(name: str) -> bytes:
    return f"gcs://{name}".encode()


def _is_server(uri: str) -> bool:
    return "://" in uri and not uri.startswith((SQLITE, "file:"))


def _is_source(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts


def _written(folder: Path) -> Iterable[str]:
    """Return the names in the nearest `.env`."""
    for place in [folder.absolute(), *folder.absolute().parents]:
        if (place / ".env").is_file():
            from dotenv import dotenv_values

            return list(dotenv_values(place / ".env"))
    return []


def _moved(node: Any, old: str, new: str) -> Any:
    """Return the same values, where a file that came from one folder is named in another."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    if isinstance(node, str) and old and (node == old or node.startswith(f"{old}/")):
        there = new + node.removeprefix(old)
        return there if Path(there).exists() else node  # it did not travel: both may see it where it is
    return node


def request_of(errand: Errand, folder: Path) -> Request:
    """Return the request of a sweep, as it is meant in the working directory of the job.

    Args:
        errand: What the job was told.
        folder: Where what is ours lies.
    """
    config, *overrides = errand.sweep
    dirs = [folder / name for name in errand.config_dirs]
    named = next((place / config for place in dirs if config.endswith(".yaml") and (place / config).is_file()), None)
    return Request(str(named or config), tuple(overrides), tuple(dirs))
