"""Files below one prefix of an S3 bucket: each put, fetched and removed whole, with its checksum; also Optuna's store.

Endpoint and credentials are found as by every program that uses boto3: AWS_ENDPOINT_URL, profiles, roles. Not here:
which files a study has (artifacts.py).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from optuna.artifacts.exceptions import ArtifactNotFound

from mlc_core import write_atomically
from search.errors import BadStorage

SCHEME: Final = "s3://"
_URL: Final = re.compile(r"s3://(?P<name>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[\w.=+-]+)*)/?", re.ASCII)
_LONGEST: Final = 150  # characters of a prefix: spelled with escapes it names a folder of the cache
_PART: Final = re.compile(r"[\w.=+-]+", re.ASCII)  # of a key, between slashes
_PAUSES: Final = (1.0, 5.0)  # seconds before a download that broke off is tried again
_DIGEST: Final = "sha256"  # key of an object's metadata
_NOTE: Final = ".stored"  # file of a folder: what of it the bucket has
_SUPERSEDED: Final = ".previous."  # in the name of a file of which there is a newer one

log = logging.getLogger(__name__)


class BucketUnusable(OSError):
    """S3 does not answer, refuses, or gives back something else than was put; as when a folder is not there."""


class _BrokeOff(Exception):
    """A download ended early or is not what was put."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One prefix of a bucket. Keys are below the prefix, and given without it.

    Every method raises BucketUnusable where S3 cannot be used.
    """

    name: str
    prefix: str  # without slashes at its ends; empty: the whole bucket

    @classmethod
    def parse(cls, url: str) -> Bucket:
        """Read ``s3://bucket/prefix``.

        Raises
        ------
        BadStorage
            It cannot be read, or boto3 is not installed.
        """
        match = _URL.fullmatch(url)
        prefix = match["prefix"].strip("/") if match else ""
        if match is None or len(prefix) > _LONGEST or not {".", ".."}.isdisjoint(prefix.split("/")):
            raise BadStorage(
                "The artifact store cannot be read: it is spelled s3://bucket/prefix, with letters, digits and .-_=+ "
                f"alone, and at most {_LONGEST} characters of prefix. Credentials are boto3's, never a part of it."
            )
        return cls(match["name"], prefix)

    @property
    def url(self) -> str:
        """As `parse` reads it."""
        return f"{SCHEME}{self.name}/{self.prefix}".rstrip("/")

    def check(self) -> None:
        """Ask for one key, which fails where bucket, endpoint or credentials are wrong."""
        with self._asking(""):
            _client().list_objects_v2(Bucket=self.name, Prefix=self._inside(""), MaxKeys=1)

    def sizes(self, below: str = "", *, deep: bool = False) -> dict[str, int]:
        """List keys that begin with a text, with their bytes; unless deep, without those that have a slash after it."""
        start = self._inside(below)
        pages = _client().get_paginator("list_objects_v2")
        with self._asking(below):
            found = pages.paginate(Bucket=self.name, Prefix=start, **({} if deep else {"Delimiter": "/"}))
            objects = [one for page in found for one in page.get("Contents", ())]
        return {str(one["Key"])[len(start) - len(below) :]: int(one["Size"]) for one in objects}

    def put(self, key: str, file: Path) -> None:
        """Put a file, unless just this is there."""
        with file.open("rb") as body:
            digest = hashlib.file_digest(body, _DIGEST).hexdigest()
            if self.digest(key) != digest:
                body.seek(0)
                self._put(key, body, digest)

    def get(self, key: str, file: Path) -> bool:
        """Put what is there in place of a file, unless that is just this; False where nothing is there.

        Raises
        ------
        BucketUnusable
            Also where what arrives, time and again, is not what was put.
        """
        digest = self.digest(key)
        if digest is None:
            return False
        if file.exists() and _digest(file) == digest:
            return True
        for pause in (*_PAUSES, None):
            try:
                content = self._read(key)
            except ArtifactNotFound:
                return False
            except _BrokeOff as error:
                if pause is None:
                    raise BucketUnusable(errno.EIO, str(error), f"{self.url}/{key}") from None
                log.info("%s/%s: %s, and is read again", self.url, key, error)
                time.sleep(pause)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, content)
                return True
        raise AssertionError  # pragma: no cover - the last go returns or raises

    def push(self, folder: Path, below: str) -> None:
        """Make the keys below one as a folder's files are, in the order in which those were written.

        Interrupted, it leaves what the folder itself held a while ago. Of files that are kept in two generations only
        the newer goes: here nothing is ever half written.
        """
        files = sorted(
            (file for file in folder.iterdir() if not (file.name.startswith(".") or _SUPERSEDED in file.name)),
            key=lambda file: file.stat().st_mtime_ns,
        )
        known, now = _noted(folder), {file.name: _stamp(file) for file in files}
        there = {key.rpartition("/")[2] for key in self.sizes(f"{below}/")} if known is None else {*known}
        for gone in there - now.keys():
            self.remove(f"{below}/{gone}")
        for file in files:
            if known is None or known.get(file.name) != now[file.name]:
                self.put(f"{below}/{file.name}", file)
        if now != known:
            _note(folder, now)

    def pull(self, below: str, folder: Path) -> None:
        """Make a folder's files as the keys below one are."""
        there = {key.rpartition("/")[2]: key for key in self.sizes(f"{below}/")}
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.name not in there:
                file.unlink()
        for name, key in there.items():
            self.get(key, folder / name)
        if there:
            _note(folder, {name: _stamp(folder / name) for name in there if (folder / name).exists()})

    def digest(self, key: str) -> str | None:
        """Tell the SHA-256, in hexadecimal digits, of what is there; None where nothing is."""
        with self._asking(key):
            try:
                found = _client().head_object(Bucket=self.name, Key=self._inside(key))
            except _client().exceptions.ClientError as error:
                if _is_missing(error):
                    return None
                raise
        return str(found["Metadata"].get(_DIGEST, ""))

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Read an artifact, whole and checked, as Optuna's stores do; ArtifactNotFound where it is not there."""
        try:
            return BytesIO(self._read(artifact_id))
        except _BrokeOff as error:
            raise BucketUnusable(errno.EIO, str(error), f"{self.url}/{artifact_id}") from None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Put an artifact, as Optuna's stores do."""
        digest = hashlib.file_digest(content_body, _DIGEST).hexdigest()  # type: ignore[arg-type] # wants a file of BufferedIOBase
        content_body.seek(0)
        self._put(artifact_id, content_body, digest)

    def remove(self, artifact_id: str) -> None:
        """Remove what is there, if anything is."""
        with self._asking(artifact_id):
            _client().delete_object(Bucket=self.name, Key=self._inside(artifact_id))

    def _put(self, key: str, body: BinaryIO, digest: str) -> None:
        with self._asking(key):
            _client().put_object(Bucket=self.name, Key=self._inside(key), Body=body, Metadata={_DIGEST: digest})

    def _read(self, key: str) -> bytes:
        from botocore.exceptions import BotoCoreError

        with self._asking(key):
            try:
                found = _client().get_object(Bucket=self.name, Key=self._inside(key))
            except _client().exceptions.ClientError as error:
                if _is_missing(error):
                    raise ArtifactNotFound(f"{self.url}/{key} is not there") from None
                raise
        try:
            content: bytes = found["Body"].read()
        except BotoCoreError as error:  # botocore's own retries end where the body begins
            raise _BrokeOff(str(error)) from None
        known = found["Metadata"].get(_DIGEST)
        if known is not None and hashlib.sha256(content).hexdigest() != known:
            raise _BrokeOff("what arrives is not what was put: its checksum does not match")
        return content

    def _inside(self, key: str) -> str:
        """Spell a key, or the beginning of some, with the prefix; nothing leads out of that."""
        parts = key.removesuffix("/").split("/") if key else []
        if not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
            raise ArtifactNotFound(f"{key!r} is no key below {self.url}")
        return f"{self.prefix}/{key}".lstrip("/")

    @contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Make an error of S3 one of the files."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            reason = f"{said.get('Code', '?')}: {said.get('Message', '')}".rstrip(" .:")
            raise BucketUnusable(errno.EIO, reason, f"{self.url}/{key}".rstrip("/")) from None
        except BotoCoreError as error:
            raise BucketUnusable(errno.EIO, str(error).rstrip("."), f"{self.url}/{key}".rstrip("/")) from None


@cache
def _client() -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    try:
        import boto3  # takes a third of a second, and most searches have a folder
        from botocore.config import Config
    except ImportError:
        raise BadStorage("Artifacts in S3 need boto3: pip install 'mlc-search[s3]'") from None
    # Checksums by default only where S3 demands them: ours are in the metadata, and other servers know no newer ones.
    return boto3.Session().client(
        "s3",
        config=Config(
            retries={"mode": "standard", "max_attempts": 5},
            connect_timeout=10,
            read_timeout=60,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _is_missing(error: Any) -> bool:  # noqa: ANN401 - botocore is not always there
    status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    return bool(status == 404 and code != "NoSuchBucket")


def _stamp(file: Path) -> list[int]:
    """Tell a file from its successor without reading it: when it was written, in nanoseconds, and its bytes."""
    found = file.stat()
    return [found.st_mtime_ns, found.st_size]


def _note(folder: Path, stored: dict[str, list[int]]) -> None:
    write_atomically(folder / _NOTE, json.dumps(stored).encode())


def _noted(folder: Path) -> dict[str, list[int]] | None:
    try:
        noted: dict[str, list[int]] = json.loads((folder / _NOTE).read_bytes())
    except FileNotFoundError:
        return None
    return noted


def _digest(file: Path) -> str:
    with file.open("rb") as body:
        return hashlib.file_digest(body, _DIGEST).hexdigest()
