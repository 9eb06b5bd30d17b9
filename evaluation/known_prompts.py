"""Prompts that a model was calibrated on, where it is better than elsewhere."""

from collections.abc import Iterator, Sequence

from dgq.storage.prompt_hashes import prompt_hash
from evaluation.models import Model


def known_prompts(models: Sequence[Model], captions: Sequence[str]) -> Iterator[str]:
    """A note on each model that was calibrated on some of the prompts.

    Models of earlier versions, and those that were calibrated on calls of the UNet, note none.
    """
    hashes = [prompt_hash(caption) for caption in captions]
    for model in models:
        noted = set(model.manifest.prompt_hashes) if model.manifest is not None else set()
        n_known = sum(each in noted for each in hashes)
        if n_known:
            yield (
                f"{model.name} was calibrated on {n_known} of these {len(captions)} prompts: its "
                "figures may be better than on new ones; choose others with --prompts"
            )
