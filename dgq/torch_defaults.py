"""Computing as in a fresh process, whatever defaults the embedding program has set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Create tensors in float32 on the CPU unless told otherwise, and without autocast.

    A program may have called ``torch.set_default_dtype`` or ``torch.set_default_device``, or be
    inside ``torch.autocast``: timesteps would be rounded, tensors would land elsewhere, and ranges
    and rounding would be found in half precision, without a word. Also a decorator.
    """
    dtype = torch.get_default_dtype()
    accelerator = torch.accelerator.current_accelerator()
    kinds = {"cpu", accelerator.type if accelerator is not None else "cpu"}
    with ExitStack() as stack:
        # Only what differs is changed: a default device slows down every call of torch.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in sorted(kinds):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
