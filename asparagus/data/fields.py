"""What the fields of a conversion may be: it is Python that a user writes, and nothing else looks at their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

Fields = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Name -> whether a value fits, and what would have."""


def wrong_fields(section: object, fields: Fields) -> Iterator[str]:
    """Yield each field whose value does not fit, beginning with its name."""
    for name, (fits, wanted) in fields.items():
        if not fits(value := getattr(section, name)):
            yield f"{name}: {value!r} is not {wanted}."


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _are(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A text is no list: of its letters, each would do for a pattern."""
    return lambda value: isinstance(value, list | tuple) and all(map(fits, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _maybe(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _maps_numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_whole, (*value.keys(), *value.values())))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


COUNT = (_is_count, "a whole number from 1 on")
TEXTS = (_are(_is_text), "a list of texts, like ('one',)")
BOOLEAN = (_is_bool, "True or False")
NUMBERS = (_maybe(_are(_is_number)), "a list of numbers, one for each axis, or None")

OF_CONVERSION: Fields = {
    "kind": (_is_text, "a text, like 'seg'"),
    "source": (lambda value: isinstance(value, Path) or _is_text(value), "the name of a folder"),
    "n_classes": COUNT,
    "n_modalities": COUNT,
    "dimensions": COUNT,
    "extensions": (lambda value: bool(value) and TEXTS[0](value), "a list of endings, like ('.nii.gz',)"),
    "patterns_exclusion": TEXTS,
    "patterns_DWI": TEXTS,
    "patterns_PET": TEXTS,
    "class_names": (_maybe(TEXTS[0]), f"{TEXTS[1]}, or None"),
    "label_map": (_maps_numbers, "a mapping of whole numbers, like {4: 3}"),
}
OF_PREPROCESSING: Fields = {
    "normalization_operation": (lambda value: _is_text(value) or TEXTS[0](value), "a text, or a list of them"),
    "target_spacing": NUMBERS,
    "target_size": (_maybe(_are(_is_count)), "a list of whole numbers, one for each axis, or None"),
    "keep_aspect_ratio": BOOLEAN,
    "target_orientation": (_maybe(_is_text), "a text, like 'RAS', or None"),
    "crop_to_nonzero": BOOLEAN,
    "background_pixel_value": (_is_number, "a number"),
    "intensities": (_maybe(_are(_is_table)), "a list of mappings to numbers, one for each channel, or None"),
    "min_slices": (lambda value: _is_whole(value) and value >= 0, "a whole number from 0 on"),
}
