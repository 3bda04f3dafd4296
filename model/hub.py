"""Checkpoints by name: a local folder, or ``owner/name[@revision]`` on the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DryRunFileInfo, constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever it is built on

from model.tensors import CheckpointError

#: What a checkpoint or a backbone is read from. The * of a pattern also crosses folders.
MODEL_FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors")
#: Left out of a download that shall only answer questions.
DECODER_FILES = ("diffusion-decoder/*", "decoder/*")
#: EVA-CLIP's own repository, jiuhai/eva_clip_vision_tower, holds one file.
EVA_CLIP_FILES = ("pytorch_model.bin",)
#: Answers that another try may change; seconds between tries; and the most that the hub may ask to wait.
BUSY = frozenset({429, 500, 502, 503, 504})
PAUSES = (1.0, 2.0, 4.0, 8.0)
LONGEST_PAUSE = 120.0


@dataclass(frozen=True)
class Located:
    """A folder; for one from the hub also its repository and commit, so that a record can name them."""

    folder: Path
    repo: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """What finds it again: ``owner/name@commit``, or the folder's path."""
        return f"{self.repo}@{self.revision}" if self.repo else str(self.folder)


def locate(spec: str, files: Sequence[str] = MODEL_FILES, without: Sequence[str] = ()) -> Located:
    """Find a checkpoint; from the hub, download what matches ``files`` and not ``without``, unless it is cached.

    A folder stays as it is. Without a revision the main branch is resolved to its current commit first. Raises
    CheckpointError when there is no such repository or revision, no access, no network, a hub that stays busy, or a
    cache that takes no more; nothing incomplete is taken for whole, and the next call goes on.
    """
    folder = Path(spec)
    if folder.is_dir():
        return Located(folder)
    repo, _, revision = spec.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise CheckpointError(f"{spec} is neither a folder nor owner/name[@revision] on the Hugging Face hub")
    try:
        commit = _plan(repo, revision or constants.DEFAULT_REVISION, files, without)
        path = snapshot_download(repo, revision=commit, allow_patterns=list(files), ignore_patterns=list(without))
    except GatedRepoError:
        raise CheckpointError(
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo}, then run `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"no model {repo} at {constants.ENDPOINT}: check the name; for a private one run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{repo} has no revision {revision!r}: see {constants.ENDPOINT}/{repo}/commits") from None
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _busy(spec, error.__cause__) from error
        raise CheckpointError(
            f"{constants.ENDPOINT} cannot be reached (or HF_HUB_OFFLINE is set) and {constants.HF_HUB_CACHE} does not "
            f"hold all of {spec}: download it once with a connection, or fetch {constants.ENDPOINT}/{repo} elsewhere "
            "and give the path of that folder"
        ) from None
    except HfHubHTTPError as error:
        raise _busy(spec, error) from error
    except httpx.HTTPError as error:
        raise CheckpointError(f"{spec}: the connection broke ({error}); run the command again to go on") from error
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        raise CheckpointError(
            f"{error.filename or constants.HF_HUB_CACHE}: {reason}; mend that, or set HF_HOME to another folder, and "
            "run the command again to go on"
        ) from error
    return Located(Path(path), repo, Path(path).name)


def pinned(spec: str) -> str:
    """``owner/name`` with the commit that it means now, without fetching anything; as it is without a connection."""
    repo, _, revision = spec.partition("@")
    planned = _dry_run(repo, revision or constants.DEFAULT_REVISION, ("config.json", "*/config.json"), ())
    return f"{repo}@{planned[0].commit_hash}" if planned else spec


def _busy(spec: str, error: HfHubHTTPError) -> CheckpointError:
    status = error.response.status_code
    return CheckpointError(f"{spec}: {constants.ENDPOINT} answered {status}: run the command again later to go on")


def _dry_run(repo: str, revision: str, files: Sequence[str], without: Sequence[str]) -> list[DryRunFileInfo] | None:
    """What a download would fetch; None without a network or access, or when the hub stays busy."""
    for pause in PAUSES:
        try:
            return snapshot_download(
                repo, revision=revision, allow_patterns=list(files), ignore_patterns=list(without), dry_run=True
            )
        except DryRunError as error:
            # huggingface_hub asks again for files, but not for the commit.
            if not isinstance(error.__cause__, HfHubHTTPError) or error.__cause__.response.status_code not in BUSY:
                return None
            _wait(error.__cause__, pause)
    return None


def _wait(error: HfHubHTTPError, pause: float) -> None:
    """As long as the hub asks, if it does, but at most LONGEST_PAUSE."""
    asked = error.response.headers.get("Retry-After", "")
    seconds = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else pause
    print(f"{constants.ENDPOINT} answered {error.response.status_code}, again in {seconds:.0f} s", file=sys.stderr)
    time.sleep(seconds)


def _plan(repo: str, revision: str, files: Sequence[str], without: Sequence[str]) -> str:
    """The commit behind ``revision``, once it is sure that it has such files and that what is not cached fits."""
    planned = _dry_run(repo, revision, files, without)
    if planned is None:  # the download itself knows why, and what the cache holds
        return revision
    if not planned:
        raise CheckpointError(f"{repo} at {revision} holds none of {', '.join(files)}")
    needed = sum(file.file_size or 0 for file in planned if file.will_download)
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CheckpointError(
            f"{repo} needs {needed / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free: "
            "make room, or set HF_HOME to a folder on a larger disk"
        )
    return planned[0].commit_hash
