"""Quantized models with other contents and a seal that vouches for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dgq.storage.manifest import QUANTIZATION
from dgq.storage.model_files import CONFIG_FILE, WEIGHTS_FILE, sealed
from dgq.storage.tensor_files import read_tensors

State = dict[str, Tensor]


def forge_(
    folder: Path,
    edit_config: Callable[[dict[str, Any]], None] = lambda config: None,
    edit_state: Callable[[State], None] = lambda state: None,
) -> Path:
    """Change a model's description and tensors in place, and seal it again."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    state = {
        name: tensor.clone() for name, tensor in read_tensors(folder / WEIGHTS_FILE)[0].items()
    }
    edit_config(config)
    edit_state(state)
    sound = isinstance(config.get(QUANTIZATION), dict)
    (folder / CONFIG_FILE).write_text(json.dumps(sealed(config, state) if sound else config))
    save_file({n: t.contiguous() for n, t in state.items()}, folder / WEIGHTS_FILE)
    return folder


def quantization(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of what a description says of the quantization."""
    return lambda config: config["quantization_config"].update(changes)
