"""The trials: the settings of the second training, most of them with a single change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scenes.training.settings import SMALL, Settings

Change = Callable[[Settings], Settings]

BASE = replace(
    SMALL,
    diffusion=replace(
        SMALL.diffusion,
        fit=replace(SMALL.diffusion.fit, learning_rate=1e-3),
        unet=SMALL.diffusion.unet | {"attention_head_dim": 8, "norm_num_groups": 16},
    ),
)
"""Today's settings with the learning rate, heads and norms of the second training (commit
53e43a6). The model shipped since then has the changes that the trials found to help."""

WARMUP = 0.1
"""Share of the steps; the second training's 200 of 3,200 would be too few in a trial."""


@dataclass(frozen=True)
class Trial:
    """A trial.

    Args:
        title: what is changed, in words.
        change: applies the change to settings.
        anew: stages before the UNet's that are run for this trial alone; the rest are shared.
    """

    title: str
    change: Change
    anew: tuple[str, ...] = ()


def shortened(steps: int) -> Settings:
    """The settings that trials start from, with a UNet trained for `steps` steps."""
    old = BASE.diffusion.fit
    fit = replace(old, steps=steps, warmup_steps=max(1, int(WARMUP * steps)), snapshots=())
    return replace(BASE, diffusion=replace(BASE.diffusion, fit=fit))


def fit(**changes: Any) -> Change:
    """Changes how the UNet is fitted."""
    return lambda all_: diffusion(fit=replace(all_.diffusion.fit, **changes))(all_)


def diffusion(**changes: Any) -> Change:
    """Changes settings of the UNet's training."""
    return lambda all_: replace(all_, diffusion=replace(all_.diffusion, **changes))


def unet(**changes: Any) -> Change:
    """Changes arguments of the UNet."""
    return lambda all_: diffusion(unet=all_.diffusion.unet | changes)(all_)


def text_encoder(**changes: Any) -> Change:
    """Trains another CLIP, whose text tower the UNet sees, for a quarter of the usual steps."""

    def change(all_: Settings) -> Settings:
        short = replace(all_.clip.fit, steps=all_.clip.fit.steps // 4)
        return replace(all_, clip=replace(all_.clip, fit=short, **changes))

    return change


def times(factor: float) -> Change:
    """Multiplies the learning rate."""
    return lambda all_: fit(learning_rate=factor * all_.diffusion.fit.learning_rate)(all_)


def together(all_: Settings) -> Settings:
    """Applies everything that helped without making the model larger."""
    return unet(norm_num_groups=4, attention_head_dim=2)(times(2)(all_))


def larger_pictures(side: int) -> Change:
    """Changes the pictures' size, and trains their autoencoder briefly."""

    def change(all_: Settings) -> Settings:
        old = all_.autoencoder.fit
        short = replace(old, steps=old.steps // 4, batch_size=old.batch_size // 2)
        autoencoder = replace(all_.autoencoder, fit=short)
        latents = replace(all_.latents, n_captions=all_.latents.n_captions // 4)
        return replace(all_, image_size=side, autoencoder=autoencoder, latents=latents)

    return change


TEXT = ("clip", "conditions")
PICTURES = ("autoencoder", "latents", "conditions")

TRIALS: Mapping[str, Trial] = {
    "base": Trial("none", lambda all_: all_),
    "other-seed": Trial("another seed", fit(seed=17)),
    "double-rate": Trial("learning rate 2e-3", times(2)),
    "quadruple-rate": Trial("learning rate 4e-3", times(4)),
    "half-rate": Trial("learning rate 5e-4", times(0.5)),
    "slow-beta2": Trial("Adam's beta2 0.999", fit(beta2=0.999)),
    "strong-decay": Trial("weight decay 1, norms and biases spared", fit(weight_decay=1.0)),
    "norms-decay": Trial(
        "weight decay 1, of norms and biases too", fit(weight_decay=1.0, decays_norms=True)
    ),
    "wide-norm-groups": Trial(
        "16 to 32 channels in a group of a norm (SD: 10 to 40) instead of 4 to 8",
        unet(norm_num_groups=4),
    ),
    "wider": Trial("channels 96, 192, 192", unet(block_out_channels=(96, 192, 192))),
    "deeper": Trial("two layers for each block", unet(layers_per_block=2)),
    "few-heads": Trial("2 heads", unet(attention_head_dim=2)),
    "many-heads": Trial("16 heads", unet(attention_head_dim=16)),
    "together": Trial(
        "learning rate 2e-3, 16 to 32 channels in a group of a norm, 2 heads",
        together,
    ),
    "together-again": Trial(
        "the same with another seed", lambda all_: fit(seed=17)(together(all_))
    ),
    "noise": Trial(
        "noise predicted, all errors alike, as SD 1", diffusion(prediction_type="epsilon")
    ),
    "no-snr-clip": Trial("all errors of the velocity alike", diffusion(snr_clip=1e9)),
    "short-text": Trial("text encoder trained a quarter as long", text_encoder(), TEXT),
    "deep-text": Trial(
        "text encoder of 6 layers instead of 3, trained a quarter as long",
        text_encoder(n_layers=6),
        TEXT,
    ),
    "wide-text": Trial(
        "text encoder of width 256 instead of 128, trained a quarter as long",
        text_encoder(width=256),
        TEXT,
    ),
    "large-pictures": Trial(
        "64x64 pictures, 16x16 latents, a quarter of the captions, an autoencoder of 600 steps",
        larger_pictures(64),
        PICTURES,
    ),
}
"""By name, in the order of the table."""
