"""Notes on models that are measured on prompts of their calibration."""

from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import GenerationSettings, Manifest
from dgq.storage.prompt_hashes import prompt_hashes
from evaluation.known_prompts import known_prompts
from evaluation.models import FULL_PRECISION, Model


def model(name: str, *prompts: str) -> Model:
    described = ("scenes", {}, QuantizationSettings(), GenerationSettings(), (1.0,), (8, 8))
    return Model(name, manifest=Manifest(*described, prompt_hashes=prompt_hashes(prompts)))


def test_prompts_of_the_calibration_are_counted() -> None:
    models = [
        Model(FULL_PRECISION),
        model("new", "a dog"),
        model("known", "a cat", "a cow", "a hen"),
    ]
    assert list(known_prompts(models, ["a bird"])) == []
    (note,) = known_prompts(models, ["a bird", "a cow", "a cat"])
    assert note.startswith("known was calibrated on 2 of these 3 prompts")
