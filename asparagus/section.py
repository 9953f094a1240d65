"""A config section whose keys are attributes too, for modules of one's own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from asparagus.errors import ConfigError, did_you_mean

PLAIN = (str, int, float, bool, type(None))


class Section(dict[str, Any]):
    """A dict with `section.key` for `section["key"]`.

    It is pickled as an `OrderedDict`, the one mapping besides dict that torch loads with `weights_only=True`: whoever
    writes a checkpoint, it holds plain values.
    """

    def __getattr__(self, name: str) -> Any:
        """Return the value of a key."""
        try:
            return self[name]
        except KeyError:
            hint = did_you_mean(name, self) or f"It has: {', '.join(self) or 'nothing'}."
            raise AttributeError(f"the section has no {name!r}. {hint}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the value of a key."""
        self[name] = value

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        """Be an ordered dict when pickled."""
        return OrderedDict, (list(self.items()),)

    def __copy__(self) -> Section:
        """Stay a section when copied."""
        return Section(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Section:
        """Stay a section when copied."""
        return Section({name: copy.deepcopy(value, memo) for name, value in self.items()})


def section_of(value: Any, key: str) -> Any:
    """Return a value with every mapping in it made a `Section`, OmegaConf's too, and every sequence a list.

    Args:
        value: As a config has it.
        key: Where it stands; for messages.

    Raises:
        ConfigError: Something in it is no plain value, and could not be saved in a checkpoint.
    """
    if isinstance(value, Mapping):
        return Section({str(name): section_of(item, f"{key}.{name}") for name, item in value.items()})
    if isinstance(value, PLAIN):
        return value
    if hasattr(value, "__iter__") and hasattr(value, "__len__") and not hasattr(value, "dtype"):
        return [section_of(item, f"{key}[{index}]") for index, item in enumerate(value)]
    raise ConfigError(
        f"{key}: a {type(value).__name__} is no plain value, and checkpoints keep this section. Leave `_recursive_: "
        "true` out, and build it where the section is used: asparagus.targets.instantiate(section, key=...)."
    )
