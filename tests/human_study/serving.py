"""A study's server in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from human_study import links
from human_study.folder import Study
from human_study.simulate import wait_until_up


@dataclass(frozen=True)
class Served:
    study: Study
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def link(self, name: str, admin: bool = False) -> str:
        """A fresh sign-in link for an annotator of this name."""
        person = self.study.store.enrol(name, "admin" if admin else "annotator")
        return f"{self.url}/enter#{links.issue(self.study.store, self.study.key, person.id, hours=1)}"


@contextmanager
def serve(study: Study, *options: str, port: int = 0) -> Iterator[Served]:
    """``study serve`` on this port, or a free one; ends with it."""
    port = port or free_port()
    log = study.folder / "server.log"
    code = "from human_study.cli import study; study()"
    command = [sys.executable, "-c", code, "serve", str(study.folder), "--port", str(port), *options]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(url)
        yield Served(study, url, process, log)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
