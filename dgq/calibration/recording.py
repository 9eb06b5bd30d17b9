"""Recording the arguments that a pipeline passes to its UNet."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dgq.bars import track
from dgq.calibration.arranging import arranged, joined
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import DGQError, first_line
from dgq.pipelines.inputs import call_arguments
from dgq.storage.checkpoint import GenerationSettings
from dgq.unet.quantized_unet import QuantizedUNet


@contextmanager
def recording(unet: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Record the calls of a UNet, as keyword arguments in host memory.

        with dgq.recording(pipe.unet) as calls:
            pipe(prompts)
        dgq.calibrate(pipe.unet, calls)

    Tensors that do not change from one call to the next, such as the text, are stored once.

    Args:
        unet: the UNet to record, called by a pipeline or directly.

    Yields:
        The list, which grows with each call.

    Raises:
        DGQError: if ``unet`` is no network, or a call has latents that are not finite.
    """
    if not isinstance(unet, nn.Module):
        raise DGQError(f"recording takes a UNet, such as pipe.unet, not a {type(unet).__name__}")
    calls: list[dict[str, Any]] = []
    hook: RemovableHandle = unet.register_forward_pre_hook(_Recorder(calls), with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


class _Recorder:
    """Forward pre-hook that appends each call's arguments to a list."""

    def __init__(self, calls: list[dict[str, Any]]) -> None:
        self._calls = calls

    def __call__(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = by_name(unet, args, kwargs)
        sample = given.get("sample")
        if isinstance(sample, Tensor) and not bool(sample.isfinite().all()):
            raise DGQError(
                "the UNet is given latents that are not finite: its weights or those of the text "
                "encoder are damaged, or overflow; check that the pipeline draws sensible images"
            )
        before = self._calls[-1] if self._calls else {}
        self._calls.append({name: _kept(value, before.get(name)) for name, value in given.items()})


def by_name(unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call of a UNet by name.

    Those that are None are left out, unless they have to be given: a UNet without text is called
    with ``encoder_hidden_states=None``.
    """
    classes = [c for c in type(unet).__mro__ if c is not QuantizedUNet]
    forward = next(vars(c)["forward"] for c in classes if "forward" in vars(c))
    parameters = inspect.signature(forward).parameters
    given = {**dict(zip(list(parameters)[1:], args, strict=False)), **kwargs}
    needed = {n for n, parameter in parameters.items() if parameter.default is parameter.empty}
    return {
        name: value
        for name, value in given.items()
        if (value is not None or name in needed) and name != "return_dict"
    }


def _kept(value: Any, before: Any) -> Any:
    """A copy in host memory, or the previous call's copy if nothing has changed."""
    if isinstance(value, Tensor):
        copy = value.detach().to("cpu", copy=True)
        same = isinstance(before, Tensor) and before.dtype == copy.dtype
        return before if same and torch.equal(before, copy) else copy
    if isinstance(value, Mapping):
        known = before if isinstance(before, Mapping) else {}
        return {name: _kept(item, known.get(name)) for name, item in value.items()}
    if isinstance(value, tuple | list):
        alike = isinstance(before, list) and len(before) == len(value)
        olds = before if alike else [None] * len(value)
        return [_kept(item, old) for item, old in zip(value, olds, strict=True)]
    return value


HOW_TO_CHECK = "check that it draws a picture by itself, in one precision and with all its parts"


class _FirstCallError(Exception):
    """Ends a pipeline at its first call of the UNet."""


def first_call(
    pipeline: DiffusionPipeline, prompt: str, generation: GenerationSettings
) -> dict[str, Any]:
    """Arguments of the first call for a prompt; the UNet computes nothing."""

    def end(*_: Any) -> None:
        raise _FirstCallError

    with recording(pipeline.unet) as calls:
        hook = pipeline.unet.register_forward_pre_hook(end)
        try:
            _draw(pipeline, [prompt], generation, generators(0, 1, 0))
        except _FirstCallError:
            return calls[0]
        finally:
            hook.remove()
    raise DGQError(f"{type(pipeline).__name__} draws without its UNet")


def _draw(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    generation: GenerationSettings,
    noise: list[torch.Generator],
) -> None:
    """Draw latents; what the pipeline raises becomes a DGQError."""
    try:
        arguments = call_arguments(pipeline, prompts, generation)
        pipeline(**arguments, generator=noise, output_type="latent")
    except (DGQError, _FirstCallError):
        raise
    except ValueError as error:
        raise DGQError(f"the pipeline refuses these settings: {error}") from error
    except Exception as error:  # whatever a pipeline raises that lacks a part, or memory
        reason = first_line(error)
        short = isinstance(error, MemoryError) or "memory" in reason
        how = "lower record_batch_size or the size of the images" if short else HOW_TO_CHECK
        kind = type(error).__name__
        raise DGQError(
            f"the pipeline cannot draw with these settings ({kind}: {reason}): {how}"
        ) from error


def generators(first: int, n: int, seed: int) -> list[torch.Generator]:
    """One generator for each prompt, so that a picture does not depend on the batch it is in."""
    return [torch.Generator().manual_seed(seed + first + i) for i in range(n)]


def record_calls(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    generation: GenerationSettings,
    seed: int,
    batch_size: int,
    progress: bool = True,
) -> UNetCalls:
    """Generate every prompt once (latents only) and record the UNet's inputs.

    Args:
        pipeline: full-precision pipeline.
        prompts: at least one.
        generation: steps, guidance and size.
        seed: seed of the first prompt's noise; it increases by one per prompt.
        batch_size: prompts at a time.
        progress: show a bar.
    """
    batches = record_batches(pipeline, prompts, generation, seed, batch_size, progress=progress)
    return joined(list(batches))


def record_batches(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    generation: GenerationSettings,
    seed: int,
    batch_size: int,
    first: int = 0,
    progress: bool = True,
) -> Iterator[UNetCalls]:
    """Record as ``record_calls`` does, batch after batch, from the prompt with index ``first``."""
    starts = range(first, len(prompts), batch_size)
    for start in track(starts, "recording UNet calls", progress):
        batch = list(prompts[start : start + batch_size])
        with recording(pipeline.unet) as calls:
            _draw(pipeline, batch, generation, generators(start, len(batch), seed))
        yield arranged(calls, len(batch))
