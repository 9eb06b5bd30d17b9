"""Quantized UNets as diffusers loads and saves them: ``from_pretrained`` and ``save_pretrained``.

Importing this module registers the method with diffusers. Loading quantizes nothing: a calibrated
model is read, checked against its seal, and prepared to run.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from diffusers.quantizers.base import DiffusersQuantizer
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.hub.names import PLACE, published_config
from dgq.hub.publishing import Origin, write_card
from dgq.inference.build import build_, check_tensors_
from dgq.inference.execution import check_precision, prepare_
from dgq.inference.stored_tensors import StoredTensors
from dgq.storage.dequantize import dequantize_
from dgq.storage.diffusers_config import DGQConfig, Method, config_of
from dgq.storage.empty_unet import check_loadable
from dgq.storage.manifest import METHOD, QUANTIZATION, Manifest, manifest_of
from dgq.storage.model_files import check_as_saved, check_seal, sealed
from dgq.storage.seal import SEAL, tensor_sha256
from dgq.storage.tensor_files import names_in, read_tensors
from dgq.torch_defaults import torch_defaults
from dgq.unet.unet_checks import NORMS

log = logging.getLogger(__name__)


class DGQQuantizer(DiffusersQuantizer):
    """Loads calibrated UNets, with packed weights only, and saves them again.

    Raises:
        DGQError: for a UNet that was not calibrated, and for anything missing, damaged or edited.
    """

    requires_calibration = True

    def __init__(self, quantization_config: DGQConfig, **kwargs: Any) -> None:
        if not kwargs.get("pre_quantized", True):
            raise DGQError(
                "DGQ loads calibrated models only: calibrate the UNet with dgq.calibrate or "
                "`python train.py fit`, then load what was saved, without a quantization_config"
            )
        super().__init__(quantization_config, **kwargs)
        self._dtype: torch.dtype | None = None
        self._files: dict[str, Path] = {}
        self._hashes: dict[str, str] = {}
        self._origin: Origin | None = None
        self._places: set[Any] = set()

    # Loading, in the order in which diffusers asks

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype | None:
        """Note the requested precision; the default depends on how the UNet will run.

        Raises:
            DGQError: for a precision that the UNet cannot compute in.
        """
        check_precision(torch_dtype)
        self._dtype = torch_dtype
        return torch_dtype

    def maybe_update_loaded_keys(
        self, loaded_keys: list[str], checkpoint_files: list[str]
    ) -> list[str]:
        """Note which file holds what; refuse files of other kinds: nothing here is unpickled."""
        odd = [f for f in checkpoint_files if not os.fspath(f).endswith(".safetensors")]
        if odd:
            raise DGQError(
                f"{odd[0]} is not a safetensors file: a quantized UNet is stored in these"
            )
        self._files = {n: Path(file) for file in checkpoint_files for n in names_in(Path(file))}
        return loaded_keys

    def _process_model_before_weight_loading(
        self, model: nn.Module, keep_in_fp32_modules: list[str] | None = None, **_: Any
    ) -> None:
        config = config_of(model)
        for folder in {file.parent for file in self._files.values()}:
            check_as_saved(config, folder)
        manifest = manifest_of(config)
        with torch_defaults(), torch.device("meta"):
            build_(model, manifest.quantization, manifest.timesteps, manifest.latent_size)
        if keep_in_fp32_modules is not None:
            keep_in_fp32_modules += names_of_norms(model)

    def validate_environment(self, *_: Any, device_map: Any = None, **__: Any) -> None:
        """Note where tensors are to be placed; nothing else is needed."""
        self._places = set(device_map.values()) if isinstance(device_map, Mapping) else set()

    def update_missing_keys(
        self, model: nn.Module, missing_keys: list[str], prefix: str
    ) -> list[str]:
        """Refuse a model with a missing tensor."""
        if missing_keys:
            raise DGQError(
                f"{len(missing_keys)} tensors are missing from the files of the quantized UNet, "
                f"{min(missing_keys)} among them: restore them, or make them again"
            )
        return missing_keys

    @property
    def supports_parallel_loading(self) -> bool:
        """False: hashes are collected in one thread."""
        return False

    def maybe_update_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hash the tensors of a file as stored, and make each of them separately freeable.

        diffusers holds all of them until it returns, which is after all weights are folded.
        """
        file = self._files[next(iter(state_dict))]
        state_dict.clear()
        tensors, _ = read_tensors(file)
        self._hashes |= {name: tensor_sha256(name, t) for name, t in tensors.items()}
        return tensors

    def check_if_quantized_param(
        self, model: nn.Module, param_value: Tensor, param_name: str, *_: Any, **__: Any
    ) -> bool:
        """Whether a tensor belongs to an inference module, which takes it unchanged."""
        return isinstance(model.get_submodule(param_name.rpartition(".")[0]), StoredTensors)

    def check_quantized_param_shape(self, *_: Any, **__: Any) -> bool:
        """True: shapes are checked with the values, once all tensors are loaded."""
        return True

    def create_quantized_param(
        self,
        model: nn.Module,
        param_value: Tensor,
        param_name: str,
        target_device: torch.device | str,
        state_dict: Mapping[str, Tensor],
        *_: Any,
        **__: Any,
    ) -> None:
        """Place a tensor as it was stored: by now diffusers has rounded ``param_value``."""
        owner, leaf = param_name.rpartition(".")[::2]
        module = model.get_submodule(owner)
        assert isinstance(module, StoredTensors)
        module.store(leaf, state_dict[param_name].to(target_device))

    @torch_defaults()
    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        away = next((n for n, p in model.named_parameters() if p.is_meta), None)
        if away is not None and "disk" in self._places:
            raise DGQError(
                f"device_map puts {away} on disk, where a quantized UNet cannot be checked: give "
                "it more memory (max_memory), or load it on one device"
            )
        if away is not None:
            raise DGQError(
                f"{away} was not loaded: a quantized UNet takes the sizes of its tensors from its "
                "files: leave ignore_mismatched_sizes out"
            )
        check_seal(config_of(model), self._hashes, "the quantized UNet")
        surplus = self._hashes.keys() - model.state_dict().keys()
        if surplus:
            raise DGQError(f"the quantized UNet has no place for {min(surplus)} in its files")
        self._hashes = {}
        check_tensors_(model)
        model.eval().requires_grad_(False)
        prepare_(model, "auto", self._dtype)
        log.info("%s", model.execution)

    # Saving

    def describe(self, unet: Any) -> None:
        """Seal the description, which is about to be saved, together with the tensors.

        It names no path on this machine, since what is saved may be published.

        Raises:
            DGQError: if the UNet has adapters, or what would be saved could not be loaded.
        """
        if getattr(unet, "peft_config", None):
            raise DGQError(
                "this UNet has adapters on it, which are no part of a quantized model: unload them "
                "first (`pipe.unload_lora_weights()`), or save them with save_lora_adapter"
            )
        config = config_of(unet)
        if self._origin is None:
            self._origin = Origin(str(config.get(PLACE) or ""), config[QUANTIZATION][SEAL])
        state = unet.state_dict()
        check_loadable(manifest_of(config), state)
        described = sealed(published_config(config), state)
        quantization = DGQConfig(**described[QUANTIZATION])
        unet._internal_dict = FrozenDict({**described, QUANTIZATION: quantization})

    def write_card(self, unet: Any, folder: Path, repo_id: str) -> None:
        """Write the model card into a folder that was saved and is about to be uploaded."""
        assert self._origin is not None
        write_card(unet, folder, repo_id, self._origin)

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Tensor], safe_serialization: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors unchanged."""
        if not safe_serialization:
            raise DGQError("a quantized UNet is saved as safetensors: leave safe_serialization on")
        return state_dict, {}

    def _dequantize(self, model: nn.Module) -> nn.Module:
        dequantize_(model)
        model.hf_quantizer = self  # the caller deletes it
        return model

    @property
    def is_serializable(self) -> bool:
        """It can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters on top can be trained, where the UNet runs in floating point."""
        return True

    @property
    def is_compileable(self) -> bool:
        """It can be compiled as a whole."""
        return True


def attach_(unet: Any, manifest: Manifest) -> None:
    """Mark a UNet as quantized for diffusers, so that it is saved and treated as such."""
    content = manifest.quantization_config()
    config = DGQConfig(**content)
    unet.register_to_config(**{QUANTIZATION: config})
    unet.hf_quantizer = DGQQuantizer(config)
    unet.is_quantized, unet.quantization_method = True, Method.DGQ


def names_of_norms(model: nn.Module) -> list[str]:
    """Last parts of the names of norms, which are loaded in float32."""
    norms = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, NORMS)}
    return sorted(norms - {""})


AUTO_QUANTIZER_MAPPING[METHOD] = DGQQuantizer
AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = DGQConfig
