"""Figures of what a stage shows: pure functions from plain values to matplotlib's figures, which look for no display.

Colours are Okabe and Ito's, which people with any colour vision tell apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from asparagus.stages.shown import Masks, Restored, Segmented

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
Drawn = Iterator[tuple[str, "Figure"]]
"""Figures by name, one at a time: each is large."""
Samples = Sequence[Segmented | Masks] | Sequence[Restored]

TRUTH, PREDICTED, FRAME = "#0072B2", "#E69F00", "#FF0000"
MISSED, TOO_MUCH, RIGHT = "#56B4E9", "#D55E00", "#009E73"
SEGMENTED = ("image", "raw", "truth", "prediction", "error")
RESTORED = ("image", "masked input", "reconstruction", "error")
MOST_CLASSES = 12
"""So many classes of a segmentation have a figure each; more are not looked at."""
MOST_NUMBERS = 9
"""So many numbers of a regression have a field each."""
MOST_POINTS = 5000
MOST_COUNTS = 25
"""A confusion matrix of so many classes has room for its counts."""
MOST_LABELS = 50
CELL, MOST_SIDE, LETTER = 0.36, 12.0, 0.06
"""Inches: of a confusion matrix's cell, its side, and a letter beside it."""
LONGEST = 30
"""Characters of a case's name that fit beside its row."""
PANEL = 1.9
"""Inches."""
MARGIN = {"left": 0.35, "right": 0.1, "top": 0.75, "bottom": 0.45}
"""Inches around the panels."""
GAP = 0.06
FACTOR_LEAST, FACTOR_MOST = 0.5, 1.6
"""How flat and how tall a row may be, in its width."""
PERCENTILES = (1, 99)
"""What of an image's values is told apart: one bright voxel must not darken the rest."""
ODD = re.compile(r"[^\w.+=-]+")


def of_samples(samples: Samples, names: Sequence[str], when: str) -> Drawn:
    """Yield a figure for each foreground class of a segmentation, or one of a reconstruction; one row for each case.

    Args:
        samples: The cases.
        names: Of the classes, the background first where there is one.
        when: Which moment of the training it is, for the titles.
    """
    segmented = [sample for sample in samples if isinstance(sample, (Segmented, Masks))]
    restored = [sample for sample in samples if isinstance(sample, Restored)]
    if segmented:
        first = segmented[0].first
        for number, name in list(enumerate(names))[first : first + MOST_CLASSES]:
            yield name, segmentation(segmented, number, f"{name}: {when}")
    if restored:
        yield "reconstruction", reconstruction(restored, f"reconstruction: {when}")


def of_answers(predicted: Sequence[Any], truth: Sequence[Any], names: Sequence[str], when: str) -> Drawn:
    """Yield what a figure can say of all cases: a confusion matrix of classes, or numbers against the true ones.

    Args:
        predicted: One for each case: a class, or a list of numbers.
        truth: Likewise.
        names: Of the classes, or of the numbers.
        when: As above.
    """
    if not truth:
        return
    if isinstance(truth[0], int):
        yield "confusion", confusion(predicted, truth, names, when)
    else:
        yield "predicted and true", regression(predicted, truth, names, when)


def file_name(name: str) -> str:
    """Return the file of a figure: its name, without what file systems and addresses do not take."""
    return f"{ODD.sub('_', name).strip('_') or 'figure'}.png"


def segmentation(samples: Sequence[Segmented | Masks], number: int, title: str) -> Figure:
    """Draw one class of some cases: the full field, what of it was segmented, the truth, the prediction, the error.

    The field is outlined where truth and prediction are; a red frame shows which part of it was segmented where that
    is not all of it. Where nobody annotated, nothing is an error.
    """
    figure, rows = _grid(samples, SEGMENTED, title)
    for sample, (whole, seen, true, found, wrong) in zip(samples, rows, strict=True):
        image = _array(sample.image)
        truth, predicted, known = map(_array, sample.of(number))
        shades = _shades(image)
        top, left = _corner(image.shape, truth.shape)
        raw = image[top : top + truth.shape[0], left : left + truth.shape[1]]
        whole.imshow(image, **shades)
        _outline(whole, truth, TRUTH, (top, left))
        _outline(whole, predicted, PREDICTED, (top, left))
        if truth.shape != image.shape:
            _frame(whole, (top, left), truth.shape)
        seen.imshow(raw, **shades)
        true.imshow(_painted(raw, shades, {TRUTH: truth}))
        found.imshow(_painted(raw, shades, {PREDICTED: predicted}))
        both, missed, too_much = truth & predicted, truth & ~predicted, predicted & ~truth & known
        wrong.imshow(_painted(raw, shades, {RIGHT: both, MISSED: missed, TOO_MUCH: too_much}))
        _note(wrong, _dice(truth, predicted & known))
    _legend(figure, {"truth": TRUTH, "prediction": PREDICTED, "right": RIGHT, "missed": MISSED, "too much": TOO_MUCH})
    return figure


def reconstruction(samples: Sequence[Restored], title: str) -> Figure:
    """Draw some cases, what the network saw of them, what it made of that, and how far that is from the truth."""
    errors = [np.abs(_array(sample.output) - _array(sample.image)) for sample in samples]
    most = max(float(np.percentile(error, PERCENTILES[1])) for error in errors) or 1.0
    figure, rows = _grid(samples, (*RESTORED[:-1], f"error, 0 to {most:.2g}"), title)
    for sample, error, (whole, seen, made, wrong) in zip(samples, errors, rows, strict=True):
        image, hidden = _array(sample.image), _array(sample.hidden)
        shades = _shades(image)
        whole.imshow(image, **shades)
        seen.imshow(_painted(image, shades, {MISSED: hidden}, strength=1.0))
        made.imshow(_array(sample.output), **shades)
        wrong.imshow(error, cmap="cividis", vmin=0, vmax=most)
        _note(wrong, f"mean {error[hidden].mean():.2g} where hidden" if hidden.any() else "nothing hidden")
    _legend(figure, {"hidden": MISSED})
    return figure


def confusion_counts(predicted: Sequence[int], truth: Sequence[int], n_classes: int) -> Array:
    """Return how often each class (row) was taken for each (column), integers [n, n]."""
    pairs = torch.tensor(predicted), torch.tensor(truth)
    counts: Array = multiclass_confusion_matrix(*pairs, num_classes=n_classes, validate_args=False).numpy()
    return counts


def confusion(predicted: Sequence[int], truth: Sequence[int], names: Sequence[str], when: str) -> Figure:
    """Draw how often each class was taken for each; the shade is the share of the class's cases."""
    from matplotlib.figure import Figure

    counts = confusion_counts(predicted, truth, len(names))
    of_class = counts.sum(1, keepdims=True)
    shares = np.divide(counts, of_class, out=np.zeros(counts.shape), where=of_class > 0)
    every = -(-len(names) // MOST_LABELS)
    labels = [_short(name) for name in names[::every]]
    side = min(max(2.0, CELL * len(names)), MOST_SIDE)
    room = 0.55 + LETTER * max(map(len, labels))
    wide, high = room + side + MARGIN["right"], MARGIN["top"] + side + room
    figure = Figure(figsize=(wide, high))
    field = figure.add_axes((room / wide, room / high, side / wide, side / high))
    field.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= MOST_COUNTS:
        _write_counts(field, counts, shares)
    field.set_xticks(range(0, len(names), every), labels, rotation=90, fontsize=8)
    field.set_yticks(range(0, len(names), every), labels, fontsize=8)
    field.set_xlabel("predicted")
    field.set_ylabel("true")
    right = int(np.trace(counts))
    told = f"{_plain(when)}\n{right} of {counts.sum()} cases are right"
    figure.suptitle(told, fontsize=10, x=(room + side / 2) / wide, y=1 - 0.1 / high)
    return figure


def _write_counts(field: Axes, counts: Array, shares: Array) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 1 / 2 else "black"
            field.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)


def regression(
    predicted: Sequence[Sequence[float]], truth: Sequence[Sequence[float]], names: Sequence[str], when: str
) -> Figure:
    """Draw each number of all cases against the true one; on the line, they are the same."""
    from matplotlib.figure import Figure

    shown = min(len(truth[0]), MOST_NUMBERS)
    columns = min(3, shown)
    rows = -(-shown // columns)
    figure = Figure(figsize=(3.6 * columns, 3.6 * rows + 0.5), layout="constrained")
    fields = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    every = -(-len(truth) // MOST_POINTS)
    for number, field in enumerate(fields[:shown]):
        true, found = (np.array([case[number] for case in part[::every]]) for part in (truth, predicted))
        low, high = min(true.min(), found.min()), max(true.max(), found.max())
        field.plot([low, high], [low, high], color="0.6", linewidth=1)
        field.scatter(true, found, s=14, color=TRUTH, alpha=0.6, linewidths=0)
        label = names[number] if number < len(names) else str(number)
        field.set_title(f"{_short(label)}: mean |error| {np.abs(found - true).mean():.3g}", fontsize=9)
        field.set_xlabel("true")
        field.set_ylabel("predicted")
        field.set_aspect("equal", adjustable="datalim")
        field.grid(visible=True, alpha=0.3)
    for field in fields[shown:]:
        field.set_axis_off()
    figure.suptitle(f"{_plain(when)}, {len(truth)} cases", fontsize=10)
    return figure


def _grid(samples: Samples, columns: Sequence[str], title: str) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and its empty fields: placed by hand, which takes half the time of a layout that is solved."""
    from matplotlib.figure import Figure

    tall = [sample.image.shape[0] / sample.image.shape[1] for sample in samples]
    height = PANEL * min(max(*tall, FACTOR_LEAST), FACTOR_MOST)
    wide = MARGIN["left"] + len(columns) * (PANEL + GAP) + MARGIN["right"]
    high = MARGIN["top"] + len(samples) * (height + GAP) + MARGIN["bottom"]
    figure = Figure(figsize=(wide, high))
    fields = figure.subplots(len(samples), len(columns), squeeze=False)
    figure.subplots_adjust(
        left=MARGIN["left"] / wide,
        right=1 - MARGIN["right"] / wide,
        top=1 - MARGIN["top"] / high,
        bottom=MARGIN["bottom"] / high,
        wspace=GAP / PANEL,
        hspace=GAP / height,
    )
    for field in fields.flat:
        field.set_xticks([])
        field.set_yticks([])
    for field, name in zip(fields[0], columns, strict=True):
        field.set_title(name, fontsize=9)
    for field, name in zip(fields[:, 0], [sample.case for sample in samples], strict=True):
        field.set_ylabel(_short(name), fontsize=7)
    figure.suptitle(_plain(title), fontsize=10, y=1 - 0.2 / high)
    return figure, fields.tolist()


def _array(plane: Tensor) -> Array:
    # bfloat16 is none of numpy's
    values: Array = (plane.float() if plane.is_floating_point() else plane).cpu().numpy()
    return values


def _shades(image: Array) -> dict[str, Any]:
    low, high = (float(value) for value in np.nanpercentile(image, PERCENTILES))
    return {"cmap": "gray", "vmin": low, "vmax": high if high > low else low + 1}


def _corner(whole: Sequence[int], part: Sequence[int]) -> tuple[int, int]:
    """Return where a part lies that is the middle of the whole."""
    top, left = ((full - size) // 2 for full, size in zip(whole, part, strict=True))
    return top, left


def _outline(field: Axes, mask: Array, colour: str, corner: tuple[int, int]) -> None:
    if mask.any() and not mask.all() and min(mask.shape) > 1:
        top, left = corner
        rows, columns = (np.arange(size) + start for size, start in zip(mask.shape, (top, left), strict=True))
        field.contour(columns, rows, mask, levels=[0.5], colors=[colour], linewidths=1)


def _frame(field: Axes, corner: tuple[int, int], size: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    top, left = corner
    place = (left - 0.5, top - 0.5)
    field.add_patch(Rectangle(place, size[1], size[0], fill=False, edgecolor=FRAME, linewidth=1.5))


def _painted(image: Array, shades: Mapping[str, Any], masks: Mapping[str, Array], *, strength: float = 0.7) -> Array:
    """Return a grey image with masks in their colours over it, RGB of [H, W, 3]."""
    from matplotlib.colors import to_rgb

    grey = np.clip((image - shades["vmin"]) / (shades["vmax"] - shades["vmin"]), 0, 1)
    picture: Array = np.repeat(np.nan_to_num(grey)[..., None], 3, axis=-1)
    for colour, mask in masks.items():
        picture[mask] = (1 - strength) * picture[mask] + strength * np.array(to_rgb(colour))
    return picture


def _dice(truth: Array, predicted: Array) -> str:
    both = int(truth.sum() + predicted.sum())
    return f"dice {2 * int((truth & predicted).sum()) / both:.2f} in this plane" if both else "not in this plane"


def _note(field: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
    field.text(0.03, 0.03, text, transform=field.transAxes, fontsize=7, color="white", bbox=box)


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=patches, loc="lower center", ncols=len(patches), fontsize=8, frameon=False)


def _short(name: str) -> str:
    """Return a name that fits: of cases, the end tells them apart."""
    text = _plain(name.removesuffix(".pt"))
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


def _plain(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics."""
    return text.replace("$", r"\$")
