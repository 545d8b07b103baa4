"""What the machine has and what software runs on it, told without importing torch."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch", "lightning", "transformers", "peft", "bitsandbytes", "deepspeed",
    "hydra-core", "omegaconf", "datasets", "tokenizers", "wandb", "numpy",
)  # fmt: skip


def visible_gpus() -> int:
    """Number of NVIDIA GPUs that a process started now would see."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    driver = Path("/proc/driver/nvidia/gpus")
    return len(list(driver.iterdir())) if driver.is_dir() else 0


def cpu_cores() -> int:
    """Cores that this process may use, which a container or SLURM may have narrowed."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment_record() -> dict[str, Any]:
    """What ``environment.json`` holds: code, versions, hardware. No variables, no secrets."""
    return {
        "git": {"commit": git("rev-parse", "HEAD"), "diff": git("diff", "HEAD") or ""},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "cpu_cores": cpu_cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "gpus": gpu_names(),
    }


def version(package: str) -> str | None:
    """Installed version of ``package``, from its metadata."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def memory_bytes() -> int:
    """Main memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def git(*arguments: str) -> str | None:
    """Output of a git command about the project's checkout, None outside one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def gpu_names() -> list[str]:
    """Names of the GPUs as the driver tells them."""
    driver = Path("/proc/driver/nvidia/gpus")
    names = []
    for entry in sorted(driver.glob("*/information")) if driver.is_dir() else []:
        fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
        names.append(fields.get("Model", "unknown").strip())
    return names
