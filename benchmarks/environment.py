"""Where a run happens: revision of this code, versions of the packages that make the numbers, the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.store import Environment
from benchmarks.types import Json

#: Distributions whose version can change a number.
PACKAGES = (
    "accelerate",
    "clean-fid",
    "diffusers",
    "lmms-eval",
    "mmcv",
    "mmcv-lite",
    "mmdet",
    "mmengine",
    "numpy",
    "open-clip-torch",
    "pillow",
    "scipy",
    "torch",
    "torchvision",
    "transformers",
)


def current() -> Environment:
    """The environment of this process."""
    return Environment(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        code=code(),
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
        hardware=hardware(),
    )


def code() -> dict[str, Json]:
    """Version of this package, and `git describe` of the checkout it runs from, if it runs from one."""
    return {"version": _version("blip3o-bench"), "revision": _git_revision(Path(__file__).parents[1])}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git_revision(checkout: Path) -> str | None:
    # Without this check git would describe any repository that a virtual environment happens to lie in.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--tags"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet: the version alone is known
        return None
    return described.stdout.strip()


def hardware() -> dict[str, Json]:
    """Processor, usable cores, memory in GiB, and the NVIDIA devices that the driver lists."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": [_field(path, "Model") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))],
    }


def usable_cores() -> int:
    """Cores this process may run on, which a batch system may have made fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _field(path: Path, name: str) -> str | None:
    """The first `name : value` line of a /proc file."""
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
