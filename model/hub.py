"""Checkpoints by name: a local folder, or ``owner/name[@revision]`` on the Hugging Face hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from model.tensors import CheckpointError

#: What a checkpoint or a backbone is read from. The * of a pattern also crosses folders.
MODEL_FILES = ("*.json", "*.txt", "*.jinja", "*.safetensors")
#: Left out of a download that shall only answer questions.
DECODER_FILES = ("diffusion-decoder/*", "decoder/*")
#: EVA-CLIP's own repository, jiuhai/eva_clip_vision_tower, holds one file.
EVA_CLIP_FILES = ("pytorch_model.bin",)


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
    CheckpointError when there is no such repository or revision, no access, no network, or not enough room.
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
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{constants.ENDPOINT} cannot be reached (or HF_HUB_OFFLINE is set) and {constants.HF_HUB_CACHE} does not "
            f"hold all of {spec}: download it once with a connection, or give the path of a folder"
        ) from None
    except HfHubHTTPError as error:
        raise CheckpointError(f"{spec}: the hub answered {error.response.status_code}: try again later") from error
    return Located(Path(path), repo, Path(path).name)


def _plan(repo: str, revision: str, files: Sequence[str], without: Sequence[str]) -> str:
    """The commit behind ``revision``, once it is sure that it has such files and that what is not cached fits."""
    try:
        planned = snapshot_download(
            repo, revision=revision, allow_patterns=list(files), ignore_patterns=list(without), dry_run=True
        )
    except DryRunError:  # no network or no access: the download itself knows which, and what the cache holds
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
