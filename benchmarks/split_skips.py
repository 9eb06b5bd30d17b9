"""What separately quantized skips add to DGQ, and what its groups add on top.

    python benchmarks/split_skips.py [--models scenes scenes-xl] [--prompts 32]

Takes DGQ's run at W4A8 and Q-Diffusion's, whose weights are learned alike apart from the split
skips: no activations are quantized meanwhile. From the ranges that both observed it recomputes the
scales of the activations, from Q-Diffusion's way to DGQ's, and prints the SQNR of the UNet's output
on held-out prompts with quantized weights, with quantized activations, and with both. It reuses
finished runs of ``benchmarks/ablation``. Only DGQ's run keeps the ``<start>`` token.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from benchmarks.ablation.cells import Calibration
from benchmarks.ablation.held_out import HeldOut, held_out_calls
from benchmarks.groups import regrouped
from benchmarks.scripts import exit_code
from benchmarks.trials import OUTPUTS, Trial, run_folder
from dgq.math.reconstruction import decibels, noise_and_signal
from dgq.recipes import DGQ, QDiffusion
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import read_manifest
from dgq.unet.context import quantization

SEED = 0
BITS = (8, 6)
MODES = (
    {"weights": True, "activations": False},
    {"weights": False, "activations": True},
    {"weights": True, "activations": True},
)


def runs(model: str) -> dict[str, Trial]:
    """The two calibrations."""
    recipes = {"whole": DGQ(4, 8), "split": QDiffusion(4, 8)}
    return {n: Trial(Calibration(model, r.name, r, SEED)) for n, r in recipes.items()}


def rows() -> Iterator[tuple[str, DGQ]]:
    """Label and recipe of each row: activations and scores from Q-Diffusion's way to DGQ's."""
    yield "one range", DGQ(score_bits=16, n_groups=1, per_step=False)
    yield "one range a step", DGQ(score_bits=16, n_groups=1)
    yield "8 groups a step", DGQ(score_bits=16)
    yield "8 groups a step, log scores (DGQ)", DGQ()


def settings_of(recipe: DGQ, n_bits: int, split: bool) -> QuantizationSettings:
    """Settings with activations at ``n_bits``, and scores too unless they are in floating point."""
    settings = replace(recipe, activation_bits=n_bits, keep_start_token=not split).quantization
    return replace(settings, split_skips=QDiffusion().split_skips) if split else settings


def sqnr_in(mode: dict[str, bool], unet: nn.Module, held_out: HeldOut, n_prompts: int) -> float:
    """``sqnr_db`` with weights or activations quantized, or both."""
    with quantization(unet, **mode):
        return sqnr_db(unet, held_out, n_prompts)


@torch.no_grad()
def sqnr_db(unet: nn.Module, held_out: HeldOut, n_prompts: int) -> float:
    """SQNR in dB of a UNet's outputs in its current mode, pooled over all calls."""
    total = torch.zeros(2, dtype=torch.float64)
    for call, prompts, arguments in held_out.batches(n_prompts):
        reference = held_out.outputs[call, prompts].flatten(0, 1)
        total += noise_and_signal(unet(**arguments)[0], reference)
    return decibels(*total.tolist())


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; exit code 0, or 2 after one line about bad input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["scenes"], help="embedded models")
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts to measure on")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: print_tables(arguments.models, arguments.prompts))


def print_tables(models: Sequence[str], n_prompts: int) -> None:
    """Print a table for each model."""
    for model in models:
        print_table(model, n_prompts)


def print_table(model: str, n_prompts: int) -> None:
    """Print a row for each kind of activations and of skips."""
    held_out = held_out_calls(model, 64, OUTPUTS / "held-out")
    columns = [text for n in BITS for text in (f"A{n} alone", f"W4A{n}")]
    print(f"\n| {model} | skips | " + " | ".join(["W4 alone", *columns]) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for skips, trial in runs(model).items():
        run = run_folder(trial)
        state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
        for label, recipe in rows():
            found: list[float] = []
            for n_bits in BITS:
                settings = settings_of(recipe, n_bits, skips == "split")
                unet = regrouped(read_manifest(run), state, settings)
                # Quantized weights alone do not depend on the activations' bits.
                modes = MODES if not found else MODES[1:]
                found += [sqnr_in(mode, unet, held_out, n_prompts) for mode in modes]
            cells = [label, skips, *(f"{value:.1f}" for value in found)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
