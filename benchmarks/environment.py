"""Where a run happens: revision of this code, versions of the packages that make the numbers, the machine."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from benchmarks.spec import Environment
from benchmarks.types import Json

#: Distributions whose version can change a number.
PACKAGES = (
    "accelerate",
    "clean-fid",
    "datasets",
    "diffusers",
    "lmms-eval",
    "mmcv",
    "mmcv-lite",
    "mmdet",
    "mmengine",
    "modelscope",
    "numpy",
    "open-clip-torch",
    "opencv-python",
    "opencv-python-headless",
    "pillow",
    "scipy",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
    "vllm",
)

#: Variables by which a user makes arithmetic repeatable, or other than it is by default.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def torch_device(asked: Literal["auto", "cpu", "cuda"] = "auto") -> Literal["cpu", "cuda"]:
    """Where networks run; ``auto`` is a GPU if there is one, and the CPU without torch.

    Of several GPUs this process's is the one of LOCAL_RANK, modulo those that it sees: "cuda" means that one from now
    on, and is the same word in all processes of a run.
    """
    if asked == "cpu" or find_spec("torch") is None:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    elif asked == "auto":
        return "cpu"
    return "cuda"


def current() -> Environment:
    """The environment of this process."""
    return Environment(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        code=code(),
        packages={
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name)) is not None},
        },
        hardware={**hardware(), "determinism": determinism()},
    )


def code() -> dict[str, Json]:
    """Version of this package, and `git describe` of the checkout it runs from, if it runs from one."""
    return {"version": _version("blip3o-bench"), "revision": _git_revision(Path(__file__).parents[1])}


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@functools.cache
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


def determinism() -> dict[str, Json]:
    """What decides, beside the hardware, how the last bits fall: variables that are set, and torch's switches where it
    is imported already."""
    settings: dict[str, Json] = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    torch = sys.modules.get("torch")
    if torch is not None:
        settings |= {
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }
    return settings


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
