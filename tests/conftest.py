"""A home of its own for every test, one Ray for those that need it, and no Ray for those that do not say so."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asparagus.data.digits import make_digits
from asparagus.data.split import make_split
from asparagus.optim import REGISTERED_OPTIMIZERS, REGISTERED_SCHEDULERS
from asparagus.registry import CALLBACKS, DATAMODULES, DATASETS, MODULES, NETWORKS, SCRIPTS
from tests.helpers import free_port, make_bucket, s3_server, wait_for_port
from tests.long_forms import LONG_FORMS, LONG_TABLES, ROWS_PER_SHORT_ROW

ASP = Path(sys.executable).parent
LONG = set(LONG_FORMS)
RAY_CPUS = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long forms as slow."""
    rows: Counter[str] = Counter()
    for item in items:
        table = item.nodeid.partition("[")[0]
        rows[table] += 1
        if {item.nodeid, table} & LONG or (table in LONG_TABLES and rows[table] % ROWS_PER_SHORT_ROW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _quiet_tools(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a token in the home of who runs the tests is none of their business
    for name in [name for name in os.environ if name.startswith(("ASPARAGUS_", "AWS_"))] + ["MLFLOW_TRACKING_URI"]:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _no_ray_unless_asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts Ray without the marker would make the fast tests slow for everyone."""
    if request.node.get_closest_marker("ray") or "ray" not in sys.modules:
        return

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("this test starts Ray: give it the marker `ray`")

    monkeypatch.setattr("ray.init", refuse)


@pytest.fixture(autouse=True)
def _registries_as_they_were() -> Iterator[None]:
    """What one test registers is not there for the next."""
    registries = (
        NETWORKS,
        MODULES,
        DATAMODULES,
        CALLBACKS,
        SCRIPTS,
        DATASETS,
        REGISTERED_OPTIMIZERS,
        REGISTERED_SCHEDULERS,
    )
    before, path = [dict(registry._entries) for registry in registries], list(sys.path)
    yield
    sys.path[:] = path  # a launch adds the folder that it is called from
    for registry, entries in zip(registries, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, split: made once, read by all."""
    root = tmp_path_factory.mktemp("data")
    make_digits(root)
    make_split(root, "Task001_Digits", "split_80_20")
    return root


@pytest.fixture
def home(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home with the digits in it; models and results are this test's own."""
    monkeypatch.setenv("ASPARAGUS_HOME", str(tmp_path))
    monkeypatch.setenv("ASPARAGUS_DATA", str(data_root))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asp(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run an installed command in the test's home, as a user would."""

    def run(*words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [str(ASP / words[0]), *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=home, check=False)

    return run


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Ray for all tests that share it, on ports of its own, so that others on the machine are left alone."""
    port = free_port()
    temp = tmp_path_factory.mktemp("ray")
    command = [str(ASP / "ray"), "start", "--head", "--block", f"--port={port}", f"--num-cpus={RAY_CPUS}"]
    # A socket's path may have 107 characters, and pytest's folders are long: Ray's temporary folder is the default one.
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    environment = {**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    with (temp / "ray.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        wait_for_port(port, timeout=60)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One S3 server for all tests that need one."""
    with s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, and the environment in which it is reached; its URI."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    make_bucket(s3_endpoint, name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    return f"s3://{name}"
