"""A Ray cluster of two nodes on this machine, one of which is killed: real nodes, real workers, a real database."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import typer
from sqlalchemy import make_url

from search.cli import options
from tests import small
from tests.crash.test_killed_search import PATIENCE, checkpoints, start, until
from tests.search.test_run import alone

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
CANARY = "canary-which-sings-not"  # the database's password; a socket asks for none, so any will do


class Machines(NamedTuple):
    cluster: Any
    doomed: Any

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def workers(self, node: Any) -> list[psutil.Process]:
        """What runs below a node; the workers of ours are among them."""
        (raylet,) = node.all_processes["raylet"]
        return psutil.Process(raylet.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("RAY_AUTH_MODE", "token")  # Ray's default from 2.61 on, and the machine's others stay outside
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        from ray.cluster_utils import Cluster

        # A node is dead after five seconds of silence, not after half a minute.
        config = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
        head = {**NODE, "include_dashboard": False, "_system_config": config}
        before = signal.getsignal(signal.SIGTERM)  # which a node takes for itself
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        second = cluster.add_node(**NODE)
        signal.signal(signal.SIGTERM, before)
        yield Machines(cluster, second)
        cluster.shutdown()


def ours(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if "search.worker" in process.cmdline():
                found.append(process)
    return found


def test_nodes_that_cannot_share_a_sqlite_file_are_refused(machines: Machines, sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path)
    words = ("run", "--study", file, "--trials", 1, "--ray", machines.address)
    said = small.call(*words, folder=tmp_path, storage=sqlite_url, code=2).stderr
    assert "The Ray cluster has 2 nodes, which cannot share a SQLite file." in said


def test_when_a_node_is_killed_the_budget_is_met_exactly_and_its_trial_goes_on(
    machines: Machines, postgres_url: str, tmp_path: Path
) -> None:
    storage = make_url(postgres_url).set(password=CANARY).render_as_string(hide_password=False)
    file = small.declare(tmp_path, epochs=6, pruner="none")
    words = ("run", "--study", file, "--trials", 3, "--ray", machines.address, "--workers", 2, "--json")
    run = start(*words, folder=tmp_path, storage=storage)
    until(lambda: ours(machines.workers(machines.doomed)) and len(checkpoints(tmp_path)) == 2)
    victims = machines.workers(machines.doomed)
    said_aloud = [word for process in psutil.process_iter() for word in _command_line(process)]

    machines.cluster.remove_node(machines.doomed, allow_graceful=False)
    for victim in victims:  # they are on that machine, too
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    printed, said = run.communicate(timeout=PATIENCE)

    assert run.returncode == 0, said
    assert json.loads(printed)["finished"] == 3  # and no word of Ray's about the node
    rows = small.rows(tmp_path, storage)
    assert [row["state"] for row in rows] == ["complete"] * 3
    (lost,) = [row for row in rows if row["note"]]
    assert "went with its node" in str(lost["note"])
    assert lost["value"] == alone(lost, tmp_path, storage)
    assert not any(CANARY in word for word in said_aloud)
    logs = Path(machines.cluster.head_node.get_session_dir_path()).rglob("*")
    assert [log for log in logs if log.is_file() and CANARY.encode() in log.read_bytes()] == []


def test_a_run_that_is_stopped_takes_its_workers_along_and_they_put_their_trials_back(
    machines: Machines, postgres_url: str, tmp_path: Path
) -> None:
    file = small.declare(tmp_path, epochs=1000, pruner="none")
    words = ("run", "--study", file, "--trials", 3, "--ray", machines.address, "--workers", 2)
    run = start(*words, folder=tmp_path, storage=postgres_url)  # the other worker waits for a place
    until(lambda: checkpoints(tmp_path))
    workers = ours(machines.workers(machines.cluster.head_node))
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=PATIENCE)

    assert run.returncode == 130, said
    assert f"--ray {machines.address}" in said
    assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == []
    (row,) = small.rows(tmp_path, postgres_url)
    assert (row["state"], row["note"]) == ("waiting", "")


def _command_line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@pytest.mark.parametrize(
    ("address", "given", "problem"),
    [
        (None, {"cpus": 2}, "belong to --ray"),
        (None, {"gpus": 0.5}, "belong to --ray"),
        ("auto", {"workers": 0}, "leave one of them away"),
        ("somewhere", {}, "is none of auto, local"),
        ("http://host:6379", {}, "is none of auto, local"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    address: str | None, given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(typer.BadParameter, match=problem):
        options.cluster(address, **{"cpus": None, "gpus": 0.0, "workers": None, **given})


@pytest.mark.parametrize("address", ["auto", "local", "head:6379", "10.0.0.7:6379", "ray://head:10001"])
def test_a_cluster_is_named_in_these_ways(address: str) -> None:
    cluster = options.cluster(address, cpus=2, gpus=0.5, workers=64)
    assert cluster is not None
    assert (cluster.address, cluster.cpus, cluster.gpus) == (address, 2, 0.5)
