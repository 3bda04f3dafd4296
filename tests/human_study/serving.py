"""A study's server in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from human_study import links
from human_study.folder import Study
from human_study.simulate import Tab, wait_until_up

ROOT = Path(__file__).resolve().parents[2]


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
def serve(study: Study, *options: str, port: int = 0, folder: Path | None = None) -> Iterator[Served]:
    """``study serve`` on this port, or a free one, started in ``folder``; ends with it."""
    port = port or free_port()
    log = study.folder / "server.log"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from human_study.cli import study; study()"
    command = [sys.executable, "-c", code, "serve", str(study.folder.resolve()), "--port", str(port), *options]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(url)
        yield Served(study, url, process, log)
    finally:
        process.kill()
        process.wait()


def link_button(tab: Tab) -> str:
    """Where the page's link leads."""
    elements = (one.delta.new_element for one in map(ForwardMsg.FromString, tab.received))
    return next(str(one.link_button.url) for one in elements if one.WhichOneof("type") == "link_button")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
