"""The UNet: v-prediction on cached latents and text states, min-SNR weights, captions dropped."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from diffusers import PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scenes.training.latents import LatentSet, load
from scenes.training.loop import autocast, fit
from scenes.training.settings import Diffusion


def train(settings: Diffusion, folder: Path, device: str, resume: bool) -> None:
    """Train the UNet in `folder`, with the latents found beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if settings.n_processes == 1:
        _train_process(0, settings, folder, device, resume)
        return
    (folder / "rendezvous").unlink(missing_ok=True)
    arguments = (settings, folder, device, resume)
    multiprocessing.spawn(_train_process, arguments, nprocs=settings.n_processes)


def build(settings: Diffusion, sample_size: int, text_width: int) -> UNet2DConditionModel:
    """A UNet with fresh weights and Stable Diffusion's kinds of blocks."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=settings.block_out_channels,
        layers_per_block=settings.layers_per_block,
        # What diffusers calls the dimension of heads is their number.
        attention_head_dim=settings.n_heads,
        cross_attention_dim=text_width,
        norm_num_groups=settings.norm_num_groups,
    )


def scheduler() -> PNDMScheduler:
    """The noise schedule and sampler of Stable Diffusion 1."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
    )


class Objective:
    """The loss of a batch drawn from a set of latents."""

    def __init__(
        self, unet: UNet2DConditionModel, data: LatentSet, settings: Diffusion, device: str
    ) -> None:
        self.unet, self.data, self.settings = unet, data, settings
        self.device = torch.device(device)
        self.alphas = scheduler().alphas_cumprod

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        latents, states = self._draw(generator)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = stratified_timesteps(len(latents), len(self.alphas), generator)
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        inputs = (tensor.to(self.device) for tensor in (noisy, timesteps, states))
        with autocast(self.device):
            output = self.unet(*inputs, return_dict=False)[0]
        error = (output.float() - target.to(self.device)).square().mean((1, 2, 3))
        weight = velocity_weight(alpha.flatten(), self.settings.snr_clip)
        loss = (weight.to(self.device) * error).mean()
        return loss, {"mse": error.detach().mean().item()}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents and states; some of the states are those of the empty caption."""
        n_captions, n_renders = self.data.latents.shape[:2]
        size = (self.settings.fit.batch_size,)
        caption = torch.randint(n_captions, size, generator=generator)
        picture = torch.randint(n_renders, size, generator=generator)
        kept = torch.rand(size, generator=generator) >= self.settings.dropped_captions
        states = self.data.states[(caption + 1) * kept]
        return self.data.latents[caption, picture].float(), states.float()


def stratified_timesteps(n: int, n_timesteps: int, generator: torch.Generator) -> Tensor:
    """One uniform draw from each of `n` equal parts of the timesteps, shuffled, [n]."""
    position = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return (position * n_timesteps).long().clamp(max=n_timesteps - 1)


def velocity_weight(alpha: Tensor, clip: float) -> Tensor:
    """min(SNR + 1, clip) / (SNR + 1): the weight of a squared error in velocity.

    As min-SNR (Hang et al. 2023, section 3.4) it keeps the easy, nearly noiseless steps from
    dominating, but it leaves the weight of the noisiest ones at 1: there the caption is heeded.
    `alpha` is the cumulative product of the schedule, so that SNR + 1 = 1 / (1 - alpha).
    """
    return (clip * (1 - alpha)).clamp(max=1)


def _train_process(rank: int, settings: Diffusion, folder: Path, device: str, resume: bool) -> None:
    """One of the data-parallel processes."""
    if settings.n_processes > 1:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{(folder / 'rendezvous').resolve()}",
            rank=rank,
            world_size=settings.n_processes,
        )
    data = load(folder.parent / "latents")
    torch.manual_seed(settings.fit.seed)
    unet = build(settings, data.latents.shape[-1], data.states.shape[-1]).to(device)
    if device == "cpu":
        # Attention over few tokens: plain matrix products beat the fused kernel on a CPU.
        unet.set_attn_processor(AttnProcessor())
    fit(unet, Objective(unet, data, settings, device), settings.fit, folder, resume)
    if settings.n_processes > 1:
        dist.destroy_process_group()
