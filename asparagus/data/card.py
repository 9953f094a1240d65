"""The card of a task: what is in it, in numbers (`card.json`) and on one page that needs nothing else (`card.html`)."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asparagus.data.datasets import properties_beside, read_content
from asparagus.data.files import properties_file, read_json, replacing, write_json
from asparagus.data.layout import CARD_FILE, CARD_PAGE, Task, known_splits, read_paths, read_task

THUMBNAILS = 8
SIDE = 160
COLOURS = ((230, 80, 60), (60, 160, 240), (90, 200, 90), (240, 200, 60), (180, 100, 220))
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:.3rem}"
    "figcaption{font-size:12px;color:#666;max-width:160px;overflow-wrap:anywhere}img{width:160px;image-rendering:pixelated}"
    ".bar{background:#4a8;height:.7rem}code{overflow-wrap:anywhere}"
)

Numbers = dict[str, Any]


def write_card(data_root: Path, name: str, failures: Sequence[tuple[str, str]] | None = None) -> Path:
    """Write a task's card and return its page.

    Args:
        data_root: Where the task's folder is.
        name: Of the task.
        failures: Sources that could not be converted, and why; None: those that the card there is tells of.

    Raises:
        DataError: There is no such task, or a case to be shown cannot be read.
    """
    task = read_task(data_root, name)
    cases = [case for case in read_paths(task) if case.is_file()]
    failed = _told(task) if failures is None else [list(failure) for failure in failures]
    numbers = {**numbers_of(task, cases), "failed": failed}
    write_json(task.folder / CARD_FILE, numbers)
    with replacing(task.folder / CARD_PAGE) as writing:
        writing.write_text(
            _page(task, numbers, cases[:: max(1, len(cases) // THUMBNAILS)][:THUMBNAILS]), encoding="utf-8"
        )
    return task.folder / CARD_PAGE


def _told(task: Task) -> list[list[str]]:
    """Return the failures that the card there is tells of."""
    file = task.folder / CARD_FILE
    failed: list[list[str]] = read_json(file).get("failed", []) if file.is_file() else []
    return failed


def numbers_of(task: Task, cases: Sequence[Path]) -> Numbers:
    """Return what the properties beside the cases say of all of them; what has none is counted alone."""
    about = [properties_beside(case) for case in cases]
    of_axis = {name: _range([found[name] for found in about if name in found]) for name in ("shape", "spacing")}
    return {
        "name": task.name,
        "cases": len(cases),
        "bytes": sum(case.stat().st_size for case in cases),
        "n_classes": task.n_classes,
        "n_modalities": task.n_modalities,
        "class_names": task.class_names,
        **of_axis,
        "orientations": dict(Counter(str(found.get("original_orientation")) for found in about)),
        "intensities": _intensities([found["intensities"] for found in about if "intensities" in found]),
        "classes": _classes(about, task),
        "labels": _labels(about),
        "splits": known_splits(task),
    }


def _range(values: list[list[float]]) -> Numbers | None:
    """Return the least, the middle and the greatest, axis by axis; None where axes differ in number."""
    if not values or len({len(value) for value in values}) > 1:
        return None
    table = np.asarray(values, float)
    found = {"min": table.min(0), "median": np.median(table, 0), "max": table.max(0)}
    return {name: [round(float(value), 6) for value in along] for name, along in found.items()}


def _intensities(of_cases: list[list[Mapping[str, float]]]) -> list[Numbers]:
    """Return each channel's numbers over the dataset, under the names that `Preprocessing.intensities` takes.

    Every case weighs the same. Mean and deviation are those of all values; the percentiles are the cases' median.
    """
    channels = min((len(case) for case in of_cases), default=0)
    return [_pooled([case[channel] for case in of_cases]) for channel in range(channels)]


def _pooled(cases: list[Mapping[str, float]]) -> Numbers:
    of = {name: np.array([case[name] for case in cases]) for name in cases[0]}
    mean = of["mean"].mean()
    return {
        "min": float(of["min"].min()),
        "max": float(of["max"].max()),
        "mean": float(mean),
        "std": float(np.sqrt((of["std"] ** 2 + (of["mean"] - mean) ** 2).mean())),
        "percentile_00_5": float(np.median(of["percentile_00_5"])),
        "percentile_99_5": float(np.median(of["percentile_99_5"])),
    }


def _classes(about: list[Numbers], task: Task) -> list[Numbers]:
    """Return for each class of a segmentation its share of the voxels and the cases that have it."""
    voxels = [found["voxels"] for found in about if "voxels" in found]
    total = sum(sum(case.values()) for case in voxels) or 1
    return [
        {
            "class": value,
            "name": task.class_names[value] if task.class_names else str(value),
            "cases": sum(str(value) in case for case in voxels),
            "voxels": sum(case.get(str(value), 0) for case in voxels) / total,
        }
        for value in range(task.n_classes if voxels else 0)
    ]


def _labels(about: list[Numbers]) -> Numbers | None:
    """Return how often each class occurs, or the range of what is regressed on."""
    labels = [found["label"] for found in about if "label" in found]
    if not labels:
        return None
    if all(isinstance(label, int) for label in labels):
        return {str(value): times for value, times in sorted(Counter(labels).items())}
    values = np.array([np.ravel(label)[0] for label in labels], float)
    return {"min": values.min(), "mean": values.mean(), "max": values.max(), "std": values.std()}


def _page(task: Task, numbers: Numbers, shown: Iterable[Path]) -> str:
    parts = [
        f"<h1>{html.escape(task.name)}</h1>",
        f"<p>{_summary(numbers)}</p>",
        f"<h2>Shapes and spacings</h2>{_table(('', 'min', 'median', 'max'), _rows(numbers))}",
        _of_intensities(numbers["intensities"]),
        _of_classes(numbers),
        _of_failures(numbers["failed"]),
        "<h2>Cases</h2>" + "".join(_figure(case) for case in shown),
    ]
    title = html.escape(task.name)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _summary(numbers: Numbers) -> str:
    size, splits = numbers["bytes"] / 1e6, ", ".join(numbers["splits"]) or "none"
    counts = f"{numbers['n_modalities']} channels, {numbers['n_classes']} classes"
    return html.escape(f"{numbers['cases']} cases, {size:.1f} MB, {counts}. Splits: {splits}.")


def _rows(numbers: Numbers) -> list[list[Any]]:
    names = {"shape": "voxels", "spacing": "mm per voxel"}
    return [
        [title, _axes(found["min"]), _axes(found["median"]), _axes(found["max"])]
        for name, title in names.items()
        if (found := numbers[name])
    ]


def _axes(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _of_intensities(channels: list[Numbers]) -> str:
    if not channels:
        return ""
    names = ("min", "percentile_00_5", "mean", "std", "percentile_99_5", "max")
    rows = [[f"channel {i}", *(f"{channel[name]:.4g}" for name in names)] for i, channel in enumerate(channels)]
    return f"<h2>Intensities</h2>{_table(('', *names), rows)}"


def _of_classes(numbers: Numbers) -> str:
    if classes := numbers["classes"]:
        rows = [[one["name"], one["cases"], f"{one['voxels']:.3%}", _Bar(one["voxels"])] for one in classes]
        return f"<h2>Classes</h2>{_table(('class', 'cases', 'voxels', ''), rows)}"
    if labels := numbers["labels"]:
        whole = sum(labels.values()) if "mean" not in labels else 0
        rows = [[name, f"{value:.4g}", _Bar(value / whole if whole else 0)] for name, value in labels.items()]
        return f"<h2>Labels</h2>{_table(('', '', ''), rows)}"
    return ""


def _of_failures(failed: list[list[str]]) -> str:
    return f"<h2>Not converted</h2>{_table(('source', 'reason'), failed)}" if failed else ""


class _Bar(float):
    """A share, drawn."""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{lines}</table>"


def _cell(cell: Any) -> str:
    if isinstance(cell, _Bar):
        return f'<div class="bar" style="width:{120 * cell:.0f}px"></div>'
    return html.escape(str(cell))


def _figure(case: Path) -> str:
    content = read_content(case)
    pair = content if isinstance(content, list | tuple) else None
    array = np.asarray(pair[0] if pair else content)
    has_mask = pair is None and "voxels" in properties_beside(case)
    picture = _picture(array[0], array[-1] if has_mask else None)
    note = f": {np.ravel(pair[1])[0]:.4g}" if pair else ""
    name = html.escape(properties_file(case).stem + note)
    return f'<figure><img src="data:image/png;base64,{picture}" alt="{name}"><figcaption>{name}</figcaption></figure>'


def _picture(channel: Any, mask: Any) -> str:
    """Return the slice with the most label, or the middle one, as a PNG in base64; classes are tinted."""
    if channel.ndim > 2:  # noqa: PLR2004 - a volume
        at = channel.shape[-1] // 2 if mask is None else int((mask > 0).sum((0, 1)).argmax())
        channel, mask = channel[..., at], None if mask is None else mask[..., at]
    low, high = np.percentile(channel, (1, 99))
    grey = np.clip((channel - low) / max(high - low, 1e-9), 0, 1) * 255
    colour = np.repeat(grey[..., None], 3, axis=-1)
    for value in [] if mask is None else np.unique(mask[mask > 0]):
        tint = np.array(COLOURS[(int(value) - 1) % len(COLOURS)])
        colour[mask == value] = 0.5 * colour[mask == value] + 0.5 * tint
    stream = io.BytesIO()
    upright = np.ascontiguousarray(np.rot90(colour.astype(np.uint8)))
    picture = Image.fromarray(upright)
    picture.thumbnail((SIDE, SIDE))
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
