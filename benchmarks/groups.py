"""Compares bits and groupings of activations, all from the ranges that one calibration observed.

    python benchmarks/groups.py [--run outputs/dgq_w4a8]

Takes weights and ranges from a run's last.ckpt, regroups scales for each setting (k-means with G
groups, exponents from 0 to K, multiples with the room of M exponents), and prints the SQNR of the
UNet's output on held-out captions as a table. Nothing is relearned. Settings that do not fit the
bits of an integer product, together with the exponents of the weights, are left out.
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scenes
from data.embedded import SCENES_GENERATION
from dgq import (
    ActivationSettings,
    QuantizationSettings,
    ScoreSettings,
    fit_activations_,
    load_pipeline,
    quantize_,
    read_manifest,
)
from dgq.calibration.recording import record_calls
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import SettingsError
from dgq.math.reconstruction import sqnr_db
from dgq.pipelines.loading import load_unet
from dgq.storage.checkpoint import Manifest, load_calibration_state_
from dgq.unet.quantize import start_observing_

BITS = (8, 6, 4)
GROUPS = (1, 2, 4, 8, 16)
EXPONENTS = (0, 1, 2, 3, 4, 5)
N_PROMPTS = 16
SEED = 1234


@dataclass(frozen=True)
class Attentions:
    """What is quantized inside attentions: a row of the table.

    Args:
        scores: quantize scores at the bits of the activations; otherwise 16 bits.
        qkv: the same for q, k and v.
    """

    scores: bool
    qkv: bool

    def settings(self, n_bits: int) -> tuple[ActivationSettings, ScoreSettings]:
        """Settings with these bits."""
        return ActivationSettings(n_bits, qkv=self.qkv), ScoreSettings(
            n_bits if self.scores else 16
        )


def run_and_calls(doc: str) -> tuple[Manifest, dict[str, Tensor], list[dict[str, Any]]]:
    """Manifest and checkpoint of the run that the command line names, and held-out calls.

    Args:
        doc: the command's docstring; its first line is the help text.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("outputs/dgq_w4a8"), help="a finished run")
    parser.add_argument("--prompts", type=int, default=N_PROMPTS, help="held-out captions")
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.run)
    state = torch.load(arguments.run / "last.ckpt", weights_only=True)["state_dict"]
    calls = held_out_calls(manifest.pipeline, arguments.prompts)
    batches = [calls.batch(pairs) for pairs in calls.sample_pairs(None, SEED).split(32)]
    return manifest, state, batches


@torch.no_grad()
def main() -> None:
    """Print a Markdown table."""
    manifest, state, batches = run_and_calls(__doc__)
    reference = outputs(load_unet(manifest.pipeline), batches)
    columns = [partial(replace, grouping="kmeans", n_groups=n) for n in GROUPS]
    for grouping in ("exponents", "multiples"):
        columns += [partial(replace, grouping=grouping, max_exponent=k) for k in EXPONENTS]
    names = [f"G = {n}" for n in GROUPS] + [f"{m} = {k}" for m in ("K", "M") for k in EXPONENTS]
    print("| activations | scores | q, k, v | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 3) + "|")
    for n_bits in BITS:
        for row in rows_of(state):
            activations, scores = row.settings(n_bits)
            cells = [
                cell(manifest, state, column(activations), scores, batches, reference)
                for column in columns
            ]
            inside = [str(scores.n_bits), str(n_bits if row.qkv else 16)]
            print("| " + " | ".join([f"A{n_bits}", *inside, *cells]) + " |", flush=True)


def rows_of(state: dict[str, Tensor]) -> list[Attentions]:
    """Rows that the observed ranges allow: what was at 16 bits in the run has no ranges."""
    rows = [
        Attentions(scores=True, qkv=True),
        Attentions(scores=False, qkv=True),
        Attentions(scores=False, qkv=False),
    ]
    observed = {
        part for part in ("scores", "query") if any(f".{part}.observer." in n for n in state)
    }
    return [
        r for r in rows if r.scores <= ("scores" in observed) and r.qkv <= ("query" in observed)
    ]


def held_out_calls(pipeline: str, n_prompts: int) -> UNetCalls:
    """UNet calls of held-out captions."""
    captions = scenes.sample_captions(n_prompts, SEED, "test")
    return record_calls(load_pipeline(pipeline), captions, SCENES_GENERATION, SEED, n_prompts)


def cell(
    manifest: Manifest,
    state: dict[str, Tensor],
    activations: ActivationSettings,
    scores: ScoreSettings,
    batches: list[dict[str, Any]],
    reference: Tensor,
) -> str:
    """SQNR of one setting in dB, or a dash if its exponents do not fit."""
    weights, keep = manifest.quantization.weights, manifest.quantization.keep
    try:
        settings = QuantizationSettings(weights, activations, scores, keep)
    except SettingsError:
        return "–"  # noqa: RUF001
    unet = regrouped(manifest, state, settings)
    return f"{sqnr_db(outputs(unet, batches), reference):.1f}"


def regrouped(
    manifest: Manifest, state: dict[str, Tensor], settings: QuantizationSettings
) -> torch.nn.Module:
    """The run's UNet with other activation settings."""
    unet: torch.nn.Module = load_unet(manifest.pipeline)
    quantize_(unet, settings, manifest.timesteps, manifest.latent_size)
    start_observing_(unet)
    owners = {name for name, _ in unet.named_modules()}
    load_calibration_state_(unet, {k: v for k, v in state.items() if is_kept(k, owners)})
    fit_activations_(unet)
    return unet


def is_kept(name: str, owners: set[str]) -> bool:
    """Whether a tensor is a weight or an observed range for which the UNet has a place."""
    owner = name.rpartition(".")[0]
    return owner in owners and owner.endswith((".observer", ".weight_quantizer"))


def outputs(unet: torch.nn.Module, batches: list[dict[str, Any]]) -> Tensor:
    """The UNet's outputs for all batches, ``[rows, channels, height, width]``."""
    return torch.cat([unet(**batch)[0] for batch in batches])


if __name__ == "__main__":
    main()
