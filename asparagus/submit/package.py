"""What travels of a working directory: the files that git does not ignore, without environments, secrets and runs."""

from __future__ import annotations

import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from asparagus.errors import SubmitError

MB = 1e6
SHOWN = 3
LIMIT = 100 * 2**20
"""Ray's dashboard takes no larger upload."""
IGNORED = ".asparagusignore"
"""Written as a .gitignore is: what git keeps and no job needs."""
NEVER = {".git", ".venv", "venv", "__pycache__", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
"""Folders that no job needs, wherever they lie."""
ENVIRONMENT = ".env"
"""Files of this name, and `.env.*`, hold values that a package is no place for."""
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every file in a package: the same files are the same bytes."""


@dataclass(frozen=True)
class Package:
    """The files that travel."""

    folder: Path
    sizes: dict[str, int] = field(default_factory=dict)
    """Path in the folder -> bytes."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    def describe(self) -> str:
        """Return its size, and what makes it large."""
        named = ", ".join(f"{path} {size / MB:.1f} MB" for path, size in self.largest(SHOWN) if size > MB / 10)
        total = f"{len(self.sizes)} files, {self.size / MB:.1f} MB"
        return f"{total}; biggest: {named}" if named else total

    def largest(self, count: int) -> list[tuple[str, int]]:
        """Return the largest files, largest first."""
        return sorted(self.sizes.items(), key=lambda item: -item[1])[:count]


def package_of(folder: Path, *, without: Iterable[str | Path] = ()) -> Package:
    """Return what of a folder travels.

    Args:
        folder: The working directory.
        without: Folders whose contents stay: data, runs, results.

    Raises:
        SubmitError: git, which knows what is ignored, is not there or fails.
    """
    kept_back = [Path(place).absolute() for place in without]
    names = (name for name in _listed(folder.absolute()) if not _stays(name))
    paths = {name: folder.absolute() / name for name in names}
    sizes = {
        name: path.stat().st_size
        for name, path in paths.items()
        if path.is_file() and not any(path.is_relative_to(place) for place in kept_back)
    }
    return Package(folder.absolute(), dict(sorted(sizes.items())))


def must_be_small(package: Package) -> None:
    """Refuse a package that the cluster would refuse.

    Raises:
        SubmitError: It is too large; the largest files are named.
    """
    if package.size <= LIMIT:
        return
    largest = "\n".join(f"  {size / MB:9.1f} MB  {name}" for name, size in package.largest(8))
    raise SubmitError(
        f"--submit: {package.folder} would send {package.size / MB:.1f} MB; a job may bring {LIMIT / MB:.0f} MB. "
        f"The largest files:\n{largest}\nName what the job does not need in {IGNORED} (as in a .gitignore), or keep "
        "data where the cluster sees it (ASPARAGUS_DATA there)."
    )


def write_zip(package: Package, more: Mapping[str, bytes], to: Path) -> None:
    """Write a package, and what else the job needs, into a zip file.

    Args:
        package: The files of the working directory.
        more: Path in the package -> content; wins over a file of the same name.
        to: The zip file.
    """
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in package.sizes:
            if name not in more:
                file = package.folder / name
                archive.writestr(_entry(name, executable=bool(file.stat().st_mode & 0o100)), file.read_bytes())
        for name, content in more.items():
            archive.writestr(_entry(name, executable=False), content)


def _entry(name: str, *, executable: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, LONG_AGO)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o755 if executable else 0o644) << 16
    return entry


def _stays(name: str) -> bool:
    parts = PurePosixPath(name).parts
    last = parts[-1]
    return bool(NEVER.intersection(parts)) or last == ENVIRONMENT or last.startswith(f"{ENVIRONMENT}.")


def _listed(folder: Path) -> list[str]:
    """Return the files of a folder that neither .gitignore nor .asparagusignore names, also where there is no git."""
    if _git(["-C", str(folder), "rev-parse", "--is-inside-work-tree"]) is not None:
        return _asked(folder, ["-C", str(folder)])
    with tempfile.TemporaryDirectory(prefix="asp-git-") as empty:  # its rules are git's all the same
        _git(["init", "--quiet", "--bare", empty])
        return _asked(folder, ["-C", str(folder), "--git-dir", empty, "--work-tree", str(folder)])


def _asked(folder: Path, git: list[str]) -> list[str]:
    every = _names(git, "--cached", "--others", "--exclude-standard")
    rules = folder / IGNORED
    if rules.is_file():
        ruled = (f"--exclude-from={rules}", "--ignored")
        every -= _names(git, "--cached", *ruled) | _names(git, "--others", *ruled)
    found: list[str] = []
    for name in sorted(every):
        place = folder / name
        if place.is_dir() and not place.is_symlink():  # a repository in the repository
            found += [f"{name.rstrip('/')}/{inner}" for inner in _listed(place)]
        else:
            found.append(name)
    return found


def _names(git: list[str], *options: str) -> set[str]:
    listed = _git([*git, "ls-files", "-z", *options])
    if listed is None:
        raise SubmitError(f"--submit: git cannot list the files of {git[1]}. Try: git -C {git[1]} status")
    return {name for name in listed.split("\0") if name}


def _git(arguments: list[str]) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise SubmitError(
            "git is not installed here, and it is git that knows which files are ignored. Install it."
        ) from error
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None
