"""The executor of a Ray cluster: of this machine by itself, or of many that share a folder.

The driver hands jobs out and follows marks in the study's folder, one a job that runs. Ray itself
tries nothing again: what was lost is counted with its reason.
"""

import logging
import math
import os
import pickle
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wnrl.errors import UsageError, as_usage_error, extra, first_line, printable
from wnrl.runs import RESULT, Stopped
from wnrl.study.attempts import News, become_worker, trained
from wnrl.study.execute import Job

TOKEN = "token"
AHEAD = 2  # jobs in flight for each CPU, so that none waits for the driver
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray hides GPUs from jobs
}
SEEN_SECONDS = 60.0  # in which a file that a node wrote is seen on another one
PROBE_SECONDS = 120.0
STORE = 100 * 2**20  # bytes; what is passed around is small


class Cluster:
    """A Ray cluster that sees the study's folder.

    It is a ``wnrl.study.attempts.Pool``, whose places are the references to tasks of Ray.
    """

    def __init__(self, ray: Any, root: Path, imports: Sequence[str], log: str) -> None:
        self.ray, self.root = ray, root
        self.marks = root / f".ray-{log}marks"
        self._train = ray.remote(num_cpus=1, max_retries=0)(_train)
        self._arguments = root, tuple(imports), log
        self._jobs: dict[Any, tuple[Job, Path]] = {}  # by reference; and its mark
        self._looked = 0.0

    @property
    def size(self) -> int:
        """CPUs of all nodes that it has now."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    def probe(self) -> None:
        """Raise UsageError for the first node that does not see the study's folder."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = os.urandom(8).hex()
        (self.marks / TOKEN).write_text(token)
        look = self.ray.remote(num_cpus=0, max_retries=0)(_look)
        answers = []
        for node in self.ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answer = look.options(scheduling_strategy=there)
                answers.append((node, answer.remote(self.marks, node["NodeID"])))
        for node, answer in answers:
            what = f"node {node['NodeManagerAddress']} of the cluster"
            failed = self.ray.exceptions.RayError
            with as_usage_error(f"{what} cannot work", failed, say=_last_line):
                seen = self.ray.get(answer, timeout=PROBE_SECONDS)
            if seen != token or not _appears(self.marks / node["NodeID"]):
                raise UsageError(f"{what} does not share run_dir {self.root} with this machine")

    def has_room(self) -> bool:
        """Return True where a job would not wait for long."""
        return len(self._jobs) < AHEAD * max(1, self.size)

    def start(self, job: Job) -> Any:
        """Start a job, and return a reference to it."""
        mark = self.marks / os.urandom(8).hex()
        reference = self._train.remote(pickle.dumps(job), mark, *self._arguments)
        self._jobs[reference] = job, mark
        return reference

    def news(self) -> Iterator[News]:
        """Return what happened, within a tenth of a second."""
        references = list(self._jobs)
        if not references:
            time.sleep(0.1)
            return
        ready, _ = self.ray.wait(references, num_returns=len(references), timeout=0.1)
        if time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            begun = {path.name for path in self.marks.iterdir()}  # as it is on the server
            for reference, (_, mark) in self._jobs.items():
                with suppress(OSError, ValueError):  # it is being written
                    if mark.name in begun:
                        yield reference, "progress", float(mark.read_text())
        for reference in ready:
            kind, value = self._end(reference)
            self._forget(reference)
            yield reference, kind, value

    def kill(self, place: Any) -> None:
        """End the job of a reference."""
        self.ray.cancel(place, force=True)
        self._forget(place)

    def stop(self, may_wait: Callable[[], bool]) -> None:
        """Interrupt all jobs, as Ctrl-C would; end what is left when it may wait no more."""
        left = list(self._jobs)
        for reference in left:
            self.ray.cancel(reference)
        while left and may_wait():
            _, left = self.ray.wait(left, num_returns=len(left), timeout=0.1)
        for reference in left:
            self.ray.cancel(reference, force=True)

    def _forget(self, reference: Any) -> None:
        _, mark = self._jobs.pop(reference)
        with suppress(OSError):
            mark.unlink()

    def _end(self, reference: Any) -> tuple[Any, str]:
        errors = self.ray.exceptions
        try:
            kind, value = self.ray.get(reference)
        except (errors.NodeDiedError, errors.OutOfMemoryError) as error:
            return "lost", f"{type(error).__name__}: {first_line(error)}"
        except errors.WorkerCrashedError:
            return "crashed", f"its process died; see the logs in {self.root}"
        except errors.RayError as error:
            return "crashed", _last_line(error)
        if kind == "ended":
            for trial in self._jobs[reference][0].trials:
                _appears(self.root / trial.folder / RESULT)
        return kind, value


def loaded_ray(address: str | None) -> Any:
    """Return the package; raise UsageError where it, or what is at ``address``, is not there."""
    if address not in (None, "auto"):
        words = re.fullmatch(r"([^:/]+):([0-9]{1,5})", address)
        if not words:
            raise UsageError(f"address must be host:port of the head, or auto, got {address!r}")
        with as_usage_error(f"address {address!r}: no cluster there", OSError, OverflowError):
            # Ray itself tries for minutes.
            socket.create_connection((words[1], int(words[2])), timeout=10).close()
    os.environ.update(SETTINGS)
    with extra("ray", "executor ray"):
        import ray
    return ray


@contextmanager
def ray_cluster(
    root: Path,
    cpus: int,
    imports: Sequence[str] = (),
    log: str = "",
    *,
    address: str | None = None,
) -> Iterator[Cluster]:
    """Start a cluster of this machine, or join one, and leave it at the end.

    Args:
        root: The study's folder.
        cpus: Of a cluster that is started.
        imports: Modules that a worker imports first, such as one that registers norms.
        log: Tells logs and marks from those of other shards.
        address: Of the head of one to join, as ``ray start`` tells it, or ``auto``.

    Raises:
        UsageError: Ray is not installed, there is no such cluster, or one of its nodes does not
            see the study's folder.
    """
    ray = loaded_ray(address)
    started = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE}
    where = {"address": address} if address else {"address": "local", **started}
    workers = {"env_vars": {**SETTINGS, "PYTHONPATH": os.pathsep.join(_own_folders())}}
    kinds = (ConnectionError, ValueError, RuntimeError)
    with as_usage_error(f"address {address!r}", *kinds, say=first_line):
        ray.init(**where, runtime_env=workers, log_to_driver=False, logging_level=logging.ERROR)
    cluster = Cluster(ray, root, imports, log)
    try:
        shutil.rmtree(cluster.marks, ignore_errors=True)
        cluster.marks.mkdir()
        cluster.probe()
        yield cluster
    finally:
        ray.shutdown()
        shutil.rmtree(cluster.marks, ignore_errors=True)


def _own_folders() -> list[str]:
    """Return where modules are found besides those of this Python, such as the checkout."""
    pythons = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    folders = [Path(place).resolve() for place in dict.fromkeys(sys.path)]
    return [str(path) for path in folders if not {*pythons} & {path, *path.parents}]


def _appears(path: Path) -> bool:
    """Return whether a file that another machine has written is seen here, in a while."""
    deadline = time.monotonic() + SEEN_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
        with suppress(OSError):
            list(path.parent.iterdir())  # lets a network file system ask its server again
    return path.exists()


def _last_line(error: BaseException) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[-1])


def _look(marks: Path, name: str) -> str:
    """Return what the token is on this node, and leave a file beside it."""
    with suppress(OSError):
        token = (marks / TOKEN).read_text()
        (marks / name).write_text(token)
        return token
    return ""


def _train(
    packed: bytes, mark: Path, root: Path, imports: Sequence[str], log: str
) -> tuple[str, str]:
    """Train a job; the whole of a task of Ray. Its mark has the share done, once a second."""
    become_worker(root / f"{log}{socket.gethostname()}-{os.getpid()}.log", imports)
    job: Job = pickle.loads(packed)  # which may need those modules
    marked = -math.inf

    def progress(share: float) -> None:
        nonlocal marked
        if time.monotonic() - marked > 1.0:
            marked = time.monotonic()
            with suppress(OSError):
                mark.write_text(f"{share:.4f}")

    progress(0.0)
    try:
        return trained(job, root, progress)
    except Stopped as stopped:
        return "lost", stopped.message
