"""A UNet in the form that engines read: tensors in, one tensor out, traced with a small call."""

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.unet.configuration import sizes_of_added

BATCH = 2
"""Rows of the example: a trace would take a size of one as constant."""

N_TOKENS = 77
"""Tokens of the example text; any number of them works afterwards."""

ADDED = ("text_embeds", "time_ids")
"""Further inputs of SDXL's UNets; flat here, as in pipelines of other engines."""

OUTPUT = "out_sample"
"""Name of the output, as optimum names it."""


class Traceable(nn.Module):
    """A UNet whose arguments are tensors, in the order of ``example_inputs``.

    Args:
        unet: a diffusers UNet.
        names: names of the arguments.
    """

    def __init__(self, unet: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.unet = unet
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """The output alone, ``[batch, channels, height, width]``."""
        given = dict(zip(self.names, tensors, strict=True))
        added = {name: given.pop(name) for name in ADDED if name in given}
        sample, timestep, text = (given.pop(n) for n in self.names[:3])
        if added:
            given["added_cond_kwargs"] = added  # type: ignore[assignment]
        output: Tensor = self.unet(sample, timestep, text, **given, return_dict=False)[0]
        return output


def example_inputs(unet: nn.Module) -> dict[str, Tensor]:
    """Example inputs by name: random, and small, since a trace is valid for any size.

    Args:
        unet: a quantized UNet.

    Raises:
        DGQError: for a UNet with inputs other than those of Stable Diffusion or SDXL.
    """
    config: Any = unet.config
    calls: Any = unet.calls
    check_conditioning(config)
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, generator=generator)

    inputs = {
        "sample": randn(config.in_channels, *small_latents(config)),
        "timestep": torch.tensor(calls.timesteps[0]),
        "encoder_hidden_states": randn(N_TOKENS, config.cross_attention_dim),
    }
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = randn(config.time_cond_proj_dim)
    if config.addition_embed_type == "text_time":
        n_ids, width = sizes_of_added(config)
        inputs |= {"text_embeds": randn(width), "time_ids": torch.ones(BATCH, n_ids)}
    return inputs


def small_latents(config: Any) -> tuple[int, int]:
    """Height and width of latents that are two pixels wide at the UNet's lowest resolution."""
    size = 2 ** len(config.block_out_channels)
    return size, size


def check_conditioning(config: Any) -> None:
    """Raise DGQError for a UNet with inputs that are not exported."""
    others = {
        "addition_embed_type": config.addition_embed_type not in (None, "text_time"),
        "class_embed_type": config.class_embed_type,
        "num_class_embeds": config.num_class_embeds,
        "encoder_hid_dim_type": config.encoder_hid_dim_type,
    }
    found = [f"{name} {getattr(config, name)}" for name, used in others.items() if used]
    if found:
        raise DGQError(
            f"this UNet takes more than latents, timestep and text ({found[0]}): expected one of "
            "Stable Diffusion or SDXL; other inputs are not exported"
        )


def traced(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.jit.ScriptModule:
    """The TorchScript of a module; sizes of the inputs stay free.

    Args:
        module: takes tensors in the order of the inputs.
        inputs: example inputs by name.
    """
    with torch.no_grad(), warnings.catch_warnings():
        # Which a program may have made errors; torch reads all properties, also deprecated ones.
        traces = torch.jit.TracerWarning  # type: ignore[attr-defined]
        for known in (traces, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", known)
        # Not checked: a second trace would number its modules differently.
        script = torch.jit.trace(module.eval(), tuple(inputs.values()), check_trace=False)
    return cast(torch.jit.ScriptModule, script)
