"""Bits and groups of the activations, all from the ranges that one calibration observed.

    python benchmarks/groups.py [--run outputs/w4a8]

Takes weights and ranges from a run's last.ckpt, groups them anew for each setting, and prints the
SQNR of the UNet's output on held-out captions as a table. Nothing is learned again.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scenes
from data.calibration import SCENES_GENERATION
from data.recording import record_calls
from data.unet_calls import UNetCalls
from dgq import (
    ActivationSettings,
    QuantizationSettings,
    ScoreSettings,
    fit_activations_,
    load_pipeline,
    quantize_,
    read_manifest,
)
from dgq.checkpoint import Manifest, load_calibration_state_
from dgq.pipelines import load_unet
from dgq.quantize import start_observing_
from dgq.reconstruction import sqnr_db

BITS = (8, 6, 4)
GROUPS = (1, 2, 4, 8, 16)
N_PROMPTS = 16
SEED = 1234


@torch.no_grad()
def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("outputs/w4a8"), help="a finished run")
    run = parser.parse_args().run
    manifest = read_manifest(run)
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    calls = held_out_calls(manifest.pipeline)
    batches = [calls.batch(pairs) for pairs in calls.sample_pairs(None, SEED).split(32)]
    stock = load_unet(manifest.pipeline)
    reference = outputs(stock, batches)
    print("| bits | " + " | ".join(f"G = {n}" for n in GROUPS) + " |")
    print("|---" * (len(GROUPS) + 1) + "|")
    for n_bits in BITS:
        cells = []
        for n_groups in GROUPS:
            unet = regrouped(manifest, state, n_bits, n_groups)
            cells.append(f"{sqnr_db(outputs(unet, batches), reference):.1f}")
        print(f"| A{n_bits} | " + " | ".join(cells) + " |", flush=True)


def held_out_calls(pipeline: str) -> UNetCalls:
    """UNet calls of captions that no calibration has seen."""
    captions = scenes.sample_captions(N_PROMPTS, SEED, "test")
    return record_calls(load_pipeline(pipeline), captions, SCENES_GENERATION, SEED, N_PROMPTS)


def regrouped(
    manifest: Manifest, state: dict[str, Tensor], n_bits: int, n_groups: int
) -> torch.nn.Module:
    """The run's UNet with other bits and groups of the activations."""
    settings = QuantizationSettings(
        manifest.quantization.weights,
        ActivationSettings(n_bits, n_groups=n_groups),
        ScoreSettings(n_bits),
        manifest.quantization.keep,
    )
    unet = load_unet(manifest.pipeline)
    quantize_(unet, settings, manifest.timesteps, manifest.latent_size)
    start_observing_(unet)
    load_calibration_state_(unet, state)
    fit_activations_(unet)
    return unet


def outputs(unet: torch.nn.Module, batches: list[dict[str, Any]]) -> Tensor:
    """The UNet's outputs for all batches, ``[rows, channels, height, width]``."""
    return torch.cat([unet(**batch)[0] for batch in batches])


if __name__ == "__main__":
    main()
