"""Artifacts in S3, on a real server: MinIO's, which JuiceFS carries as its gateway; with real workers, killed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from optuna.artifacts.exceptions import ArtifactNotFound

from search import bucket as buckets
from search.artifacts import artifact_store, artifacts_folder, location, weights_of, weights_path
from search.bucket import Bucket, BucketUnusable
from search.errors import BadStorage
from search.study import open_study
from tests import small
from tests.crash.test_killed_search import PATIENCE, start, until, workers_of
from tests.search.test_run import alone

KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "no-secret-at-all"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the server, with a bucket ``studies``; the environment leads boto3 there."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    juicefs, meta = str(Path(sys.executable).parent / "juicefs"), f"sqlite3://{folder / 'meta.db'}"
    env = {**os.environ, "MINIO_ROOT_USER": KEYS["AWS_ACCESS_KEY_ID"]}
    env["MINIO_ROOT_PASSWORD"] = KEYS["AWS_SECRET_ACCESS_KEY"]
    made = [juicefs, "format", "--no-update", "--trash-days=0", f"--bucket={folder}/data/", meta, "studies"]
    subprocess.run(made, check=True, capture_output=True, env=env)
    server = [juicefs, "gateway", "--multi-buckets", "--object-meta", "--no-banner", "--no-usage-report", "--no-bgjob"]
    server += [f"--cache-dir={folder}/cache", "--cache-size=64", f"--log={folder}/log", "--backup-meta=0"]
    server += [f"--metrics=127.0.0.1:{free_port()}", meta, f"127.0.0.1:{port}"]
    with (folder / "said").open("wb") as said, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(server, stdout=said, stderr=said, env=env)
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            patch.setenv(key, value)
        patch.delenv("AWS_PROFILE", raising=False)
        buckets._client.cache_clear()
        try:
            until(lambda: _listens(port))
            client = buckets._client()
            client.create_bucket(Bucket="studies")
            yield client
        finally:
            buckets._client.cache_clear()
            process.terminate()
            process.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def keys(client: Any, bucket: str = "studies", prefix: str = "") -> list[str]:
    return [one["Key"] for one in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())]


def seen(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def reports(checkpoint: bytes) -> int:
    """Epochs that a resume file knows."""
    return len(torch.load(io.BytesIO(checkpoint[40:]), weights_only=True)["reports"])


def test_a_folder_goes_up_and_comes_down_again_as_it_is(s3: Any, tmp_path: Path) -> None:
    bucket, here, there = Bucket.parse("s3://studies/folders/"), tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "best").write_bytes(b"best of 3")
    (here / "resume").write_bytes(b"3" * 3_000_000)
    (here / "resume.previous.ckpt").write_bytes(b"2")  # of no use where nothing is half written
    (here / ".resume.half").write_bytes(b"being written")

    bucket.push(here, "checkpoints/a/7")
    bucket.pull("checkpoints/a/7", there)
    assert seen(there) == {"best": b"best of 3", "resume": b"3" * 3_000_000}

    (here / "best").unlink()  # another start: what the earlier one left must not be taken for its own
    (here / "resume").write_bytes(b"1")
    bucket.push(here, "checkpoints/a/7")
    bucket.pull("checkpoints/a/7", there)
    assert seen(there) == {"resume": b"1"}
    assert keys(s3, prefix="folders/") == ["folders/checkpoints/a/7/resume"]
    assert bucket.sizes() == {}
    assert bucket.sizes("checkpoints/", deep=True) == {"checkpoints/a/7/resume": 1}


def test_what_is_there_already_is_carried_neither_up_nor_down(s3: Any, tmp_path: Path) -> None:
    bucket, file = Bucket.parse("s3://studies/same"), tmp_path / "file"
    file.write_bytes(b"content")
    bucket.put("file", file)
    put = s3.head_object(Bucket="studies", Key="same/file")["LastModified"]
    written = file.stat().st_mtime_ns
    time.sleep(1.1)  # S3 tells seconds

    bucket.put("file", file)

    assert bucket.get("file", file)
    assert s3.head_object(Bucket="studies", Key="same/file")["LastModified"] == put
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("key", ["../other", "/other", "a/../../other", "a//b", ".", "..", "a/./b", "a\nb", "a b"])
def test_no_key_leads_out_of_the_prefix(s3: Any, tmp_path: Path, key: str) -> None:
    s3.put_object(Bucket="studies", Key="other", Body=b"somebody else's")
    bucket, file = Bucket.parse("s3://studies/prefix"), tmp_path / "file"
    file.write_bytes(b"ours")

    for use in (bucket.remove, bucket.open_reader, bucket.digest, lambda key: bucket.put(key, file)):
        with pytest.raises(ArtifactNotFound):
            use(key)

    assert s3.get_object(Bucket="studies", Key="other")["Body"].read() == b"somebody else's"
    assert keys(s3, prefix="prefix") == []


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://b", "s3://UPPER/x", "s3://key:secret@bucket/x", "s3://bucket/../x", "s3://bucket/a b", "s3:///x"],
)
def test_a_store_that_cannot_be_read_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadStorage) as caught:
        artifacts_folder(url, None)
    assert "s3://bucket/prefix" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_content_that_is_not_what_was_put_is_an_error(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_PAUSES", (0.0,))
    bucket, file = Bucket.parse("s3://studies/damaged"), tmp_path / "file"
    digest = hashlib.sha256(b"content").hexdigest()
    s3.put_object(Bucket="studies", Key="damaged/file", Body=b"c0ntent", Metadata={"sha256": digest})

    with pytest.raises(BucketUnusable, match="checksum does not match"):
        bucket.get("file", file)

    assert not file.exists()


def test_a_bucket_that_is_gone_is_an_error_of_the_files_and_refused_beforehand(s3: Any, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="short-lived")
    bucket, file = Bucket.parse("s3://short-lived/x"), tmp_path / "file"
    file.write_bytes(b"content")
    bucket.put("file", file)
    bucket.remove("file")
    s3.delete_bucket(Bucket="short-lived")

    with pytest.raises(OSError, match="NoSuchBucket") as caught:
        bucket.put("file", file)
    assert caught.value.filename == "s3://short-lived/x/file"
    with pytest.raises(BadStorage, match=r"s3://short-lived/x cannot be used: NoSuchBucket"):
        artifacts_folder(bucket.url, None)


@pytest.mark.usefixtures("s3")
def test_wrong_credentials_are_a_sentence_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    buckets._client.cache_clear()
    with pytest.raises(BadStorage, match="SignatureDoesNotMatch") as caught:
        artifacts_folder("s3://studies/x", None)
    buckets._client.cache_clear()
    assert "wrong-and-secret" not in str(caught.value)


def test_a_killed_workers_trial_goes_on_from_s3_where_nothing_of_it_lies(
    s3: Any, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_CACHE", str(tmp_path / "cache"))
    url, file = "s3://studies/killed", small.declare(tmp_path, epochs=8, pruner="none")
    words = ("run", "--study", file, "--trials", 1, "--workers", 1, "--artifacts", url)
    run = start(*words, folder=tmp_path, storage=sqlite_url)
    epochs: set[str] = set()  # by the checksum of what was left after each

    def stored() -> bool:
        there = [key for key in keys(s3, prefix="killed/checkpoints/") if key.endswith("/resume.ckpt")]
        epochs.update(s3.head_object(Bucket="studies", Key=key)["Metadata"]["sha256"] for key in there)
        return len(epochs) >= 3

    until(stored)
    for worker in workers_of(run):
        worker.kill()
        worker.wait()
    for checkpoint in tmp_path.glob("cache/s3/*/checkpoints"):
        shutil.rmtree(checkpoint)
    until(lambda: list(tmp_path.glob("cache/s3/*/checkpoints/*/*/resume.ckpt")))
    (first,) = tmp_path.glob("cache/s3/*/checkpoints/*/*/resume.ckpt")
    assert reports(first.read_bytes()) >= 3
    _, said = run.communicate(timeout=PATIENCE)

    assert run.returncode == 0, said
    (row,) = small.rows(tmp_path, sqlite_url)
    assert (row["state"], len(cast("dict[str, float]", row["reports"]))) == ("complete", 8)
    assert row["value"] == alone(row, tmp_path, sqlite_url)
    assert keys(s3, prefix="killed/checkpoints/") == []
    assert list(tmp_path.glob("cache/s3/*/checkpoints/*/*")) == []
    _weights_are_read_on_another_machine(url, sqlite_url, tmp_path, monkeypatch)
    small.call("delete", "small", "--yes", "--artifacts", url, folder=tmp_path, storage=sqlite_url)
    assert keys(s3, prefix="killed/") == []


def _weights_are_read_on_another_machine(url: str, storage: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_CACHE", str(folder / "another"))
    done = small.call("evaluate", "--study", "small", "--best", "--artifacts", url, folder=folder, storage=storage)
    assert "macro" in done.stdout

    root = artifacts_folder(url, storage)
    assert location(root) == url
    with open_study("small", storage) as study:
        (trial, *_) = [one for one in study.optuna.get_trials() if weights_of(one)]
        path = weights_path(root, trial)
        assert path is not None
        served = artifact_store(root).open_reader(weights_of(trial)[0]).read()  # as the dashboard does
    assert served == path.read_bytes()
    assert path.is_relative_to(folder / "another")
