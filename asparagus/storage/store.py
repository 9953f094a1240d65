"""A store of objects, over pyarrow's file systems: what is put is there whole or not at all."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asparagus.errors import StoreError
from asparagus.secrets import without_passwords

CONNECT_S = 5.0
ANSWER_S = 9.0
"""How long a store that is asked for the first time may take; a server may take a connection and never say a word."""
TRIES = 2
AT_ONCE = 16
BLOCK = 1 << 22
WRITING = ".writing-"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
TRAVELLING = (
    *ENDPOINTS,
    *REGIONS,
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CA_BUNDLE",
    "AWS_EC2_METADATA_DISABLED",
)
"""Variables that workers on other machines need as the driver has them."""
DOOR = ".asparagus/door"
LOOK = "Look at AWS_ENDPOINT_URL, the network and the server."
NEW = "Get new ones and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or log in again."
KEYS = "Look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_PROFILE."
GRANT = "Its owner grants list, read, write and delete; or set others (AWS_ACCESS_KEY_ID, AWS_PROFILE)."
ANSWERS = (
    (
        r"expired_?token|tokenrefreshrequired|token.{0,20}expired|request_?expired",
        f"the credentials have expired. {NEW}",
    ),
    (
        r"invalid_?access_?key|invalid_?client_?token|signature_?does_?not_?match|unrecognized_?client|invalid_?token",
        f"the credentials are not accepted. {KEYS}",
    ),
    (r"no_?such_?bucket|bucket does not exist", "there is no such bucket. Make it, or name one that is there."),
    (r"access_?denied|forbidden|http status code: 403|\b403\b", f"the credentials may not do that there. {GRANT}"),
    (
        r"network_connection|curlcode|timed? ?out|timeout|could not connect|unable to connect|name resol",
        f"nobody answers there. {LOOK}",
    ),
)
"""What the messages of a store's client mean, the first that fits."""


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    size: int
    changed: float
    """By the store's own clock, in seconds."""


class Store:
    """Objects under a URI, by their keys.

    Args:
        uri: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `file:///FOLDER`.
        anonymous: Ask without credentials, as for what anybody may read; None where this machine has none.
        tries: How often a request is made before it has failed.
    """

    def __init__(self, uri: str, *, anonymous: bool | None = False, tries: int = TRIES) -> None:
        self._anonymous = not _has_credentials() if anonymous is None else anonymous
        self._tries = tries
        self.uri = uri.rstrip("/")
        self._scheme, _, place = self.uri.partition("://")
        self._base = place if self._scheme == "file" else place.strip("/")

    def check(self) -> None:
        """Put an object, list it and take it away: all that a run needs. Answers within ten seconds.

        Raises:
            StoreError: One of these does not work.
        """
        self._in_time(self._try_all)

    def now(self) -> float:
        """Return what the store's own clock says, which need not be this machine's."""
        return time.time() + self._ahead

    @cached_property
    def _ahead(self) -> float:
        key = f"{DOOR}/{uuid.uuid4().hex}"
        try:
            self.write(key, b"asparagus")
            ahead = self.list(DOOR)[key].changed - time.time()
            self.delete(key)
        except (StoreError, KeyError):  # one that can only be read
            return 0.0
        return ahead

    def check_reading(self) -> None:
        """Look whether the store can be read, as data are. Answers within ten seconds.

        Raises:
            StoreError: It cannot.
        """
        self._in_time(self._try_reading)

    def _try_all(self) -> None:
        self._try_reading()
        key = f"{DOOR}/{uuid.uuid4().hex}"
        self.write(key, b"asparagus")
        found = self.list(DOOR)
        self.delete(key)
        if key not in found:
            raise StoreError(f"{self._shown}: what is put there is not listed afterwards.")

    def _try_reading(self) -> None:
        from pyarrow.fs import FileSelector, FileType

        self._must_have_credentials()
        bucket = self._base.partition("/")[0]
        with self._said("be read"):
            if self._scheme == "file":
                Path(self._base).mkdir(parents=True, exist_ok=True)
            found = self._fs.get_file_info(FileSelector(self._path(DOOR), recursive=True, allow_not_found=True))
            # A bucket that is not there lists as an empty one. To list comes first: its answer says what is wrong.
            if not found and self._scheme != "file" and self._fs.get_file_info(bucket).type == FileType.NotFound:
                raise OSError(f"NO_SUCH_BUCKET: {bucket}")

    def _in_time(self, work: Callable[[], None]) -> None:
        """Do something on a thread, and leave it there if it takes too long."""
        ends: list[BaseException | None] = []

        def do() -> None:
            try:
                work()
                ends.append(None)
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                ends.append(error)

        thread = threading.Thread(target=do, name="store", daemon=True)
        thread.start()
        thread.join(ANSWER_S)
        if not ends:
            _let_exit()
            raise StoreError(f"{self._shown}{_at(self._scheme)}: nobody answers there within {ANSWER_S:g} s. {LOOK}")
        if ends[0] is not None:
            raise ends[0]

    def write(self, key: str, content: bytes) -> None:
        """Put a small object."""
        with self._said("be written to"), self._open(key) as stream:
            stream.write(content)

    def put(self, key: str, file: Path) -> None:
        """Put a file as it is when it is read.

        Raises:
            FileNotFoundError: The file is not there any more.
            StoreError: The store does not take it.
        """
        with file.open("rb") as source, self._said("be written to"), self._open(key) as stream:
            while block := source.read(BLOCK):
                stream.write(block)

    def read(self, key: str) -> bytes | None:
        """Return a small object; None where there is none."""
        try:
            with self._said("be read"), self._fs.open_input_stream(self._path(key)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def get(self, key: str, target: Path) -> None:
        """Fetch an object into a file, which is there whole or not at all.

        Raises:
            FileNotFoundError: There is no such object.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        writing = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.writing")
        try:
            with (
                writing.open("wb") as file,
                self._said("be read"),
                self._fs.open_input_stream(self._path(key)) as stream,
            ):
                while block := stream.read(BLOCK):
                    file.write(block)
            writing.replace(target)
        finally:
            writing.unlink(missing_ok=True)

    def list(self, prefix: str) -> dict[str, Entry]:
        """Return all objects below a prefix, by their keys."""
        from pyarrow.fs import FileSelector, FileType

        with self._said("be listed"):
            found = self._fs.get_file_info(FileSelector(self._path(prefix), recursive=True, allow_not_found=True))
        start = len(self._base) + 1
        return {
            info.path[start:]: Entry(info.size, info.mtime.timestamp() if info.mtime else 0.0)
            for info in found
            if info.type == FileType.File and not info.base_name.startswith(WRITING)
        }

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the folders right below a prefix, sorted."""
        from pyarrow.fs import FileSelector, FileType

        with self._said("be listed"):
            found = self._fs.get_file_info(FileSelector(self._path(prefix), allow_not_found=True))
        return tuple(sorted(info.base_name for info in found if info.type == FileType.Directory))

    def read_part(self, key: str, start: int, stop: int | None) -> bytes | None:
        """Return bytes of an object: from `start`, which counts from its end if negative, to before `stop`."""
        try:
            with self._said("be read"), self._fs.open_input_file(self._path(key)) as file:
                size = file.size()
                first = max(0, start + size) if start < 0 else start
                return bytes(file.read_at((size if stop is None else min(stop, size)) - first, first))
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Take an object away; nothing happens if it is not there."""
        try:
            with self._said("be written to"):
                self._fs.delete_file(self._path(key))
        except FileNotFoundError:
            return

    def delete_all(self, keys: Iterable[str]) -> None:
        """Take objects away, many at once."""
        self.each(self.delete, keys)

    def move(self, key: str, to: str) -> None:
        """Give an object another key."""
        target = self._path(to)
        with self._said("be written to"):
            if self._scheme == "file":
                self._fs.create_dir(os.path.dirname(target))  # noqa: PTH120 - a key
            self._fs.move(self._path(key), target)

    @staticmethod
    def each(work: Any, items: Iterable[Any]) -> None:
        """Do the same for many, several at once; the first error is raised when all are done."""
        if listed := list(items):
            with ThreadPoolExecutor(min(AT_ONCE, len(listed))) as pool:
                list(pool.map(work, listed))

    @cached_property
    def _fs(self) -> Any:
        from pyarrow import fs

        if self._scheme == "file":
            return fs.LocalFileSystem()
        if self._scheme == "gs":
            return fs.GcsFileSystem(anonymous=self._anonymous)
        endpoint, region = _first(ENDPOINTS), _first(REGIONS) or "us-east-1"
        if not endpoint and not _first(REGIONS):
            region = fs.resolve_s3_region(self._base.partition("/")[0])
        return fs.S3FileSystem(
            anonymous=self._anonymous,
            endpoint_override=endpoint,
            region=region,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=self._tries),
            allow_delayed_open=True,
            connect_timeout=CONNECT_S,
        )

    @property
    def address(self) -> str:
        """What tells it from all others: buckets of two servers may be called the same."""
        endpoint = _first(ENDPOINTS) if self._scheme == "s3" else None
        return f"{self.uri}@{endpoint}" if endpoint else self.uri

    @property
    def _shown(self) -> str:
        return without_passwords(self.uri)

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    @contextmanager
    def _open(self, key: str) -> Iterator[Any]:
        """Open an object to be written; it is there when this ends well."""
        path = self._path(key)
        if self._scheme != "file":
            # A small one in one request; nothing is there before the last part of a large one is acknowledged.
            try:
                with self._fs.open_output_stream(path) as stream:
                    yield stream
            except BaseException:  # closing it has made an object of what was written so far
                with contextlib.suppress(OSError):
                    self._fs.delete_file(path)
                raise
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        writing = target.with_name(f"{WRITING}{uuid.uuid4().hex[:8]}")
        with writing.open("wb") as stream:
            yield stream
        writing.replace(target)

    def _must_have_credentials(self) -> None:
        """Say so at once where there are none: looking for those of a cloud machine takes long elsewhere."""
        if self._scheme != "s3" or self._anonymous or not _first(ENDPOINTS) or _has_credentials():
            return
        raise StoreError(
            f"{self._shown}: there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )

    @contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        """Say in a line what a store's client says in many."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            told = str(error)
            why = next((answer for form, answer in ANSWERS if re.search(form, told, re.IGNORECASE)), "")
            said = why or f"{error.strerror or told.splitlines()[0]}."
            raise StoreError(f"{self._shown}{_at(self._scheme)} cannot {doing}: {said}") from error


def _at(scheme: str) -> str:
    endpoint = _first(ENDPOINTS)
    return f" at {without_passwords(endpoint)}" if endpoint and scheme == "s3" else ""


def _let_exit() -> None:
    """Let this process end while a request of it hangs: pyarrow would wait for that one."""
    from pyarrow import fs

    atexit.unregister(fs.ensure_s3_finalized)


def _first(names: Iterable[str]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _has_credentials() -> bool:
    named = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
        os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config",
    )
    return bool(_first((*named, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"))) or any(
        Path(file).expanduser().is_file() for file in files
    )
