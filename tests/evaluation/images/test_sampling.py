"""Images are functions of prompt, seed and index."""

from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dgq.storage.checkpoint import GenerationSettings
from evaluation.images.sampling import image_generator, sample, using_unet

PROMPTS = ["a red circle", "a large blue square on a pink background", "two stars", "a bar"]


def test_each_seed_and_index_has_noise_of_its_own() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**40]
    noises = {
        tuple(torch.randn(4, generator=image_generator(seed, index)).tolist())
        for seed in seeds
        for index in range(50)
    }
    assert len(noises) == len(seeds) * 50


def test_an_image_does_not_depend_on_the_batch(
    pipeline: DiffusionPipeline, generation: GenerationSettings
) -> None:
    whole = sample(pipeline, PROMPTS, [0, 1, 2, 3], generation, 5)
    parts = [sample(pipeline, PROMPTS, batch, generation, 5) for batch in ([3], [1, 0], [2])]
    alone = torch.stack([parts[1][1], parts[1][0], parts[2][0], parts[0][0]])
    torch.testing.assert_close(whole, alone, atol=1e-4, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_the_seed_matters(pipeline: DiffusionPipeline, generation: GenerationSettings) -> None:
    a, b = (sample(pipeline, PROMPTS, [0], generation, seed) for seed in (5, 6))
    assert (a - b).abs().max() > 0.1


def test_a_sampler_without_generator_adds_the_same_noise_again(
    pipeline: DiffusionPipeline, generation: GenerationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = pipeline.scheduler.step

    def noisy(output: Tensor, timestep: Tensor, latents: Tensor, **_: Any) -> Any:
        return step(output, timestep, latents + 0.1 * torch.randn_like(latents), return_dict=False)

    quiet = sample(pipeline, PROMPTS, [0, 1], generation, 5)
    monkeypatch.setattr(pipeline.scheduler, "step", noisy)
    state = torch.random.get_rng_state()
    first, again, other = (sample(pipeline, PROMPTS, [0, 1], generation, s) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first - quiet).abs().max() > 1e-3
    assert (first - other).abs().max() > 0.1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_are_those_of_the_stock_pipeline(
    pipeline: DiffusionPipeline, generation: GenerationSettings
) -> None:
    from evaluation.images.files import to_images, to_tensor

    stock = pipeline(
        PROMPTS[0],
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=image_generator(5, 0),
    ).images[0]
    ours = to_images(sample(pipeline, PROMPTS, [0], generation, 5))
    assert torch.equal(to_tensor([stock]), to_tensor(ours))


def test_the_unet_is_put_back_even_after_an_error(pipeline: DiffusionPipeline) -> None:
    own, other = pipeline.unet, nn.Identity()
    with using_unet(pipeline, other) as swapped:
        assert swapped.unet is other
    assert pipeline.unet is own
    with pytest.raises(AttributeError), using_unet(pipeline, other):
        pipeline("a prompt")
    assert pipeline.unet is own
