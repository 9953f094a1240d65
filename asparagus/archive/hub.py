"""Archives by name: a path here, or a file on the Hugging Face hub, downloaded once."""

from __future__ import annotations

import re
from pathlib import Path

from asparagus.archive.layout import SUFFIX
from asparagus.errors import RecordError

URL = re.compile(r"https://huggingface\.co/(?P<repo>[^/]+/[^/]+)/(?:blob|resolve)/(?P<revision>[^/]+)/(?P<file>[^?#]+)")
EXAMPLE = f"https://huggingface.co/USER/REPOSITORY/blob/main/FILE{SUFFIX}"


def local(name: str | Path) -> Path:
    """Return where an archive lies, after a download if need be.

    Args:
        name: A path, or an address on the hub.

    Raises:
        RecordError: It is neither, or cannot be downloaded.
    """
    if Path(name).is_file():
        return Path(name)
    address = URL.fullmatch(str(name))
    if address is None:
        raise RecordError(f"{name}: is neither the path of an archive nor an address on the hub. Give one: {EXAMPLE}")
    try:
        from huggingface_hub import hf_hub_download  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise RecordError(
            f"{name}: huggingface_hub, which downloads it, is not installed. pip install huggingface_hub, or download "
            "the file and give its path."
        ) from error
    try:
        found = hf_hub_download(repo_id=address["repo"], filename=address["file"], revision=address["revision"])
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{name}: cannot be downloaded: {error}. Look whether it is there and yours to read, or download the file "
            "and give its path."
        ) from error
    return Path(found)
