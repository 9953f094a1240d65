"""What makes clusters: Ray, Kubernetes and a shell accept it, and it opens nothing to whoever has no token."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
UP = ROOT / "launch" / "up"
CLUSTERS = [ROOT / "cluster.yaml", UP / "aws.yaml", UP / "gcp.yaml"]
MANIFESTS = sorted((UP / "kuberay").glob("*.yaml"))
SCRIPTS = [UP / "slurm.sbatch", ROOT / ".ci" / "run", *sorted((ROOT / "tests" / "slurm").iterdir())]
KUBERNETES = "1.37"
EVERYWHERE = re.compile(r"0\.0\.0\.0|\[?::\]?(?=[\s'\"]|$)|--(?:dashboard-)?host[= ]\*")
"""Addresses that listen on all networks."""


def named(paths: list[Path]) -> list[Any]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def cluster_spec(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return the RayClusterSpec of a manifest, where it has one."""
    spec = document.get("spec", {})
    return {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec")}.get(document["kind"])


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def exposures(text: str) -> Iterator[str]:
    """Yield what a script, or a cluster.yaml, opens without a token: heads of Ray, and addresses on all networks."""
    exported = re.search(r"^\s*export\b.*\bRAY_AUTH_MODE=token\b", text, re.MULTILINE)
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        command = line.split("#")[0]
        if re.search(r"\bray start\b", command) and not (exported or "RAY_AUTH_MODE=token" in command):
            yield f"no token: {line.strip()}"
        if EVERYWHERE.search(command):
            yield f"on all networks: {line.strip()}"
        if re.search(r"RAY_AUTH_MODE=(?!token)", command):
            yield f"token off: {line.strip()}"


def exposures_of(spec: dict[str, Any]) -> Iterator[str]:
    """Yield what a RayCluster opens to whoever has no token, or to outside of its Kubernetes cluster."""
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token"
    head = spec["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP":
        yield "serviceType is not ClusterIP"
    if head.get("enableIngress"):
        yield "enableIngress"
    for group in groups(spec):
        pod = group["template"]["spec"]
        if pod.get("hostNetwork"):
            yield "hostNetwork"
        if any("hostPort" in port for container in pod["containers"] for port in container.get("ports", [])):
            yield "hostPort"


# ray up


@pytest.mark.parametrize("file", named(CLUSTERS))
def test_ray_up_accepts_it(file):
    validate_config(prepare_config(yaml.safe_load(file.read_text())))


@pytest.mark.parametrize("key", ["setup_comands", "head_start_commands"])
def test_rays_own_check_would_find_a_typo(key):
    wrong = {**yaml.safe_load((UP / "aws.yaml").read_text()), key: ["true"]}
    with pytest.raises(jsonschema.ValidationError, match=key):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize("file", named(CLUSTERS))
def test_every_machine_gets_the_token_and_the_versions_that_are_tested(file):
    config = yaml.safe_load(file.read_text())
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("-c asparagus/constraints.txt" in command for command in config["setup_commands"])
    for kind in ("head", "worker"):
        starts = [command for command in config[f"{kind}_start_ray_commands"] if " start " in command]
        assert all("RAY_AUTH_MODE=token" in command for command in starts)
        assert starts


# Nothing is open


@pytest.mark.parametrize("file", named([*CLUSTERS, *sorted(UP.glob("*.sbatch")), ROOT / "launch/image/Dockerfile"]))
def test_no_script_opens_an_endpoint_without_a_token(file):
    assert list(exposures(file.read_text())) == []


def test_every_script_that_we_ship_is_looked_at():
    shipped = {path for path in [ROOT / "cluster.yaml", *(ROOT / "launch").rglob("*")] if path.is_file()}
    starting = {path for path in shipped if path.suffix != ".md" and "ray start" in path.read_text()}
    assert starting <= {*CLUSTERS, *UP.glob("*.sbatch"), *MANIFESTS, *(ROOT / "launch" / "site").iterdir()}


@pytest.mark.parametrize(
    "line",
    [
        "ray start --head --port=6379",
        "ray start --address=$HEAD:6379",
        "RAY_AUTH_MODE=token ray start --head --dashboard-host=0.0.0.0",
        "RAY_AUTH_MODE=token ray start --head --dashboard-host=::",
        "export RAY_AUTH_MODE=disabled",
        "mlflow server --host 0.0.0.0",
    ],
)
def test_the_guard_knows_an_open_door_when_it_sees_one(line):
    assert list(exposures(line))


@pytest.mark.parametrize("file", named([path for path in MANIFESTS if path.name != "storage.yaml"]))
def test_no_manifest_opens_an_endpoint_without_a_token(file):
    assert [exposure for document in documents(file) for exposure in exposures_of(cluster_spec(document) or {})] == []


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("authOptions", {"mode": "disabled"}, "authOptions"),
        ("authOptions", None, "authOptions"),
        ("headGroupSpec.serviceType", "LoadBalancer", "serviceType"),
        ("headGroupSpec.serviceType", None, "serviceType"),
        ("headGroupSpec.enableIngress", True, "enableIngress"),
        ("headGroupSpec.template.spec.hostNetwork", True, "hostNetwork"),
    ],
)
def test_the_guard_knows_an_open_manifest_when_it_sees_one(place, value, told):
    spec = copy.deepcopy(cluster_spec(documents(UP / "kuberay" / "raycluster.yaml")[0]))
    assert spec
    *above, key = place.split(".")
    node = spec
    for name in above:
        node = node[name]
    if value is None:
        del node[key]
    else:
        node[key] = value
    assert [exposure for exposure in exposures_of(spec) if told in exposure]


# Kubernetes

TEMPLATE = {"type": "object", "required": ["spec"]}
GROUP = {
    "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": TEMPLATE,
    "enableIngress": {"type": "boolean"},
}
COUNT = {"type": "integer", "minimum": 0}
WORKER = {"groupName": {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"}, "rayStartParams": GROUP["rayStartParams"]}
WORKER |= {"template": TEMPLATE, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


RAY_CLUSTER = closed(
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": closed({"mode": {"enum": ["token", "disabled"]}, "secretName": {"type": "string"}}, "mode"),
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": closed({"idleTimeoutSeconds": COUNT, "upscalingMode": {"type": "string"}}),
        "headGroupSpec": closed(GROUP, "template", "rayStartParams"),
        "workerGroupSpecs": {"type": "array", "items": closed(WORKER, "groupName", "template", "rayStartParams")},
    },
    "rayVersion",
    "headGroupSpec",
    "workerGroupSpecs",
)
RAY_JOB = closed(
    {
        "entrypoint": {"type": "string"},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": COUNT,
        "backoffLimit": COUNT,
        "rayClusterSpec": RAY_CLUSTER,
    },
    "entrypoint",
    "rayClusterSpec",
)
OURS = {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB}
"""The fields of ray.io/v1 that we use, as the operator's reference (1.6) has them."""


@pytest.mark.parametrize("file", named(MANIFESTS))
def test_kubernetes_accepts_every_manifest_and_every_pod_in_it(file):
    for document in documents(file):
        if document["kind"] not in OURS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
            continue
        assert document["apiVersion"] == "ray.io/v1"
        jsonschema.validate(document["spec"], OURS[document["kind"]])
        for group in groups(cluster_spec(document) or {}):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_typo_in_a_pod_would_be_found():
    spec = cluster_spec(documents(UP / "kuberay" / "raycluster.yaml")[0])
    assert spec
    template = copy.deepcopy(spec["headGroupSpec"]["template"])
    template["spec"]["containers"][0]["volumeMount"] = []
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("file", named([path for path in MANIFESTS if path.name != "storage.yaml"]))
def test_pods_are_nobody_and_have_the_volume_and_shared_memory(file):
    for group in groups(cluster_spec(documents(file)[0]) or {}):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts == {"/mnt/asparagus", "/dev/shm"}


def test_the_manifests_run_the_ray_and_the_folders_that_the_site_names():
    import ray

    site = yaml.safe_load((ROOT / "launch" / "site" / "kuberay.yaml").read_text())
    assert {Path(site[name]).parent for name in ("data", "models", "results")} == {Path("/mnt/asparagus")}
    for file in ("raycluster.yaml", "rayjob.yaml"):
        spec = cluster_spec(documents(UP / "kuberay" / file)[0])
        assert spec
        assert spec["rayVersion"] == ray.__version__
    job = documents(UP / "kuberay" / "rayjob.yaml")[0]["spec"]
    assert "site=kuberay" in job["entrypoint"]
    assert spec == cluster_spec(documents(UP / "kuberay" / "raycluster.yaml")[0]), "the two have the same cluster"


# The image, the scripts


def test_the_image_has_the_tested_versions_and_runs_as_nobody():
    lines = [line for line in (ROOT / "launch" / "image" / "Dockerfile").read_text().splitlines() if line[:1].isupper()]
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    installs = [line for line in lines if "pip install" in line]
    assert all("-c /opt/asparagus/constraints.txt" in line for line in installs)
    copied = {line.split()[-2].split("/")[0] for line in lines if line.startswith("COPY")}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied - {"pyproject.toml"} <= allowed
    assert not any(line.startswith(("EXPOSE", "ADD")) for line in lines)


@pytest.mark.parametrize("file", named(SCRIPTS))
def test_shellcheck_finds_nothing(file):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(shellcheck), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
