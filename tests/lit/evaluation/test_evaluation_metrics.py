"""Each metric against its formula, written down a second time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.multimodal import CLIPScore

from dgq.errors import DGQError
from lit.evaluation.features import ClipExtractor
from lit.evaluation.images import to_images, to_tensor
from lit.evaluation.metrics import clip_score, frechet_distance, inception_score, psnr


def random_images(n: int, seed: int = 0) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(seed)
    return to_images(torch.rand(n, 3, 16, 16, generator=generator))


def frechet_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    traces = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + traces)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (30, 55)])
def test_frechet_distance_equals_scipy(n: int, m: int) -> None:
    torch.manual_seed(0)
    mixing = torch.randn(6, 6)
    a, b = torch.randn(m, 6), 1.5 * torch.randn(n, 6) @ mixing + 0.3
    expected = frechet_by_hand(a.double().numpy(), b.double().numpy())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-3)


def test_frechet_distance_of_equal_sets_is_zero() -> None:
    features = torch.randn(50, 5)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-4)


def test_inception_score_equals_its_definition() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(37, 5)
    p = logits.double().softmax(1)
    expected = (p * (p / p.mean(0)).log()).sum(1).mean().exp().item()
    assert inception_score(logits) == pytest.approx(expected, rel=1e-6)


def test_inception_score_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    inception_score(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.rand(1), expected)


def test_inception_score_of_confident_and_diverse_images_is_the_number_of_classes() -> None:
    assert inception_score(1000 * torch.eye(7)) == pytest.approx(7, rel=1e-6)


def test_clip_score_is_a_mean_cosine_that_is_not_negative() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    images = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    assert clip_score(images, texts) == pytest.approx(100 * (0.6 + 1) / 2)
    assert clip_score(-images, texts) == 0


def test_clip_score_equals_torchmetrics(clip_folder: Path) -> None:
    extractor = ClipExtractor(clip_folder)
    prompts, images = ["a red circle", "two squares"], random_images(2)
    features = extractor.images([images])
    # A tower of random weights may see opposites; the sign makes the comparison meaningful.
    ours = [clip_score(s * features.embeddings, extractor.texts(prompts)) for s in (1, -1)]

    class Tensors:
        """What torchmetrics expects of a CLIP model: features as plain tensors."""

        def __init__(self, sign: int) -> None:
            self.config, self.sign = extractor.model.config, sign

        def to(self, _: Any) -> "Tensors":
            return self

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return self.sign * extractor.model.get_image_features(pixels).pooler_output

        def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return extractor.model.get_text_features(tokens, attention_mask=mask).pooler_output

    for sign, score in zip((1, -1), ours, strict=True):
        model = SimpleNamespace(make=lambda s=sign: (Tensors(s), extractor.processor))
        metric = CLIPScore(model_name_or_path=model.make)
        metric.update([(255 * to_tensor([i])[0]).to(torch.uint8) for i in images], prompts)
        assert score == pytest.approx(metric.compute().item(), abs=1e-3)
    assert max(ours) > 0


def test_features_do_not_depend_on_the_batches(clip_folder: Path) -> None:
    extractor = ClipExtractor(clip_folder)
    images = random_images(3)
    whole, parts = extractor.images([images]), extractor.images([images[:2], images[2:]])
    torch.testing.assert_close(whole.pooled, parts.pooled)
    assert whole.pooled.shape == (3, 12)
    torch.testing.assert_close(whole.embeddings.norm(dim=1), torch.ones(3))


def test_zero_shot_logits_are_scaled_cosines(clip_folder: Path) -> None:
    extractor = ClipExtractor(clip_folder)
    images, classes = random_images(2), ["a circle", "a square", "a star"]
    logits = extractor.logits(extractor.images([images]).embeddings, classes)
    inputs = extractor.processor(text=classes, images=images, return_tensors="pt", padding=True)
    torch.testing.assert_close(logits, extractor.model(**inputs).logits_per_image)


def test_half_precision_weights_are_computed_with_in_full(
    clip_folder: Path, tmp_path: Path
) -> None:
    extractor = ClipExtractor(clip_folder)
    extractor.model.half().save_pretrained(tmp_path)
    extractor.processor.save_pretrained(tmp_path)
    features = ClipExtractor(tmp_path).images([random_images(1)])
    assert features.pooled.dtype == torch.float32
    expected = ClipExtractor(clip_folder).images([random_images(1)])
    torch.testing.assert_close(features.pooled, expected.pooled, atol=0.01, rtol=0.01)


def test_a_clip_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="no CLIP model can be loaded"):
        ClipExtractor(tmp_path / "missing")


def test_psnr_equals_its_definition_whatever_the_batches() -> None:
    a, b = random_images(3, seed=1), random_images(3, seed=2)
    error = (to_tensor(a).double() - to_tensor(b).double()).square().mean().item()
    assert psnr([a], [b]) == pytest.approx(-10 * np.log10(error), rel=1e-5)
    assert psnr([a[:1], a[1:]], [b[:1], b[1:]]) == pytest.approx(psnr([a], [b]), rel=1e-5)


def test_psnr_of_equal_images_is_infinite() -> None:
    assert psnr([random_images(2)], [random_images(2)]) == float("inf")
