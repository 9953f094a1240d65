"""Whether a site can carry a training: what its nodes say of themselves, put side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asparagus.doctor.findings import Finding, Surroundings, bad, ok, warn
from asparagus.doctor.machine import judge_shared_memory
from asparagus.doctor.places import GB, judge_room
from asparagus.doctor.services import FORBIDDEN, judge_answers, tracking_at
from asparagus.errors import AsparagusError

if TYPE_CHECKING:
    from asparagus.spec import Paths, Site

Report = Mapping[str, Any]
WRITTEN = ("models", "results")
SKEW_S, FAR_S = 2.0, 60.0
"""From here on times in logs mislead; from there on, tokens and certificates fail."""
LOCAL = "local"
SAME = "Install the same there: pip install -c constraints.txt, or one image for all (launch/image/Dockerfile)."


def examine_site(site: Site, paths: Paths, around: Surroundings) -> Iterator[Finding]:
    """Ask every node of a site, and yield what would go wrong there.

    Args:
        site: Which.
        paths: The folders as its nodes see them.
        around: This machine.
    """
    yield _limits(site)
    uri = str(site.tracking_uri)
    yield dataclasses.replace(tracking_at(uri, around.env), what="tracking from here")
    from asparagus.driver.nodes import ask_nodes
    from asparagus.driver.probe import Probe
    from asparagus.secrets import without_passwords

    written = {name: getattr(paths, name) for name in WRITTEN if "://" not in getattr(paths, name)}
    read = {"data": paths.data} if "://" not in paths.data else {}
    question = {"written": written, "read": read, "tracking": without_passwords(uri)}
    here = Probe().look({"written": {}, "read": {}, "tracking": None, "nonce": ""})
    try:
        reports = _alone(question) if site.address == LOCAL else ask_nodes(site, question)
    except AsparagusError as error:
        yield bad("nodes", *_halves(str(error)))
        return
    yield from judge(site, reports, here)


def judge(site: Site, reports: Sequence[Report], here: Report) -> Iterator[Finding]:
    """Put side by side what the nodes said.

    Args:
        site: As its profile has it.
        reports: Of each node, as `ask_nodes` returns them.
        here: Of this machine.
    """
    silent = [report for report in reports if "problem" in report]
    for report in silent:
        do = "Look at its ray logs there (/tmp/ray/session_latest/logs); take it out, or mend it."
        yield bad("nodes", f"{report['address']} does not answer: {report['problem']}", do)
    nodes = [report for report in reports if "problem" not in report]
    if not nodes:
        yield bad("nodes", "no node answers", "Look at the cluster: ray status")
        return
    yield _how_many(site, nodes)
    for looked in (_versions(nodes, here), _storage(nodes), _data(nodes), _tracking(nodes, str(site.tracking_uri))):
        yield from looked
    for looked in (_clocks(nodes), _resources(site, nodes), _shared_memory(nodes), _disks(nodes)):
        yield from looked


def _alone(question: dict[str, Any]) -> list[Report]:
    """Ask this machine as if it were a cluster of one."""
    from asparagus.driver.probe import Probe

    probe, nonce = Probe(), "here"
    report = probe.look({**question, "nonce": nonce})
    folders = {name: folder for name, folder in question["written"].items() if not report["marks"][name]}
    unseen = probe.unseen(folders, [nonce])
    probe.clean(folders, nonce)
    has = {"CPU": report["cpus"], "GPU": len(report["gpus"]), "memory": report["memory"]}
    return [{**report, "address": "this machine", "resources": has, "unseen": unseen, "skew": 0.0}]


def _halves(text: str) -> tuple[str, str]:
    """Divide an error of ours into what is wrong and what to do."""
    found, _, do = text.partition(". ")
    return found, do or "docs/clusters.md"


def _limits(site: Site) -> Finding:
    known = {
        "at": site.jobs_address or site.address,
        "nodes": site.nodes,
        "CPUs per node": site.cpus_per_node,
        "GPUs per node": site.gpus_per_node,
        "memory per node": site.memory_per_node,
        "workers at most": site.max_workers,
        "hours at most": site.max_hours,
    }
    return ok("site", f"{site.name}: " + ", ".join(f"{name} {value}" for name, value in known.items() if value))


def _how_many(site: Site, nodes: list[Report]) -> Finding:
    names = ", ".join(_name(node) for node in nodes)
    if site.nodes is not None and len(nodes) < site.nodes:
        do = "Start the others, or say site.nodes as it is."
        return warn("nodes", f"{len(nodes)} of the {site.nodes} that the site has: {names}", do)
    return ok("nodes", f"{len(nodes)} answer: {names}")


def _name(node: Report) -> str:
    return f"{node['host']} ({node['address']})"


def _versions(nodes: list[Report], here: Report) -> Iterator[Finding]:
    wanted = {"python": here["python"], **here["packages"]}
    differ = False
    for node in nodes:
        has = {"python": node["python"], **node["packages"]}
        others = [
            f"{name} {has[name] or 'is missing'} ({wanted[name]} here)" for name in has if _differs(name, has, wanted)
        ]
        if others:
            differ = True
            yield bad("versions", f"{_name(node)} has {', '.join(others)}", SAME)
    if not differ:
        yield ok("versions", f"Python {here['python']} and {len(here['packages'])} packages, the same everywhere")


def _differs(name: str, has: Mapping[str, str | None], wanted: Mapping[str, str | None]) -> bool:
    if name != "torch" or not (has[name] and wanted[name]):
        return has[name] != wanted[name]
    return str(has[name]).partition("+")[0] != str(wanted[name]).partition("+")[0]  # +cpu here, +cu128 there


def _storage(nodes: list[Report]) -> Iterator[Finding]:
    for name in nodes[0]["marks"]:
        do = f"Mount the same file system on every node, and name it: site.{name} (or ASPARAGUS_{name.upper()})."
        problems = [f"{_name(node)} cannot write there: {node['marks'][name]}" for node in nodes if node["marks"][name]]
        problems += [
            f"{_name(node)} does not see what {', '.join(missing)} wrote there"
            for node in nodes
            if (missing := node.get("unseen", {}).get(name))
        ]
        for problem in problems:
            yield bad(f"site {name}", problem, do)
        if not problems:
            yield ok(f"site {name}", f"written by each of {len(nodes)} and seen by all")


def _data(nodes: list[Report]) -> Iterator[Finding]:
    if "data" not in nodes[0]["folders"]:
        return
    tasks = {task for node in nodes for task in node["folders"]["data"]["names"]}
    do = "Put the data on a file system that every node mounts, and name it: site.data (or ASPARAGUS_DATA)."
    lacking = False
    for node in nodes:
        seen = node["folders"]["data"]
        missing = sorted(tasks - set(seen["names"]))
        if missing or seen["problem"]:
            lacking = True
            yield bad(
                "site data",
                f"{_name(node)} does not see {', '.join(missing[:3]) or 'it'} {seen['problem']}".strip(),
                do,
            )
    if not lacking:
        yield ok("site data", f"{len(tasks)} tasks, seen by all") if tasks else warn("site data", "no tasks in it", do)


def _tracking(nodes: list[Report], uri: str) -> Iterator[Finding]:
    from asparagus.secrets import without_passwords

    uri = without_passwords(uri)
    closed = False
    for node in nodes:
        told = node["tracking"]
        if told["problem"]:
            closed = True
            do = "Runs are recorded from where the driver is: give an address that the nodes reach (site.tracking_uri)."
            yield bad("tracking", f"{_name(node)} does not reach {uri}: {told['problem']}", do)
        elif told["answer"] == str(FORBIDDEN):
            closed = True
            refused = judge_answers(uri, FORBIDDEN, FORBIDDEN)
            yield dataclasses.replace(refused, found=f"{_name(node)}: {refused.found}")
    if not closed:
        yield ok("tracking", f"{uri} is reached from every node")


def _clocks(nodes: list[Report]) -> Iterator[Finding]:
    do = "Set the clocks by a time server there (timedatectl set-ntp true)."
    for node in nodes:
        seconds = node["skew"]
        found = f"{_name(node)} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine"
        if abs(seconds) >= FAR_S:
            yield bad("clock", found, do)
        elif abs(seconds) >= SKEW_S:
            yield warn("clock", found, do)
    if all(abs(node["skew"]) < SKEW_S for node in nodes):
        yield ok("clock", f"all within {SKEW_S:g} s")


def _resources(site: Site, nodes: list[Report]) -> Iterator[Finding]:
    """Compare what the profile promises with what Ray has, and what Ray has with what the machine has."""
    promised = {"CPU": site.cpus_per_node, "GPU": site.gpus_per_node}
    for node in nodes:
        has = node["resources"]
        for kind, number in promised.items():
            if number and has.get(kind, 0) < number:
                found = f"{_name(node)} has {has.get(kind, 0):g} {kind} for Ray, and the profile says {number}"
                yield warn(f"{kind}s", found, f"Start its ray with more, or lower site.{kind.lower()}s_per_node.")
        if node["gpus"] and has.get("GPU", 0) < len(node["gpus"]):
            found = f"{_name(node)} has {len(node['gpus'])} GPUs, of which Ray knows {has.get('GPU', 0):g}"
            yield warn("GPUs", found, "Start its ray with --num-gpus, or see why it does not find them.")
        if wanted := _bytes(site):
            yield from _memory(node, wanted)
    total = {kind: sum(node["resources"].get(kind, 0) for node in nodes) for kind in promised}
    kinds = sorted({gpu.partition(",")[0] for node in nodes for gpu in node["gpus"]})
    yield ok("resources", f"{total['CPU']:g} CPUs, {total['GPU']:g} GPUs {'; '.join(kinds)}".strip())


def _bytes(site: Site) -> int:
    from asparagus.checkpoint.retention import bytes_of

    return bytes_of(site.memory_per_node) if site.memory_per_node else 0


def _memory(node: Report, wanted: int) -> Iterator[Finding]:
    if node["memory"] < wanted:
        found = f"{_name(node)} has {node['memory'] / GB:.0f} GB, and the profile says {wanted / GB:.0f} GB"
        yield warn("memory", found, "Lower site.memory_per_node, or ask for larger nodes.")


def _shared_memory(nodes: list[Report]) -> Iterator[Finding]:
    small = False
    for node in nodes:
        if node["shm"] is None:
            continue
        finding = judge_shared_memory(node["shm"]["free"] / GB, node["memory"] / GB)
        if finding.state != "ok":
            small = True
            yield dataclasses.replace(finding, what="shared memory", found=f"{_name(node)}: {finding.found}")
    if not small:
        yield ok("shared memory", f"at least {min((n['shm'] or {'free': 0})['free'] for n in nodes) / GB:.0f} GB free")


def _disks(nodes: list[Report]) -> Iterator[Finding]:
    for node in nodes:
        places = {"Ray's /tmp": (node["spill"] or {}).get("free")}
        places |= {name: folder["free"] for name, folder in node["folders"].items() if name in WRITTEN}
        for name, free in places.items():
            if free is not None and (finding := judge_room(name, free / GB)).state != "ok":
                do = f"Make room there{'' if name not in WRITTEN else f', or set site.{name} to a folder with more'}."
                yield dataclasses.replace(finding, what="disk", found=f"{_name(node)}, {name}: {finding.found}", do=do)
    free = [folder["free"] for node in nodes for folder in node["folders"].values() if folder["free"] is not None]
    yield ok("disk", f"at least {min(free) / GB:.0f} GB free in the folders" if free else "not looked at: URIs")
