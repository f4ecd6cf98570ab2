"""What runs on a node of a Ray cluster: an actor that holds a worker's resources, and the worker's process below it.

The worker is a process of its own, as it is on one machine: its signals, its threads and its main thread are not Ray's,
and its standard input, which closes when the actor goes, tells it that it is alone. Not here: which workers there are
(ray_pool.py). Nothing heavy is imported: each worker has one of these beside it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_SAID: Final = 20_000  # characters of a worker's last words


class Keeper:
    """Starts one worker, waits for it, stops it when asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # `work` and `stop` come on two threads
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def host(self) -> str:
        """Tell which machine this is; an answer at all means that Ray has placed the actor."""
        return socket.gethostname()

    def work(
        self, arguments: Sequence[str], environment: Mapping[str, str], artifacts: str, needed: Sequence[str]
    ) -> tuple[int, str]:
        """Run a worker to its end.

        Parameters
        ----------
        arguments : sequence of str
            Of ``python -m search.worker``, without its artifact folder. Others can read them.
        environment : mapping
            Beside the node's own; others cannot read it.
        artifacts : str
            As `search.artifacts.location` spells it.
        needed : sequence of str
            Files and folders that have to be on this node.

        Returns
        -------
        int, str
            Its exit code, and what it said.
        """
        folder, absent = artifacts, [path for path in needed if not Path(path).exists()]
        if absent:
            return 2, (
                f"{absent[0]} is not on node {self.host()}. Data and artifact folder are needed at the same path on "
                "every node: share the folder, or keep artifacts in S3 (s3://bucket/prefix)."
            )
        if artifacts.startswith("s3://"):
            from search.artifacts import artifacts_folder  # a second, for Optuna
            from search.errors import SearchError

            try:
                folder = str(artifacts_folder(artifacts, None))
            except SearchError as error:
                return error.exit_code, f"On node {self.host()}: {error}"
        with tempfile.TemporaryFile(prefix="mlc-worker-") as log:
            with self._lock:
                if self._stopped:
                    return 0, ""
                process = self._process = subprocess.Popen(  # noqa: S603 - no shell, and every argument is ours
                    [sys.executable, "-P", "-m", "search.worker", *arguments, "--artifacts", folder],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
            code = process.wait()
            log.seek(0)
            return code, log.read().decode(errors="replace").strip()[-_SAID:]

    def stop(self) -> None:
        """Ask the worker to put its trial back and end."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.send_signal(signal.SIGTERM)
