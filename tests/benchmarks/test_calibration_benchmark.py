"""The benchmark's UNet is what it says, and its quick run writes every figure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.outlier_unet import CHANNELS, build_calls, build_unet
from dgq.targets import find_blocks

ROOT = Path(__file__).parents[2]


def test_the_unet_has_the_structure_of_sd14_and_heavy_tails() -> None:
    unet = build_unet()
    assert len(find_blocks(unet, ("conv_in", "conv_out"))) == 78
    assert 8e6 < sum(p.numel() for p in unet.parameters()) < 9e6
    weight = unet.mid_block.resnets[0].conv1.weight.flatten()
    kurtosis = (weight / weight.std()).pow(4).mean()
    assert kurtosis > 3.5  # 3 for normal, 1.8 for uniform weights
    gains = unet.down_blocks[0].resnets[0].norm1.weight
    assert 1 <= int((gains > 2).sum()) < 0.1 * CHANNELS[0]
    again = build_unet()
    assert all(
        torch.equal(a, b) for a, b in zip(unet.parameters(), again.parameters(), strict=True)
    )


def test_the_start_token_stands_out_of_the_text() -> None:
    text = build_calls(3).conditioning["encoder_hidden_states"]
    size = text.abs().amax(-1)
    assert (size[..., 0] > 2 * size[..., 1:].amax(-1)).all()


@pytest.mark.slow
def test_the_quick_run_writes_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    script = ROOT / "benchmarks" / "calibration.py"
    subprocess.run([sys.executable, script, "--json", path, "--quick"], cwd=ROOT, check=True)
    content = json.loads(path.read_text())
    for figures in content["whole"].values():
        assert figures["forwards_per_sample"] <= 3
        assert {"capture", "range search", "observation"} <= figures["phases_cpu_s"].keys()
    assert (
        content["whole"]["ours"]["sqnr_db"]["weights"]
        > (content["whole"]["nearest"]["sqnr_db"]["weights"])
    )
    assert len(content["single_targets"]) == 2
    for row in content["single_targets"].values():
        assert row["ours"]["error"] < row["nearest"]["error"]
        assert row["nearest"]["cpu_s"] < 0.1 * row["ours"]["cpu_s"]  # it learns nothing
    assert content["ranges_of_one_step_cpu_s"] > 0
    assert content["peak_rss_gib"] > 0


@pytest.mark.slow
def test_full_size_streams_the_first_targets_of_sd14_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    script = ROOT / "benchmarks" / "full_size.py"
    options = ("--model", "sd14", "--samples", "8", "--stop-after", "4", "--json", str(path))
    subprocess.run([sys.executable, script, *options], cwd=ROOT, check=True)
    figures = json.loads(path.read_text())
    assert figures["parameters"] == 859_520_964
    assert 0 < figures["peak_above_model_gib"] < 12
    assert figures["learning_of_these_s"] > 0
