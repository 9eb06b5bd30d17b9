"""A LoRA on a pipeline: loaded with its strength, or refused with a one-line error."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE

from dgq.errors import DGQError, first_line
from dgq.storage.files import check_regular

NAME = "lora"
"""Name of the adapter."""


def find_lora(path: Path) -> Path:
    """The file of a LoRA, which may be in a folder.

    Raises:
        DGQError: if there is none that can be read, or PEFT is missing.
    """
    file = path / LORA_WEIGHT_NAME_SAFE if path.is_dir() else path
    check_regular(file)
    if file.suffix != ".safetensors":
        raise DGQError(f"--lora {file}: expected a safetensors file; nothing is unpickled")
    if find_spec("peft") is None:
        raise DGQError("--lora needs the package peft: pip install peft")
    return file


@contextmanager
def with_lora(pipeline: DiffusionPipeline, file: Path | None, scale: float) -> Iterator[None]:
    """Context in which a pipeline draws with a LoRA, if there is one.

    Raises:
        DGQError: if it does not fit this pipeline, or has no effect on it.
    """
    if file is None:
        yield
        return
    try:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=NAME)
        if NAME not in pipeline.get_active_adapters():
            raise ValueError("it has no layer of this pipeline")
        pipeline.set_adapters(NAME, scale)
    except Exception as error:  # PEFT, diffusers and safetensors raise all kinds
        raise DGQError(
            f"--lora {file} does not go on this pipeline: {first_line(error)}; expected one that "
            "was trained on the same kind of model"
        ) from error
    try:
        yield
    finally:
        pipeline.unload_lora_weights()
