"""What figures depend on: the CPU and the libraries."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference.memory import total_gib
from dgq.ops import cpu
from evaluation.versions import versions_of

PACKAGES = ("torch", "triton", "diffusers", "openvino", "nncf", "onnxruntime")


def machine() -> dict[str, Any]:
    """CPU, features and versions, as plain values for JSON."""
    return {
        "cpu": cpu_name(),
        "features": list(cpu.features()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "cores": os.cpu_count(),
        "memory_gib": round(total_gib(), 1),
        "python": platform.python_version(),
        "versions": versions_of(PACKAGES),
    }


def cpu_name(file: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def busy_seconds(file: Path = Path("/proc/stat")) -> float:
    """CPU seconds of all processes since the machine started; 0 if unknown."""
    try:
        user, nice, system, *_ = map(int, file.read_text().split("\n", 1)[0].split()[1:])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
