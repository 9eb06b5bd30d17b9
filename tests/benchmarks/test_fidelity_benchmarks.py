"""Differences from the papers that are measured change what they say, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import trials
from benchmarks.ablation.cells import Calibration
from benchmarks.fidelity_calibrations import differences, static_blocks
from benchmarks.gradient_weighted_loss import squared_gradients, weighted_by_gradients
from benchmarks.split_skips import rows, settings_of
from benchmarks.trials import Trial, mean_and_spread, measured
from dgq.calibration.calibrator import Calibrator
from dgq.recipes import RTN
from dgq.unet.context import quantization
from tests.tiny_pipelines import micro_unet, unet_call


def test_differences_are_between_two_models_of_one_seed() -> None:
    found = list(differences(1))
    names = {(d.label, d.ours.calibration.model, d.bits) for d in found}
    assert len(names) == len(found)
    for difference in found:
        ours, published = difference.ours, difference.published
        assert ours.name != published.name
        assert ours.calibration.seed == published.calibration.seed == 1
        assert ours.calibration.model == published.calibration.model


def test_a_run_has_one_recipe_and_one_patch() -> None:
    runs: dict[str, Any] = {}
    for difference in differences(0):
        for trial in (difference.ours, difference.published):
            what = trial.calibration, trial.patch
            assert runs.setdefault(trial.calibration.name, what) == what


def test_only_the_time_path_follows_steps() -> None:
    settings = static_blocks(8)
    following = {n for n in settings.layers if settings.activations_of(n).per_step}
    assert following == set(settings.layers)
    assert "time_embedding.linear_1" in following
    assert all("time_emb" in name for name in following)
    assert not settings.activations_of("mid_block.resnets.0.conv1").per_step


def test_split_skips_keep_the_activations_of_their_row() -> None:
    for _, recipe in rows():
        whole, split = (settings_of(recipe, 6, split) for split in (False, True))
        assert not whole.split_skips
        assert split.split_skips
        assert whole.activations == split.activations
        assert whole.activations.n_bits == 6


def test_gradients_are_those_of_a_direction_of_the_output() -> None:
    unet = micro_unet().requires_grad_(False)
    calibrator = Calibrator(unet, RTN())
    calls = [unet_call(unet, 2, 500.0, seed=seed) for seed in (0, 1)]
    calibrator.quantize_((500.0,), (8, 8), calls[0])
    found = squared_gradients(unet, calibrator.targets, calls)
    assert found.keys() == calibrator.targets.keys()
    name = list(found)[-1]
    for squared in found.values():
        assert squared.shape[0] == 4
        assert squared.float().mean() == pytest.approx(1, rel=1e-2)

    # The first rows' gradients again, by differences.
    generator = torch.Generator().manual_seed(0)
    module = calibrator.targets[name].entrance

    @torch.no_grad()
    def along(index: tuple[int, ...], delta: float) -> float:
        def moved(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[index] += delta
            return output

        handle = module.register_forward_hook(moved)
        with quantization(unet, weights=False, activations=False):
            output = unet(**calls[0])[0]
        handle.remove()
        return float((output.double() * direction).sum())

    direction = torch.randn(calls[0]["sample"].shape, generator=generator).double()
    first = found[name][0].float()
    indices = [tuple(i.tolist()) for i in torch.nonzero(first > first.median())[:3]]
    slopes = [(along((0, *i), 0.05) - along((0, *i), -0.05)) / 0.1 for i in indices]
    ratios = [slope**2 / float(first[i]) for slope, i in zip(slopes, indices, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * 3, rel=0.05)


def test_the_calibrator_is_itself_again() -> None:
    before = Calibrator.start, Calibrator.loss
    with weighted_by_gradients():
        assert (Calibrator.start, Calibrator.loss) != before
    assert (Calibrator.start, Calibrator.loss) == before


def test_a_model_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[str] = []

    def note(name: str, value: Any) -> Any:
        def called(*_: Any) -> Any:
            work.append(name)
            return value

        return called

    for name, value in {
        "run_folder": tmp_path,
        "held_out_calls": None,
        "regrouped_model": tmp_path,
        "measure": {"sqnr_db": 20.0},
    }.items():
        monkeypatch.setattr(trials, name, note(name, value))
    calibration = Calibration("scenes", "rtn_w4a8", RTN(4, 8))
    trial = Trial(calibration, "a6", RTN(4, 6).quantization)
    for _ in range(2):
        assert measured(trial, tmp_path)["sqnr_db"] == 20
    assert work == ["run_folder", "regrouped_model", "held_out_calls", "measure"]
    assert measured(Trial(calibration), tmp_path)["sqnr_db"] == 20
    assert work.count("measure") == 2


def test_single_values_have_no_spread() -> None:
    assert mean_and_spread([1.25], "+.2f") == "+1.25"
    assert mean_and_spread([1.0, 3.0]) == "2.0 ± 1.4 (2)"
