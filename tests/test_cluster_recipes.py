"""The README's recipes for clusters: schemas and secrets; what they run is really run, stopped and run again."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests import small
from tests.crash.test_killed_search import PATIENCE, checkpoints, until
from tests.test_compose import literal_secrets

README = Path(__file__).parents[1] / "README.md"
BIN = Path(sys.executable).parent  # where the console script is


def recipe(language: str, mark: str) -> str:
    """The one code block of the README in which the mark stands."""
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if mark in block]
    return found


def job() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(recipe("yaml", "kind: Job"))
    return loaded


def slurm() -> str:
    return recipe("bash", "#SBATCH")


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = job()["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (one,) = pod()["containers"]
    return dict(one)


def test_the_job_follows_kubernetes_schema() -> None:
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(job(), version, strict=True)
    wrong = job()
    wrong["spec"]["paralellism"] = 8
    with pytest.raises(kubernetes_validate.ValidationError, match="paralellism"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_job_needs_no_completions_and_takes_a_lost_node_for_no_failure() -> None:
    spec = job()["spec"]
    assert spec["parallelism"] > 1
    assert "completions" not in spec
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert pod()["restartPolicy"] == "Never"  # what podFailurePolicy demands
    assert pod()["terminationGracePeriodSeconds"] >= 60


def test_no_secret_is_written_in_a_recipe() -> None:
    assert literal_secrets(job()) == []
    assert re.search(r"://[^/\s]*:[^/\s]+@", slurm()) is None
    (storage,) = [one for one in container()["env"] if one["name"] == "MLC_STORAGE"]
    assert set(storage) == {"name", "valueFrom"}
    assert set(storage["valueFrom"]) == {"secretKeyRef"}


def test_the_slurm_script_is_bash_and_its_options_are_known_ones() -> None:
    checked = subprocess.run(["bash", "-n"], input=slurm(), capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", slurm(), re.MULTILINE))
    assert len(asked) == slurm().count("#SBATCH")
    assert re.fullmatch(r"1-\d+", asked["array"])
    assert asked["signal"] == "B:TERM@60"  # to the shell, which the worker has replaced
    assert "requeue" in asked


@pytest.mark.parametrize("kind", ["kubernetes", "slurm"])
def test_what_a_recipe_runs_hands_its_trial_back_on_sigterm_and_finishes_it_when_run_again(
    kind: str, sqlite_url: str, tmp_path: Path
) -> None:
    file = small.declare(tmp_path, epochs=12, pruner="none")
    file.write_text(file.read_text().replace('name = "small"', 'name = "default"'))
    asked = ("run", "--study", file, "--trials", 1, "--workers", 0, "--timeout", 1)
    small.call(*asked, folder=tmp_path, storage=sqlite_url)

    worker = _started(kind, tmp_path, sqlite_url)
    until(lambda: checkpoints(tmp_path))
    worker.send_signal(signal.SIGTERM)
    began = time.monotonic()
    said, _ = worker.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 60  # of grace
    assert worker.returncode == 130, said  # not 0: the job is not done, and another pod shall come
    assert _states(tmp_path, sqlite_url) == ["waiting"]

    again = _started(kind, tmp_path, sqlite_url)
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert "This worker finished 1 trials." in said
    assert _states(tmp_path, sqlite_url) == ["complete"]


def _states(folder: Path, storage: str) -> list[str]:
    listed = small.call("trials", "--study", "default", "--json", folder=folder, storage=storage).stdout
    return [row["state"] for row in json.loads(listed)]


def _started(kind: str, folder: Path, storage: str) -> subprocess.Popen[str]:
    """Start what the recipe starts, as Kubernetes or Slurm does; other than there is where files lie."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLC_")}
    environment |= {"PATH": f"{BIN}:{environment['PATH']}", "MLC_CACHE": os.environ["MLC_CACHE"]}
    artifacts = folder / "mlc-search-artifacts"
    if kind == "kubernetes":
        environment |= _pods_environment({"storage": storage}, artifacts)
        command = container()["command"]
    else:
        (folder / ".mlc-storage").write_text(f"{storage}\n")
        script = folder / "worker.sh"
        script.write_text(slurm().replace("/shared/mlc-search", shlex.quote(str(artifacts))))
        environment |= {"HOME": str(folder), "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "42"}
        environment |= {"SLURM_JOB_ID": "43", "SLURM_CPUS_PER_TASK": "2"}
        command = ["bash", str(script)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _pods_environment(secret: dict[str, str], artifacts: Path) -> dict[str, str]:
    environment = {}
    for one in container()["env"]:
        if "valueFrom" in one:
            environment[one["name"]] = secret[one["valueFrom"]["secretKeyRef"]["key"]]
        elif one["name"] == "MLC_ARTIFACTS":
            assert one["value"].startswith("s3://")
            environment[one["name"]] = str(artifacts)
    return environment
