"""The LightningModule apart from a run: what it refuses, compares and learns with."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from dgq.calibration.learning import activation_lr, rounding_lr, scale_lr
from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline
from dgq.recipes import DGQ
from dgq.settings import LearningSettings
from dgq.unet.layers import QuantizedLayer
from dgq.unet.quantize import quantize_
from lit.calibration import Calibration
from lit.identity import check_identity

RATES = (rounding_lr, scale_lr, activation_lr)


@pytest.fixture
def module(micro_folder: Path) -> Calibration:
    """A calibration of the smallest pipeline, not set up."""
    learning = LearningSettings(iterations=4, polish_iterations=2)
    return Calibration(str(micro_folder), DGQ(learning=learning))


def test_it_knows_its_number_of_targets_before_anything_is_recorded(module: Calibration) -> None:
    assert module.n_targets == 24
    assert not any(isinstance(m, QuantizedLayer) for m in module.unet.modules())


def test_it_is_identified_by_the_weights_it_starts_from(
    module: Calibration, micro_folder: Path, tmp_path: Path
) -> None:
    pipeline = load_pipeline(str(micro_folder))
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 1
    pipeline.save_pretrained(tmp_path)
    other = Calibration(str(tmp_path), module.recipe)
    with pytest.raises(DGQError, match="weights of the UNet"):
        check_identity(module.identity({}), other.identity({}))


def test_keeping_every_layer_is_refused_when_it_is_made(micro_folder: Path) -> None:
    with pytest.raises(DGQError, match="nothing to quantize"):
        Calibration(str(micro_folder), DGQ(keep=("*",)))


def test_a_pattern_that_keeps_nothing_is_refused_when_it_is_made(micro_folder: Path) -> None:
    with pytest.raises(DGQError, match="matches no layer"):
        Calibration(str(micro_folder), DGQ(keep=("nonsense",)))


def test_learning_rates_start_anew_at_each_target(module: Calibration) -> None:
    quantize_(module.unet, module.recipe.quantization, (1.0,), (8, 8))
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"]
    schedule = configured["lr_scheduler"]["scheduler"]  # type: ignore[index]
    found = []
    for _ in range(12):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    expected = [[*(rate(i, module.recipe.learning) for rate in RATES), 0, 0] for i in range(6)]
    assert found == [pytest.approx(rates) for rates in expected * 2]


def test_only_what_is_learned_is_optimized(module: Calibration) -> None:
    quantize_(module.unet, module.recipe.quantization, (1.0,), (8, 8))
    optimizer = module.configure_optimizers()["optimizer"]
    names = {id(p): name for name, p in module.named_parameters()}
    held = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert all(name.endswith(".learnable.logits") for name in held[0])
    assert all(name.endswith((".log_gain", ".bias_shift")) for name in held[1])
    assert all(name.endswith((".log_gain", ".shift")) for name in held[2])
    assert (
        len(held[1])
        == 2 * len(held[0])
        == 2 * sum(isinstance(m, QuantizedLayer) for m in module.modules())
    )


def test_full_precision_weights_are_never_learned(module: Calibration) -> None:
    quantize_(module.unet, module.recipe.quantization, (1.0,), (8, 8))
    stock = nn.Linear(2, 2)
    assert stock.weight.requires_grad
    held = {
        id(p) for g in module.configure_optimizers()["optimizer"].param_groups for p in g["params"]
    }
    layers = [m for m in module.modules() if isinstance(m, QuantizedLayer)]
    assert not any(id(layer.weight) in held for layer in layers)


def test_its_identity_is_content_however_the_pipeline_is_named(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(micro_folder.parent)
    copy = Path(shutil.copytree(micro_folder, tmp_path / "elsewhere"))
    names = [str(micro_folder), f"{micro_folder}/", "micro", "./micro", str(copy)]
    assert len({Calibration(name).identity({}) for name in names}) == 1
    assert {Calibration(name).pipeline for name in names[:-1]} == {str(micro_folder.resolve())}
