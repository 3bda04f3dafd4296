"""Checkpoints by name, against a small stand-in for the hub on this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

from model.hub import DECODER_FILES, EVA_CLIP_FILES, Located, locate
from model.tensors import CheckpointError
from tests.serving import in_thread

REPO = "owner/tiny"
OLD, NEW = "1" * 40, "2" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same as a pickle",
    "pipeline.py": b"print()",
    "diffusion-decoder/unet/diffusion_pytorch_model.bf16.safetensors": b"unet",
}


@dataclass
class Hub:
    """Two commits of one repository, ``main`` at the newer one; what was asked for is written down."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    gated: bool = False
    busy: list[Answer] = field(default_factory=list)  # what is answered first
    cut: bool = False  # break the connection within a file


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            state.asked.append(f"{self.command} {path}")
            status, headers, body = state.busy.pop(0) if state.busy else answer(state, path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:3] if state.cut and "/resolve/" in path else body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with in_thread(server):
        yield state


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def answer(hub: Hub, path: str) -> Answer:
    if hub.gated:
        return Answer(403, {"X-Error-Code": "GatedRepo"}, b"{}")
    commits = {"main": NEW, OLD: OLD, NEW: NEW}
    if path.startswith(f"/api/models/{REPO}/"):
        kind, revision = path.removeprefix(f"/api/models/{REPO}/").split("/")[:2]
        if revision not in commits:
            return Answer(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}
            for name, content in FILES.items()
        ]
        body = tree if kind == "tree" else {"id": REPO, "sha": commits[revision], "siblings": []}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
    if path.startswith(f"/{REPO}/resolve/"):
        revision, _, name = path.removeprefix(f"/{REPO}/resolve/").partition("/")
        content = FILES[name]
        return Answer(200, {"ETag": f'"{sha1(content).hexdigest()}"', "X-Repo-Commit": commits[revision]}, content)
    return Answer(404, {"X-Error-Code": "RepoNotFound"}, b"{}")


def stored(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_stays_as_it_is(tmp_path: Path) -> None:
    located = locate(str(tmp_path))
    assert located == Located(tmp_path)
    assert located.name == str(tmp_path)


def test_a_branch_is_resolved_to_its_commit(hub: Hub) -> None:
    located = locate(REPO)
    assert (located.repo, located.revision) == (REPO, NEW)
    assert located.name == f"{REPO}@{NEW}"
    assert stored(located.folder) == FILES.keys() - {"pytorch_model.bin", "pipeline.py"}
    assert (located.folder / "model.safetensors").read_bytes() == b"weights"


def test_only_the_files_asked_for_are_fetched_and_only_once(hub: Hub) -> None:
    located = locate(f"{REPO}@{OLD}", without=DECODER_FILES)
    assert (located.revision, stored(located.folder)) == (OLD, {"config.json", "model.safetensors"})
    assert not [path for path in hub.asked if "diffusion-decoder" in path]
    hub.asked.clear()
    assert locate(located.name, without=DECODER_FILES) == located
    assert not [path for path in hub.asked if "/resolve/" in path]
    assert "pytorch_model.bin" in stored(locate(f"{REPO}@{OLD}", EVA_CLIP_FILES).folder)


def test_without_a_network_the_cache_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    located = locate(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(REPO) == locate(located.name) == located
    with pytest.raises(CheckpointError, match=r"does not hold all of owner/other: download it once"):
        locate("owner/other")
    with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE is set.* does not hold all of owner/tiny"):
        locate(REPO, (*EVA_CLIP_FILES, "*.safetensors"))


def test_an_unknown_repository_or_revision_is_named(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"no model owner/other at http.*: check the name"):
        locate("owner/other")
    with pytest.raises(CheckpointError, match="owner/tiny has no revision 'nowhere'"):
        locate(f"{REPO}@nowhere")
    with pytest.raises(CheckpointError, match=r"runs/none/here is neither a folder nor owner/name"):
        locate("runs/none/here")
    with pytest.raises(CheckpointError, match=r"holds none of \*\.onnx"):
        locate(REPO, ("*.onnx",))


def test_a_gated_repository_says_where_to_ask(hub: Hub) -> None:
    hub.gated = True
    with pytest.raises(CheckpointError, match=rf"accept its terms at {hub.url}/owner/tiny, then run `hf auth login`"):
        locate(REPO)


def test_room_is_checked_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4))
    with pytest.raises(CheckpointError, match=r"needs 0\.0 GB, .* make room, or set HF_HOME"):
        locate(REPO)
    assert not [asked for asked in hub.asked if asked.startswith(f"GET /{REPO}/resolve/")]


def test_what_is_cached_needs_no_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    located = locate(REPO)
    usage = shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    assert locate(REPO) == located


def test_a_hub_that_does_not_answer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"^http://127\.0\.0\.1:9 cannot be reached"):
        locate(REPO)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited for the hub, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(hub: Hub, waits: list[float], status: int) -> None:
    hub.busy = [Answer(status, {"Retry-After": "5"}, b"")] * 2
    assert stored(locate(REPO).folder) == FILES.keys() - {"pytorch_model.bin", "pipeline.py"}
    assert waits == [5, 5]


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_stays_busy_is_left_to_the_user(hub: Hub, waits: list[float], status: int) -> None:
    hub.busy = [Answer(status, {"Retry-After": "5"}, b"")] * 200
    with pytest.raises(
        CheckpointError, match=rf"^owner/tiny: {hub.url} answered {status}: run the command again later"
    ):
        locate(REPO)
    hub.busy = []
    assert locate(REPO).revision == NEW


@pytest.mark.usefixtures("waits")
def test_a_connection_that_breaks_within_a_file_leaves_nothing_that_is_taken_for_whole(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut = True
    with pytest.raises(CheckpointError, match=r"^owner/tiny: the connection broke .*; run the command again to go on$"):
        locate(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="does not hold all of owner/tiny"):
        locate(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.cut = False
    assert (locate(REPO).folder / "model.safetensors").read_bytes() == b"weights"


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/cache/models--owner--tiny: Not a directory; .* HF_HOME"):
        locate(REPO)
    (tmp_path / "cache").unlink()
    assert locate(REPO).revision == NEW
