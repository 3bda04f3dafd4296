from __future__ import annotations

import email.utils
import errno
import hashlib
import io
import json
import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import datasets
from benchmarks.datasets import DATASETS, Dataset, HubDataset, RemoteFile, fetch, locate, revision, verify
from benchmarks.types import BenchError
from tests.serving import in_thread

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path but /absent, and keeps the Range headers it was sent."""

    busy: Sequence[tuple[int, str | None]] = ()  # status and Retry-After of the first answers
    content = CONTENT
    listed = ("data/test-0.parquet", "data/test-1.parquet")
    cut_after: int | None = None  # break the connection after so many bytes
    honours_range = True
    tells_length = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.tokens: list[str | None] = []
        self.commit = "1" * 40
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        if self.server.busy:
            (status, after), *self.server.busy = self.server.busy
            self.send_response(status)
            if after is not None:
                self.send_header("Retry-After", after)
            self.end_headers()
            return
        if self.path.startswith("/api/"):
            self.answer_as_hub()
            return
        self.server.ranges.append(asked)
        self.server.tokens.append(self.headers["Authorization"])
        if self.path == "/absent":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.honours_range else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # a client may have heard enough
            self.wfile.write(body[: self.server.cut_after])

    def answer_as_hub(self) -> None:
        """Two pages of the file tree of one data set, whose main branch is at the server's commit."""
        commit, api = self.server.commit, "/api/datasets/owner/tiny"
        if self.path == f"{api}/revision/main":
            body: object = {"sha": commit}
        elif self.path.startswith(f"{api}/tree/{commit}?recursive=true"):
            page = int("page=2" in self.path)
            body = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(self.server.content),
                    "lfs": {"oid": hashlib.sha256(self.server.content).hexdigest()},
                }
                for path in (self.server.listed[page], ("README.md", "data/train-0.parquet")[page])
            ]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        if "tree" in self.path and "page=2" not in self.path:
            self.send_header("Link", f'<{self.server.url}{self.path}&page=2>; rel="next"')
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with in_thread(Server()) as running:
        yield running


@pytest.fixture
def pinned(server: Server, monkeypatch: pytest.MonkeyPatch) -> RemoteFile:
    """The only file of a data set named ``tiny``."""
    file = RemoteFile("content.bin", f"{server.url}/content.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    pin(monkeypatch, file)
    return file


def pin(monkeypatch: pytest.MonkeyPatch, file: RemoteFile) -> None:
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": Dataset("tiny", "1", "MIT", (file,))})


@pytest.mark.usefixtures("pinned")
def test_fetched_file_is_located_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fetch("tiny", tmp_path)

    assert (folder / "content.bin").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["content.bin"]
    assert locate("tiny", tmp_path) == folder
    assert verify("tiny", tmp_path) == {"content.bin": hashlib.sha256(CONTENT).hexdigest()}
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "content.bin: 307kB" in printed.err


@pytest.mark.usefixtures("pinned")
def test_second_fetch_asks_the_server_nothing(server: Server, tmp_path: Path) -> None:
    fetch("tiny", tmp_path)
    fetch("tiny", tmp_path)

    assert server.ranges == [None]


@pytest.mark.usefixtures("pinned")
def test_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_after = 100_000
    with pytest.raises(BenchError, match="connection broke"):
        fetch("tiny", tmp_path)
    with pytest.raises(BenchError, match="is not there"):
        locate("tiny", tmp_path)

    server.cut_after = None
    folder = fetch("tiny", tmp_path)

    assert (folder / "content.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


@pytest.mark.usefixtures("pinned")
def test_download_starts_over_where_the_server_knows_no_range(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "content.bin.part").write_bytes(CONTENT[:5000])
    server.honours_range = False

    folder = fetch("tiny", tmp_path)

    assert (folder / "content.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("tells_length", [True, False])
def test_file_without_published_size(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells_length: bool
) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    pin(monkeypatch, RemoteFile("content.bin", f"{server.url}/content.bin", None, digest[:8]))
    server.tells_length = tells_length

    folder = fetch("tiny", tmp_path)

    assert (folder / "content.bin").read_bytes() == CONTENT
    assert verify("tiny", tmp_path) == {"content.bin": digest}


def test_whole_part_of_unpublished_size_needs_no_more_bytes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, RemoteFile("content.bin", f"{server.url}/x", None, hashlib.sha256(CONTENT).hexdigest()[:8]))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "content.bin.part").write_bytes(CONTENT)

    folder = fetch("tiny", tmp_path)

    assert (folder / "content.bin").read_bytes() == CONTENT
    assert server.ranges == ["bytes=307200-"]


def test_wrong_content_is_not_kept(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, RemoteFile("content.bin", f"{server.url}/content.bin", len(CONTENT), "0" * 64))

    with pytest.raises(BenchError, match=f"expected {'0' * 64}"):
        fetch("tiny", tmp_path)

    assert list((tmp_path / "tiny").iterdir()) == []


def test_content_pinned_by_git_is_checked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = hashlib.sha1(f"blob {len(CONTENT)}\0".encode() + CONTENT).hexdigest()
    pin(monkeypatch, RemoteFile("content.bin", f"{server.url}/content.bin", None, "", blob))
    fetch("tiny", tmp_path)
    assert list(verify("tiny", tmp_path)) == ["content.bin"]
    (tmp_path / "tiny" / "content.bin").write_bytes(b"another")
    with pytest.raises(BenchError, match=f"expected {blob}"):
        verify("tiny", tmp_path)


@pytest.mark.usefixtures("pinned")
def test_changed_file_is_found_and_replaced(tmp_path: Path) -> None:
    path = fetch("tiny", tmp_path) / "content.bin"
    path.write_bytes(CONTENT[:-1] + b"?")

    assert locate("tiny", tmp_path) == path.parent  # same size
    with pytest.raises(BenchError, match="has sha256"):
        verify("tiny", tmp_path)
    fetch("tiny", tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.usefixtures("pinned")
def test_truncated_file_is_not_located(tmp_path: Path) -> None:
    path = fetch("tiny", tmp_path) / "content.bin"
    path.write_bytes(CONTENT[:10])

    with pytest.raises(BenchError, match="10 bytes instead of 307200"):
        locate("tiny", tmp_path)


@pytest.mark.usefixtures("pinned")
def test_too_small_a_disk_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300_000))

    with pytest.raises(BenchError, match=r"300kB free, 67\.4MB needed"):
        fetch("tiny", tmp_path)

    assert list((tmp_path / "tiny").iterdir()) == []


def test_missing_page_names_the_status(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, RemoteFile("content.bin", f"{server.url}/absent", 1, "00"))

    with pytest.raises(BenchError, match="answered 404"):
        fetch("tiny", tmp_path)


def test_offline_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    pin(monkeypatch, RemoteFile("content.bin", f"http://127.0.0.1:{port}/content.bin", 1, "00"))

    with pytest.raises(BenchError, match="cannot be reached") as caught:
        fetch("tiny", tmp_path)

    assert str(tmp_path / "tiny" / "content.bin") in str(caught.value)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited for a server, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.mark.usefixtures("pinned")
def test_a_busy_server_is_asked_again_when_it_says(
    server: Server, tmp_path: Path, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.busy = ((429, "7"), (503, None), (503, date))

    folder = fetch("tiny", tmp_path)

    assert (folder / "content.bin").read_bytes() == CONTENT
    assert waits[:2] == [7, 2]
    assert waits[2] == pytest.approx(30, abs=2)
    assert "content.bin: the server answered 429 Too Many Requests, again in 7 s" in capsys.readouterr().err


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((429, "3600"), "answered 429 Too Many Requests: it is busy; run the command again in 3600 s to go on"),
        ((503, None), "answered 503 Service Unavailable: it is busy; run the command again later to go on"),
    ],
)
def test_a_server_that_stays_busy_is_left_to_the_user(
    server: Server, tmp_path: Path, waits: list[float], answer: tuple[int, str | None], told: str
) -> None:
    server.busy = (answer,) * 5
    with pytest.raises(BenchError, match=told):
        fetch("tiny", tmp_path)
    assert waits == ([] if answer[1] else [1, 2, 4, 8])

    server.busy = ()
    assert (fetch("tiny", tmp_path) / "content.bin").read_bytes() == CONTENT


@pytest.mark.usefixtures("pinned")
def test_a_file_of_another_length_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT * 2
    with pytest.raises(BenchError, match="has 614400 bytes, expected 307200: it is another file"):
        fetch("tiny", tmp_path)
    assert list((tmp_path / "tiny").iterdir()) == []


@pytest.mark.usefixtures("pinned")
def test_a_server_that_sends_too_much_is_not_listened_to(server: Server, tmp_path: Path) -> None:
    """It tells no length; what came up to the pinned size is the file."""
    server.tells_length, server.content = False, CONTENT * 100
    assert (fetch("tiny", tmp_path) / "content.bin").read_bytes() == CONTENT


def test_a_file_without_end_does_not_fill_the_disk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, RemoteFile("content.bin", f"{server.url}/content.bin", None, "00" * 32))
    server.tells_length, server.content = False, CONTENT * 100
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(BenchError, match=r"1\.00MB free, 67\.1MB needed"):
        fetch("tiny", tmp_path)


@pytest.mark.usefixtures("pinned")
def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    with pytest.raises(BenchError, match=r"cache/tiny: Not a directory; mend that, or choose .* --data-dir or BLIP3O"):
        fetch("tiny", tmp_path / "cache")
    (tmp_path / "cache").unlink()
    assert fetch("tiny", tmp_path / "cache").is_dir()


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize("refusal", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_in_the_middle_is_told_and_the_next_fetch_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    replaced = os.replace

    def refuse(source: Path, target: Path) -> None:
        raise OSError(refusal, os.strerror(refusal), str(source))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(BenchError, match=f"content.bin.part: {os.strerror(refusal)}; mend that"):
        fetch("tiny", tmp_path)
    with pytest.raises(BenchError, match="is not there"):
        locate("tiny", tmp_path)
    monkeypatch.setattr(os, "replace", replaced)
    assert (fetch("tiny", tmp_path) / "content.bin").read_bytes() == CONTENT
    assert server.ranges == [None]  # the part was whole


def test_absent_data_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match=f"`blip3o-bench data fetch geneval --data-dir {tmp_path}`"):
        locate("geneval", tmp_path)
    monkeypatch.setenv("BLIP3O_BENCH_DATA", str(tmp_path))
    with pytest.raises(BenchError, match="`blip3o-bench data fetch geneval`"):
        locate("geneval")


def test_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="unknown data set 'genevil': choose among geneval, "):
        fetch("genevil", tmp_path)


def test_every_data_set_is_pinned() -> None:
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        if isinstance(dataset, HubDataset):  # pinned by the first fetch
            continue
        for file in dataset.files:
            assert file.url.startswith("https://")
            assert dataset.revision in file.url
            assert len(file.sha256) == 64 or f"-{file.sha256}." in file.name or len(file.git_blob) == 40


def test_real_geneval_files_are_those_pinned(bench_data: Path) -> None:
    digests = verify("geneval", bench_data)

    assert list(digests) == ["evaluation_metadata.jsonl", "object_names.txt"]


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A data set named ``tiny`` on the hub, of which the test split is wanted."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    tiny = HubDataset("tiny", "owner/tiny", "*test-*.parquet", "MIT")
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": tiny})
    return server


def test_of_a_data_set_on_the_hub_only_the_split_is_fetched(
    hub: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        BenchError,
        match=r"revision.json is not there: run `blip3o-bench data fetch tiny .*` \(from owner/tiny; it tells the size",
    ):
        locate("tiny", tmp_path)
    folder = fetch("tiny", tmp_path)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")} == {
        "data/test-0.parquet",
        "data/test-1.parquet",
    }
    assert locate("tiny", tmp_path) == folder
    assert verify("tiny", tmp_path).keys() == {"data/test-0.parquet", "data/test-1.parquet"}
    assert "owner/tiny: 2 files, 614kB to fetch" in capsys.readouterr().err
    assert hub.tokens == ["Bearer secret"] * 2


def test_the_first_fetch_pins_the_commit(hub: Server, tmp_path: Path) -> None:
    folder = fetch("tiny", tmp_path)
    hub.commit = "2" * 40  # the publisher goes on
    (folder / "data" / "test-1.parquet").write_bytes(b"damaged")
    with pytest.raises(BenchError, match="has 7 bytes instead of"):
        locate("tiny", tmp_path)
    fetch("tiny", tmp_path)
    assert revision("tiny", tmp_path) == "1" * 40
    assert verify("tiny", tmp_path).keys() == {"data/test-0.parquet", "data/test-1.parquet"}


def test_a_data_set_that_the_hub_does_not_have_is_named(
    hub: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": HubDataset("tiny", "owner/gone", "*", "MIT")})
    with pytest.raises(BenchError, match="owner/gone/revision/main: the server answered 404"):
        fetch("tiny", tmp_path)
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": HubDataset("tiny", "owner/tiny", "*dev-*.parquet", "MIT")})
    with pytest.raises(BenchError, match="has no files"):
        fetch("tiny", tmp_path)


@pytest.mark.parametrize("name", ["../../test-1.parquet", "/tmp/test-1.parquet"])
def test_a_name_that_leaves_the_folder_is_refused(hub: Server, tmp_path: Path, name: str) -> None:
    hub.listed = ("data/test-0.parquet", name)
    with pytest.raises(BenchError, match="would leave"):
        fetch("tiny", tmp_path / "a" / "b")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert hub.ranges == []


def test_a_busy_hub_is_asked_again(hub: Server, tmp_path: Path, waits: list[float]) -> None:
    hub.busy = ((503, "1"), (429, "2"))
    assert len(verify("tiny", fetch("tiny", tmp_path).parent)) == 2
    assert waits == [1, 2]


def test_without_a_network_the_way_by_another_machine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    tiny = HubDataset("tiny", "owner/tiny", "*test-*.parquet", "MIT")
    monkeypatch.setattr(datasets, "DATASETS", {"tiny": tiny})
    told = (
        rf"^http://127.0.0.1:9/api/datasets/owner/tiny/revision/main cannot be reached .* copy .* to {tmp_path}/tiny$"
    )
    with pytest.raises(BenchError, match=told):
        fetch("tiny", tmp_path)


def test_a_page_in_the_place_of_the_hubs_answer_is_told(hub: Server, tmp_path: Path) -> None:
    hub.busy = ((200, None),)  # as of a proxy that wants a sign-in: no JSON
    with pytest.raises(BenchError, match="did not answer in JSON"):
        fetch("tiny", tmp_path)
    assert len(verify("tiny", fetch("tiny", tmp_path).parent)) == 2


def test_images_that_come_as_an_archive_are_unpacked_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("imgs/art/1.jpg", b"one")
    server.content, server.listed = buffer.getvalue(), ("imgs.zip", "other.zip")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(
        datasets, "DATASETS", {"tiny": HubDataset("tiny", "owner/tiny", "imgs*", "MIT", images="imgs.zip")}
    )
    for _ in range(2):
        folder = fetch("tiny", tmp_path)
        assert (folder / "imgs" / "art" / "1.jpg").read_bytes() == b"one"
    assert server.ranges == [None]


def test_a_full_disk_is_told_before_the_first_byte(
    hub: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(BenchError, match=r"1\.00kB free"):
        fetch("tiny", tmp_path)
    assert hub.ranges == []
