"""Where each benchmark's data comes from: pinned revision, size, sha256, licence; and fetching it.

Files lie under ``data_dir()`` in one folder per data set. ``locate`` is what benchmarks call; ``fetch`` is
the only function of the suite that reaches for the network on its own. Of a data set on the Hugging Face hub only the
split that is scored is fetched; ``revision.json`` beside it keeps the commit, and with it what its files are.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.disk import replace_file
from benchmarks.paths import unpack, within
from benchmarks.types import BenchError

_CHUNK = 1 << 20  # bytes read at once
_TIMEOUT = 60.0  # seconds without a byte
_SPARE = 64 << 20  # bytes left free on the disk beside the file itself
_BUSY = frozenset({408, 429, 500, 502, 503, 504})  # answers that another try may change
_TRIES = 5
_LONGEST_WAIT = 120  # seconds that a server may ask to wait for before it is left to the user


@dataclass(frozen=True)
class RemoteFile:
    """One file. ``size`` in bytes, None where the publisher does not tell; ``sha256`` in hex, or its first digits.

    ``git_blob`` is git's name of the content, where no more of it is known.
    """

    name: str
    url: str
    size: int | None
    sha256: str
    git_blob: str = ""


@dataclass(frozen=True)
class HubDataset:
    """Files of a data set on the Hugging Face hub: of the columns, the parquet files of one split.

    ``pattern`` matches their paths in the repository. Without a revision the first fetch takes the current commit and
    pins it; sizes and digests are the hub's own. ``images`` names a zip file among them that is unpacked beside it.
    """

    name: str
    repo: str
    pattern: str
    licence: str
    revision: str = "main"
    images: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The files of one folder under the data directory, as one revision of their publisher has them."""

    name: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]


_GENEVAL_COMMIT = "af4902f24d3ca90ebbb446dd9891a59e0f82725f"
_GENEVAL = f"https://raw.githubusercontent.com/djghosh13/geneval/{_GENEVAL_COMMIT}"

_GENEVAL_PROMPTS = Dataset(
    name="geneval",
    revision=_GENEVAL_COMMIT,
    licence="MIT",
    files=(
        RemoteFile(
            name="evaluation_metadata.jsonl",
            url=f"{_GENEVAL}/prompts/evaluation_metadata.jsonl",
            size=85209,
            sha256="5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
        ),
        RemoteFile(
            name="object_names.txt",
            url=f"{_GENEVAL}/evaluation/object_names.txt",
            size=642,
            sha256="608f6a0e5c8ca1c7a92b818430141fe268c85b7930b50f4160f1d65893b5bacd",
        ),
    ),
)

_GENEVAL_ANNOTATIONS = Dataset(
    name="geneval-annotations",
    revision=_GENEVAL_COMMIT,
    licence="MIT",
    files=tuple(
        RemoteFile(f"annotations_{model}.csv", f"{_GENEVAL}/annotations/annotations_{model}.csv", size, sha256)
        for model, size, sha256 in (
            ("clip", 528758, "84c5f364945543d15f5407ca1c2542cfaa571550dbf4922eff1399e7f91b7ce1"),
            ("sdv2", 544014, "973f029073f9b7f2ee7b3bbbff6a473db92486af94beebae1eb2bd2d01a5a6a7"),
            ("if-xl", 553946, "107cfe75e232374609c28278e734dfa0c88daed3fc5cea21d34631075a0f7a32"),
        )
    ),
)

_ELLA_COMMIT = "3c228f1dc6c4d3cad0a47493816151a419f14db3"
_DPG = Dataset(
    name="dpg",
    revision=_ELLA_COMMIT,
    licence="Apache-2.0",
    files=(
        RemoteFile(
            name="dpg_bench.csv",
            url=f"https://raw.githubusercontent.com/TencentQQGYLab/ELLA/{_ELLA_COMMIT}/dpg_bench/dpg_bench.csv",
            size=None,
            sha256="",
            git_blob="98457fc9901943f51ff9a30367250fc292533bed",
        ),
    ),
)

# GenEval's own detector config, as mmdetection 3.x publishes it.
_MASK2FORMER = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco"
_MASK2FORMER_SWIN_S = Dataset(
    name="mask2former-swin-s",
    revision="20220504_001756",
    licence="Apache-2.0",
    files=(
        RemoteFile(
            name=f"{_MASK2FORMER}_20220504_001756-c9d0c4f2.pth",
            url=(
                f"https://download.openmmlab.com/mmdetection/v3.0/mask2former/{_MASK2FORMER}/"
                f"{_MASK2FORMER}_20220504_001756-c9d0c4f2.pth"
            ),
            size=None,
            # OpenMMLab names a checkpoint by the first eight digits of its sha256
            # (mmdetection, tools/model_converters/publish_model.py) and publishes no more of it.
            sha256="c9d0c4f2",
        ),
    ),
)

# The file that open_clip calls ViT-L-14, pretrained "openai"; its address holds its sha256 (open_clip/pretrained.py).
_CLIP_SHA256 = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
_CLIP_VIT_L_14 = Dataset(
    name="clip-vit-l-14",
    revision="openai",
    licence="MIT",
    files=(
        RemoteFile(
            name="ViT-L-14.pt",
            url=f"https://openaipublic.azureedge.net/clip/models/{_CLIP_SHA256}/ViT-L-14.pt",
            size=None,
            sha256=_CLIP_SHA256,
        ),
    ),
)

# The network behind every FID, with weights of 2015; size and digest as k-diffusion has them.
_INCEPTION = Dataset(
    name="inception",
    revision="2015-12-05",
    licence="see NVlabs/stylegan2-ada-pytorch",
    files=(
        RemoteFile(
            name="inception-2015-12-05.pt",
            url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
            size=95607719,
            sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        ),
    ),
)

# open_clip's ViT-B-32, pretrained "openai"; its address holds its sha256 (open_clip/pretrained.py).
_B32_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
_CLIP_VIT_B_32 = Dataset(
    name="clip-vit-b-32",
    revision="openai",
    licence="MIT",
    files=(
        RemoteFile(
            name="ViT-B-32.pt",
            url=f"https://openaipublic.azureedge.net/clip/models/{_B32_SHA256}/ViT-B-32.pt",
            size=None,
            sha256=_B32_SHA256,
        ),
    ),
)

#: OpenAI's files of CLIP are TorchScript archives, which hold code: they are known by their sha256.
OPENAI_CLIP = frozenset({_CLIP_SHA256, _B32_SHA256})

_SEE_CARD = "see the card on the hub"


def _lmms(name: str, repo: str, pattern: str) -> HubDataset:
    """One of the data sets that lmms-eval's tasks read; since 0.7.3 they are those of lmms-lab-encoder."""
    return HubDataset(name, f"lmms-lab-encoder/{repo}", pattern, _SEE_CARD)


DATASETS: Mapping[str, Dataset | HubDataset] = {
    "geneval": _GENEVAL_PROMPTS,
    "geneval-annotations": _GENEVAL_ANNOTATIONS,
    "mask2former-swin-s": _MASK2FORMER_SWIN_S,
    "clip-vit-l-14": _CLIP_VIT_L_14,
    "dpg": _DPG,
    "inception": _INCEPTION,
    "clip-vit-b-32": _CLIP_VIT_B_32,
    "mjhq": HubDataset("mjhq", "playgroundai/MJHQ-30K", "m*", _SEE_CARD, images="mjhq30k_imgs.zip"),
    "vqav2": _lmms("vqav2", "VQAv2", "*validation-*.parquet"),
    "vqav2_test": _lmms("vqav2_test", "VQAv2", "*test-*.parquet"),
    "mmbench": _lmms("mmbench", "MMBench", "en/dev-*.parquet"),
    "seedbench": _lmms("seedbench", "SEED-Bench", "*test-*.parquet"),
    "mmvet": _lmms("mmvet", "MMVet", "*test-*.parquet"),
    "mme": _lmms("mme", "MME", "*test-*.parquet"),
    "mmmu": _lmms("mmmu", "MMMU", "*validation-*.parquet"),
    "realworldqa": _lmms("realworldqa", "RealWorldQA", "*test-*.parquet"),
    "textvqa": _lmms("textvqa", "textvqa", "*validation-*.parquet"),
}


def data_dir() -> Path:
    """The folder of all data sets: ``$BLIP3O_BENCH_DATA``, else ``~/.cache/blip3o-bench``."""
    return Path(os.environ.get("BLIP3O_BENCH_DATA") or "~/.cache/blip3o-bench").expanduser()


def locate(name: str, root: Path | None = None) -> Path:
    """The folder that holds a fetched data set; ``root`` stands for ``data_dir()``.

    Looks at presence and size, which is quick; ``verify`` reads the content.
    Raises BenchError with the command that fetches it when a file is absent or of another size.
    """
    dataset, folder = _find(name, root)
    for file in _files(dataset, folder, fetch_command(name, root)):
        path = folder / file.name
        if not path.is_file():
            raise BenchError(f"{path} is not there: run `{fetch_command(name, root)}`")
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            raise BenchError(
                f"{path} has {size} bytes instead of {file.size}: run `{fetch_command(name, root)}` to replace it"
            )
    return folder


def verify(name: str, root: Path | None = None) -> dict[str, str]:
    """Read every file of a data set: file name -> sha256 in hex. Raises BenchError at a file that is not as pinned."""
    dataset, _ = _find(name, root)
    folder = locate(name, root)
    files = _files(dataset, folder, fetch_command(name, root))
    digests = {file.name: _sha256(folder / file.name) for file in files}
    for file in files:
        if fault := _fault(folder / file.name, file):
            raise BenchError(f"{folder / file.name} {fault}: run `{fetch_command(name, root)}` to replace it")
    return digests


def fetch(name: str, root: Path | None = None) -> Path:
    """Download what is not there yet, say on stderr what and how large, and return the folder.

    An interrupted download goes on where it stopped. A file takes its place only after its digest was checked.
    A busy server is asked again when it says (Retry-After), or after 1, 2, 4 and 8 seconds.
    Raises BenchError when the host cannot be reached, the disk does not take it or the content is not as pinned; the
    same command then goes on.
    """
    dataset, folder = _find(name, root)
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = _pin(dataset, folder) if isinstance(dataset, HubDataset) else dataset.files
        for file in files:
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and not _fault(path, file):
                print(f"{path}: there already", file=sys.stderr)
            else:
                _download(file, path)
        if isinstance(dataset, HubDataset) and dataset.images is not None:
            _unpack_images(folder / dataset.images)
    return folder


def _unpack_images(archive: Path) -> None:
    target = archive.with_suffix("")
    if not target.is_dir():
        print(f"{archive}: unpacking", file=sys.stderr)
        unpack(archive, target)


def git_blob(content: bytes) -> str:
    """What ``git hash-object`` says of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def revision(name: str, root: Path | None = None) -> str:
    """The revision of a fetched data set: pinned here, or the hub's commit that was fetched."""
    dataset, folder = _find(name, root)
    if isinstance(dataset, Dataset):
        return dataset.revision
    return str(_pinned(dataset, folder, fetch_command(name, root))["commit"])


def _files(dataset: Dataset | HubDataset, folder: Path, command: str) -> tuple[RemoteFile, ...]:
    if isinstance(dataset, Dataset):
        return dataset.files
    return tuple(RemoteFile(**file) for file in _pinned(dataset, folder, command)["files"])


def _pinned(dataset: HubDataset, folder: Path, command: str) -> dict[str, Any]:
    path = folder / "revision.json"
    try:
        pinned: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise BenchError(
            f"{path} is not there: run `{command}` (from {dataset.repo}; it tells the size first)"
        ) from None
    except ValueError as error:
        raise BenchError(f"{path} is damaged: delete it and run `{command}`") from error
    return pinned


def _pin(dataset: HubDataset, folder: Path) -> tuple[RemoteFile, ...]:
    """The files at the commit that was fetched before, or at that of the revision now; what is missing must fit."""
    path = folder / "revision.json"
    if not path.is_file():
        commit, files = _ask_hub(dataset, folder)
        content = json.dumps({"repo": dataset.repo, "commit": commit, "files": [asdict(file) for file in files]})
        replace_file(path, [content.encode()])
    files = _files(dataset, folder, "")
    missing = sum(file.size or 0 for file in files if not (folder / file.name).is_file())
    print(f"{dataset.repo}: {len(files)} files, {_human(missing)} to fetch", file=sys.stderr)
    _check_room(folder, missing)
    return files


def _ask_hub(dataset: HubDataset, folder: Path) -> tuple[str, tuple[RemoteFile, ...]]:
    """The commit behind the revision, and its matching files. BenchError when the hub does not tell."""
    site = _hub()
    api = f"{site}/api/datasets/{dataset.repo}"
    elsewhere = (
        f"try again with a network; or run `blip3o-bench data fetch {dataset.name}` where there is one, and copy the "
        f"folder {dataset.name} that it makes to {folder}"
    )
    commit = _json(f"{api}/revision/{dataset.revision}", elsewhere)[0]["sha"]
    tree, page = [], f"{api}/tree/{commit}?recursive=true"
    while page:
        entries, page = _json(page, elsewhere)
        tree += [entry for entry in entries if fnmatch(entry["path"], dataset.pattern)]
    if not tree:
        raise BenchError(f"{dataset.repo} at {commit} has no files {dataset.pattern}: it was rearranged")
    for entry in tree:
        within(folder, entry["path"])
    return commit, tuple(
        RemoteFile(
            name=entry["path"],
            url=f"{site}/datasets/{dataset.repo}/resolve/{commit}/{entry['path']}",
            size=entry["size"],
            # Small files lie in git itself and have its name of their content only.
            sha256=entry["lfs"]["oid"] if "lfs" in entry else "",
            git_blob="" if "lfs" in entry else entry["oid"],
        )
        for entry in sorted(tree, key=lambda entry: str(entry["path"]))
    )


def _json(url: str, without_network: str) -> tuple[Any, str]:
    """What the hub's API answers, and the address of the next page or ""."""
    with _readable_errors(url, without_network), _open(url, {}) as response:
        following = re.search('<([^>]+)>; rel="next"', response.headers.get("Link") or "")
        content = response.read()
    try:
        return json.loads(content), following[1] if following else ""
    except ValueError as error:
        raise BenchError(f"{url} did not answer in JSON: is there a proxy that wants a sign-in?") from error


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers=headers)
    # Not sent on to the storage that the hub redirects to, which has a signed address.
    request.unredirected_hdrs |= _hub_token(url)
    for tried in range(1, _TRIES):
        try:
            return urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            asked = _retry_after(error)
            wait = 2.0 ** (tried - 1) if asked is None else asked
            if error.code not in _BUSY or wait > _LONGEST_WAIT:
                raise
            print(f"{url}: the server answered {error.code} {error.reason}, again in {wait:.0f} s", file=sys.stderr)
            error.close()
            time.sleep(wait)
    return urllib.request.urlopen(request, timeout=_TIMEOUT)


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks to wait, which it gives as such or as a date (RFC 9110, 10.2.3)."""
    asked = error.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return None


@contextmanager
def _readable_errors(url: str, advice: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        hint = ""
        if error.code in (401, 403):
            hint = ": ask for access on its page, then run `hf auth login`"
        elif error.code in _BUSY:
            asked = _retry_after(error)
            hint = f": it is busy; run the command again {'later' if asked is None else f'in {asked:.0f} s'} to go on"
        raise BenchError(f"{url}: the server answered {error.code} {error.reason}{hint}") from error
    except urllib.error.URLError as error:
        raise BenchError(f"{url} cannot be reached ({error.reason}): {advice}") from error
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise BenchError(f"{url}: the connection broke ({error}); run the command again to go on") from error


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"{error.filename or folder}: {error.strerror or error}; mend that, or choose another folder with "
            "--data-dir or BLIP3O_BENCH_DATA, and run the command again to go on"
        ) from error


def _find(name: str, root: Path | None) -> tuple[Dataset | HubDataset, Path]:
    if name not in DATASETS:
        raise BenchError(f"unknown data set {name!r}: choose among {', '.join(DATASETS)}")
    return DATASETS[name], (root or data_dir()) / name


def fetch_command(name: str, root: Path | None) -> str:
    """The command line that fetches data set ``name`` into ``root``, or into the default folder."""
    return f"blip3o-bench data fetch {name}" + (f" --data-dir {root}" if root else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fault(path: Path, file: RemoteFile) -> str:
    """How the content differs from what is pinned; "" if it does not."""
    digest = _sha256(path)
    if not digest.startswith(file.sha256):
        return f"has sha256 {digest}, expected {file.sha256}"
    blob = git_blob(path.read_bytes()) if file.git_blob else ""
    return f"is git's blob {blob}, expected {file.git_blob}" if blob != file.git_blob else ""


def _download(file: RemoteFile, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    with _readable_errors(file.url, f"try again with a network, or fetch it elsewhere and put it at {path}"):
        _complete(file, part)
    if fault := _fault(part, file):
        part.unlink()
        raise BenchError(f"{file.url} {fault}: what came was not kept")
    os.replace(part, path)


def _complete(file: RemoteFile, part: Path) -> None:
    """Append to ``part`` what is missing of it."""
    done = part.stat().st_size if part.exists() else 0
    if file.size is not None and done >= file.size:
        return
    try:
        response = _open(file.url, {"Range": f"bytes={done}-"} if done else {})
    except urllib.error.HTTPError as error:
        # RFC 9110, 15.5.17: nothing beyond `done`, so the part is whole (or of another file: its digest will tell).
        if done and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        raise
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # a server may ignore Range and send all
            done = 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length is not None else file.size
        if file.size is not None and total != file.size:
            raise BenchError(f"{file.url} has {total} bytes, expected {file.size}: it is another file")
        _say_and_check_room(file, part, total, done)
        with (
            part.open("ab" if done else "wb") as stream,
            tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=file.name, disable=None) as bar,
        ):
            while chunk := response.read(_CHUNK if total is None else min(_CHUNK, total - done)):
                done += stream.write(chunk)
                bar.update(len(chunk))
                if total is None:  # then it may have no end
                    _check_room(part.parent, 0)
    # http.client's read(n) ends quietly when the connection does.
    if total is not None and part.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - part.stat().st_size)


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub_token(url: str) -> dict[str, str]:
    """The user's token ($HF_TOKEN or that of ``hf auth login``), for the hub's own addresses."""
    if not url.startswith(f"{_hub()}/"):
        return {}
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _say_and_check_room(file: RemoteFile, part: Path, total: int | None, done: int) -> None:
    size = "unknown size" if total is None else _human(total)
    rest = f", {_human(done)} of it here" if done else ""
    print(f"{file.url}: {size}{rest}", file=sys.stderr)
    if total is not None:
        _check_room(part.parent, total - done)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise BenchError(
            f"{folder} has {_human(free)} free, {_human(size + _SPARE)} needed: "
            "make room, or choose another disk with --data-dir or BLIP3O_BENCH_DATA"
        )


def _human(size: int) -> str:
    return str(tqdm.format_sizeof(size, suffix="B"))
