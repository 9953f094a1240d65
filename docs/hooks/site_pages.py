"""What the site has beside the pages here: the README, what is made from the code, the files that pages link to.

Links in Markdown are those of the repository, so that they work there too; on the site they lead to the same files.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import command_reference
import config_reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS, SHOWN, MARKDOWN = "docs/", "files/", ".md"
START = "README.md"
LANGUAGES = {".py": "python", ".yaml": "yaml"}
"""Files that are shown as a page; others that are no Markdown are there as they are."""
MADE: dict[str, Callable[[], str]] = {
    "commands": command_reference.page,
    "keys": config_reference.typed_keys,
    "keys of a sweep": config_reference.sweep_keys,
    "open sections": config_reference.open_sections,
    "names of optimizers and schedules": config_reference.names,
    "choices": config_reference.choices,
}
"""`<!-- made: NAME -->` in a page stands for what this returns."""
MARK = re.compile(r"<!-- made: ([\w ]+) -->")
LINK = re.compile(r"\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the README, and every file outside of docs/ that a page leads to."""
    from mkdocs.structure.files import File

    waiting = [START, *(DOCS + file.src_uri for file in files.documentation_pages())]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith(DOCS):
            shown = {"content": text_of(path)} if _is_page(path) else {"abs_src_path": str(ROOT / path)}
            files.append(File.generated(config, place_of(path), **shown))
        found = [link for link in linked(path) if link not in known and (ROOT / link).is_file()]
        known.update(found)
        waiting += found
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Fill in what is made from the code, and lead links to where their files are on the site."""
    path = path_of(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def lead(link: re.Match[str]) -> str:
        target = _resolved(path, link["path"])
        if not (ROOT / target).is_file():
            return link[0]
        return f"]({posixpath.relpath(place_of(target), here or '.')}{link['anchor'] or ''})"

    return LINK.sub(lead, filled_in(markdown))


def place_of(path: str) -> str:
    """Return where on the site a file of the repository is."""
    if path == START:
        return "index.md"
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return SHOWN + path + (MARKDOWN if Path(path).suffix in LANGUAGES else "")


def path_of(place: str) -> str:
    """Return which file of the repository a page of the site is."""
    if place == place_of(START):
        return START
    if not place.startswith(SHOWN):
        return DOCS + place
    path = place.removeprefix(SHOWN)
    return path if (ROOT / path).is_file() else path.removesuffix(MARKDOWN)


def text_of(path: str) -> str:
    """Return a file of the repository as Markdown."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(MARKDOWN):
        return filled_in(text)
    return f"# {path}\n\n```{LANGUAGES[Path(path).suffix]}\n{text}```\n"


def filled_in(markdown: str) -> str:
    """Put what is made from the code in the place of its marks."""
    return MARK.sub(lambda mark: _made(mark[1]), markdown)


def linked(path: str) -> Iterator[str]:
    """Yield the files that a page links to, as paths of the repository."""
    if path.endswith(MARKDOWN):
        yield from (_resolved(path, link["path"]) for link in LINK.finditer(text_of(path)))


@cache
def _made(name: str) -> str:
    return MADE[name]()


def _is_page(path: str) -> bool:
    return Path(path).suffix in (MARKDOWN, *LANGUAGES)


def _resolved(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
