"""How fast patches of volumes come: ours, and a plain MONAI CacheDataset loop; crops of Zarr volumes are `crops`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from asparagus.data.layout import read_split, read_task
from asparagus.data.modules import CaseDataModule
from asparagus.data.split import make_split
from asparagus.data.synthetic import make_synthetic
from benchmarks.commands import Asked
from benchmarks.figures import Measured, Row

TASK = "Task997_LauritSynSeg"
TURNS = 5
CASES, SIZE, PATCH, BATCH, PROCESSES = 50, 128, 64, 2, 2
"""40 of the 50 cases are trained on: 670 MB of float32, image and label."""
FEW_CASES = 10
EPOCHS = 3
STEP_S = 0.08
"""How long a training step takes in which stalls are counted: 25 patches a second."""
PLAIN, TUNED, OURS, SAME = (
    "MONAI's CacheDataset as its guide has it",
    "the same, tuned (no copies of what is cached, no metadata)",
    "Asparagus, its own mirror and jitter",
    "Asparagus, MONAI's transforms as in the other two",
)
Loader = Iterable[Any]


def augmentations() -> list[Any]:
    """Return what our own mirror and jitter do, as transforms of MONAI's."""
    from monai import transforms as of

    both = ["image", "label"]
    flips = [of.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)]
    scale, shift = (
        of.RandScaleIntensityd("image", factors=0.1, prob=1.0),
        of.RandShiftIntensityd("image", 0.1, prob=1.0),
    )
    return [*flips, scale, shift, of.RandGaussianNoised("image", std=0.1, prob=1.0)]


def read(file: str) -> dict[str, torch.Tensor]:
    volume = torch.load(file, weights_only=True)
    return {"image": volume[:1], "label": volume[1:]}


@contextmanager
def plain(root: Path, **options: Any) -> Iterator[Loader]:
    """Yield the loop of MONAI's fast training guide: all cases in memory, foreground found once."""
    from monai import data
    from monai import transforms as of

    files = [str(file) for file in read_split(read_task(root, TASK), "split_80_20", 0)["train"]]
    indices = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
    crop = of.RandCropByPosNegLabeld(
        ["image", "label"], label_key="label", spatial_size=[PATCH] * 3, pos=1, neg=2, num_samples=1, **indices
    )
    kept = of.SelectItemsd(["image", "label"])
    classes = of.CastToTyped("label", dtype=torch.int64)  # what a loss takes, as in ours
    steps = [of.Lambda(read), of.FgBgToIndicesd("label"), crop, kept, *augmentations(), classes]
    cached = data.CacheDataset(files, of.Compose(steps), cache_rate=1.0, num_workers=2, progress=False, **options)
    yield data.DataLoader(cached, batch_size=BATCH, shuffle=True, num_workers=PROCESSES, persistent_workers=True)


@contextmanager
def tuned(root: Path) -> Iterator[Loader]:
    from monai.data import set_track_meta

    set_track_meta(False)
    try:
        with plain(root, copy_cache=False) as loader:
            yield loader
    finally:
        set_track_meta(True)


def ours(own: Callable[[], list[Any]]) -> Callable[[Path], Any]:
    @contextmanager
    def loaded(root: Path) -> Iterator[Loader]:
        options: dict[str, Any] = {"batch_size": BATCH, "patch_size": [PATCH] * 3, "num_workers": PROCESSES}
        module = CaseDataModule(str(root), TASK, "seg", augmentations=own(), **options)
        module.setup("fit")
        yield module.train_dataloader()

    return loaded


WAYS: dict[str, Callable[[Path], Any]] = {PLAIN: plain, TUNED: tuned, OURS: ours(list), SAME: ours(augmentations)}


def passed(loader: Loader, step: float) -> tuple[int, float, float]:
    """Take all batches of some epochs; returns how many items, the seconds, and those spent waiting."""
    items, waited, begun = 0, 0.0, time.perf_counter()
    for _ in range(EPOCHS):
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            items += len(next(iter(batch.values())))
            time.sleep(step)
    return items, time.perf_counter() - begun, waited


def memory() -> float:
    """Return the bytes of this process and its children that are no file's; what they share is counted once."""
    each = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(area.pss for one in each for area in one.memory_maps() if not area.path.endswith(".pt"))


def cpu_s() -> float:
    """Return the CPU time that this process and its children have taken, however busy the machine is besides."""
    each = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (one.cpu_times() for one in each))


def passes(way: str, root: Path) -> dict[str, float]:
    """Return patches per second, their CPU time, the share spent waiting, the time to the first batch, and memory."""
    before, begun = memory(), time.perf_counter()
    with WAYS[way](root) as loader:
        next(iter(loader))
        first = time.perf_counter() - begun
        passed(loader, 0.0)  # every process has seen every case
        taken = cpu_s()
        items, seconds, _ = passed(loader, 0.0)
        taken = cpu_s() - taken
        _, whole, waited = passed(loader, STEP_S)
        return {
            "items": items / seconds,
            "cpu": taken / items,
            "stall": waited / whole,
            "first": first,
            "memory": (memory() - before) / 1e9,
        }


def measure(asked: Asked) -> Measured:
    """Load the same volumes by every way, in turns."""
    turns, cases = asked.turns(TURNS), FEW_CASES if asked.quick else CASES
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_synthetic(TASK, root, cases=cases, size=SIZE)
        make_split(root, TASK, "split_80_20")
        for turn in range(turns):
            for way in WAYS:
                found[way].append(now := passes(way, root))
                shown = f"{now['items']:6.1f} a second, {now['stall']:.0%} waiting, first after {now['first']:.1f} s"
                print(f"{turn + 1}/{turns}  {way:<52} {shown}, {now['memory']:.2f} GB", flush=True)
    about = (
        f"{cases * 4 // 5} volumes of {SIZE}^3 voxels (image and label, float32), patches of {PATCH}^3, a third around "
        f"foreground, mirrored, contrast, brightness and noise; batches of {BATCH} from {PROCESSES} loader processes. "
        f"Stall share: of a training whose steps take {STEP_S * 1000:.0f} ms. Medians of {turns} turns. "
        "Memory: of all processes together, without mapped files."
    )
    return Measured(about, tuple(row(way, runs, found[TUNED]) for way, runs in found.items()))


def row(way: str, runs: list[dict[str, float]], tuned_runs: list[dict[str, float]]) -> Row:
    """Return the medians of one way, and of its ratios to MONAI's, tuned, in the same turn."""
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    also = {
        "CPU of a patch": f"{middle['cpu'] * 1000:.1f} ms",
        "stall share": f"{middle['stall']:.1%}",
        "first batch": f"{middle['first']:.1f} s",
        "memory": f"{middle['memory']:.2f} GB",
    }
    if way == TUNED:
        return Row(way, middle["items"], "patches per second", also=also)
    ratios = [run["items"] / other["items"] for run, other in zip(runs, tuned_runs, strict=True)]
    cheaper = statistics.median(other["cpu"] / run["cpu"] for run, other in zip(runs, tuned_runs, strict=True))
    also = {"smallest, largest": f"{min(ratios):.2f}, {max(ratios):.2f}", "by CPU time": f"{cheaper:.2f}x", **also}
    goal = "patches" if way in (OURS, SAME) else ""
    return Row(way, middle["items"], "patches per second", TUNED, statistics.median(ratios), goal, also)
