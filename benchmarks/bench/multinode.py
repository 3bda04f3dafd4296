"""Two torchrun agents on this machine, one killed, resumed by one process: ``make demo-multinode``.

The two stand for two nodes that share a folder. One is killed (SIGKILL, agent and worker) while it works on its part;
the other ends its own; one process without torchrun then does what is left. All that the run holds is compared with a
run that nobody interrupted. Exit code 0: no difference.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from benchmarks import store
from benchmarks.types import Prediction, Verdict

#: 24 images, two at a time, so that there are moments between two batches to be killed at.
TOY = ("blip3o_bench", "run", "geneval", "--suite", "toy", "--limit", "24", "--batch-size", "2", "--out")
#: Seconds that any one step may take.
PATIENCE = 600


class DemoError(Exception):
    """There was nothing to compare: a process failed, or none was interrupted."""


def demonstrate(module: Sequence[str], folder: Path) -> list[str]:
    """Run ``python -m MODULE... OUT`` alone, and on two nodes of which one dies; returns what differs.

    ``folder`` takes both runs and what their processes print. Raises DemoError.
    """
    alone, shared = folder / "alone", folder / "shared"
    print("one process, not interrupted", flush=True)
    _run_alone(module, alone)
    total = _stored(alone)

    print("two nodes over one folder, each a torchrun agent with one worker", flush=True)
    nodes = _start_nodes(module, shared)
    try:
        _wait(lambda: _stored(shared, rank=1) >= 2, nodes)
        _kill(nodes[1])
        print(f"node 1 killed (SIGKILL): {_stored(shared)} of {total} samples are stored", flush=True)
        _wait(lambda: _stored(shared, rank=0) > 0 and not _workers(nodes[0]), nodes[:1])
    finally:
        # An agent whose worker is done waits 5 minutes for the agent that died.
        for node in nodes:
            _kill(node)
    before = _stored(shared)
    if (shared / "run.json").exists() or before == total:
        raise DemoError("node 1 had done its part before it was killed")
    print(f"node 0 has done its part: {before} of {total} samples are stored", flush=True)

    print("the same command by one process, without torchrun", flush=True)
    _run_alone(module, shared)
    print(f"it did the {_stored(shared) - before} samples that were missing", flush=True)
    return differences(alone, shared)


def _run_alone(module: Sequence[str], out: Path) -> None:
    with out.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", *module, str(out)]
        code = subprocess.run(command, stdout=log, stderr=log, timeout=PATIENCE, check=False).returncode
    if code != 0:
        raise DemoError(f"{' '.join(command)} exited with {code}:\n{Path(log.name).read_text()}")


def _start_nodes(module: Sequence[str], out: Path) -> list[subprocess.Popen[bytes]]:
    """The agents of node 0 and node 1; rank and node are the same, since each has one worker."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "static", "--rdzv-endpoint", f"localhost:{port}"]
    nodes = []
    for rank in range(2):
        with out.with_name(f"node{rank}.log").open("wb") as log:
            command = [*torchrun, "--node-rank", str(rank), "-m", *module, str(out)]
            nodes.append(subprocess.Popen(command, stdout=log, stderr=log))
    return nodes


def _wait(done: Callable[[], bool], nodes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        codes = [node.poll() for node in nodes]
        if any(codes) or time.monotonic() > deadline:
            raise DemoError(f"no progress within {PATIENCE} s, or a node failed: exit codes {codes}")
        time.sleep(0.01)


def _kill(node: subprocess.Popen[bytes]) -> None:
    """As a power cut does: torchrun's workers live in sessions of their own and would outlive their agent."""
    workers = _workers(node)
    node.kill()
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    node.wait()


def _workers(node: subprocess.Popen[bytes]) -> list[int]:
    """The child processes of an agent, none once it has ended."""
    return [int(pid) for path in Path(f"/proc/{node.pid}/task").glob("*/children") for pid in path.read_text().split()]


def _stored(root: Path, rank: int | None = None) -> int:
    """Predictions in the run so far, of all ranks or of one."""
    shard = "rank*.jsonl" if rank is None else f"rank{rank:05d}.jsonl"
    return sum(path.read_bytes().count(b"\n") for path in root.glob(f"*/predictions/{shard}"))


def differences(one: Path, other: Path) -> list[str]:
    """The files and rows in which two complete runs differ, of all that must not depend on how a run was made."""
    contents, others = _contents(one), _contents(other)
    return sorted(name for name in contents.keys() | others.keys() if contents.get(name) != others.get(name))


def _contents(root: Path) -> dict[str, object]:
    """Files whole; rows by their id and without their time, because shards depend on who did what."""
    contents: dict[str, object] = {"run.json": (root / "run.json").read_bytes()}
    for record in store.read_records(root):  # so that a difference has a name, such as another revision of the code
        contents |= {f"run.json: {record.benchmark}.{field}": value for field, value in vars(record).items()}
    for scores in root.glob("*/scores.jsonl"):
        folder = scores.parent
        files = [scores, *(path for path in folder.glob("images/**/*") if path.is_file())]
        contents |= {str(path.relative_to(root)): path.read_bytes() for path in files}
        rows: list[Prediction | Verdict] = list(store.read_predictions(folder).values())
        rows += store.read_verdicts(folder).values()
        contents |= {f"{folder.name}: {type(row).__name__} {row.id}": {**asdict(row), "seconds": 0} for row in rows}
    return contents


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            differing = demonstrate(TOY, Path(folder))
        except DemoError as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    print("\n".join(f"differs: {name}" for name in differing) or "scores, records, rows and images are the same bytes")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
