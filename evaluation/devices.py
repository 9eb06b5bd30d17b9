"""The devices that an evaluation runs on."""

import torch

from dgq.errors import DGQError, first_line


def default_device() -> str:
    """The accelerator of this machine, if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None else accelerator.type


def find_devices(name: str | None, n: int) -> list[str]:
    """Devices of n processes: a GPU each, or the CPU for all of them.

    Raises:
        DGQError: if there is no such device, or there are too few.
    """
    name = name or default_device()
    try:
        torch.empty(0, device=name).cpu()  # refused by meta, which holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise DGQError(f"--device {name} cannot be used: {first_line(error)}") from error
    if n == 1 or torch.device(name).type == "cpu":
        return [name] * n
    available = torch.get_device_module(name).device_count()
    if torch.device(name).index is not None or n > available:
        raise DGQError(
            f"--devices {n} with --device {name}: there are {available} GPUs; give a number of at "
            "most that, and --device without an index"
        )
    return [f"{name}:{index}" for index in range(n)]
