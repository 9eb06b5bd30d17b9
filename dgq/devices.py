"""What is asked of a device beside computing: to finish, and how much memory it took."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")

if sys.platform == "win32":
    import psutil

    def _peak_since_start() -> int:
        return int(psutil.Process().memory_info().peak_wset)
else:
    import resource

    UNIT = 1 if sys.platform == "darwin" else 1024

    def _peak_since_start() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def wait(device: str | torch.device) -> None:
    """Wait until a device has done all that was requested of it."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and torch.device(device).type == accelerator.type:
        torch.accelerator.synchronize(torch.device(device))


def forget_peak(device: str | torch.device) -> None:
    """Reset the peak of memory, if the system can."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        CLEAR.write_text("5", encoding="utf-8")


def peak_bytes(device: str | torch.device) -> int:
    """Peak memory since ``forget_peak``: of tensors on a CUDA device, else of this process.

    If the system cannot reset the peak, it is that since the process began.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return _peak_since_start()
