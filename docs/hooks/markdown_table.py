"""Tables of Markdown, and text that it shows as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CODE = re.compile(r"(`[^`]*`)")
SPECIAL = re.compile(r"([*_\[\]|])")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line; what stands in backquotes stays code."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(part if CODE.fullmatch(part) else SPECIAL.sub(r"\\\1", part).replace("<", "&lt;") for part in parts)


def code(text: str) -> str:
    """Return text as code; none where there is nothing to show."""
    return f"`{text}`" if text else ""
