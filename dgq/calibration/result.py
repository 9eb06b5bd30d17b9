"""The result of a calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diffusers import UNet2DConditionModel

from dgq.calibration.measuring import sqnr_by_step, sqnr_db
from dgq.calibration.other_activations import requantize_activations_, sharing_copy
from dgq.calibration.report import CalibrationReport
from dgq.errors import DGQError
from dgq.recipes import Custom, Recipe
from dgq.settings import ActivationSettings, ScoreSettings
from dgq.storage.checkpoint import Manifest
from dgq.torch_defaults import torch_defaults
from dgq.unet.call_rows import Call


@dataclass(frozen=True)
class CalibrationResult:
    """A calibrated UNet and its figures.

    The UNet computes in floating point with quantized weights and activations, and keeps its
    full-precision weights; ``dgq.save`` and ``dgq.load_quantized_unet`` give the one that runs in
    integers, without them.

    Args:
        unet: the given UNet, changed in place.
        report: errors, SQNR and seconds; ``print(result.report)``.
        manifest: the description that ``dgq.save`` writes.
        recipe: the recipe of the calibration.
        held_out: calls that errors were measured on.
        by_step: calls that the SQNR at each timestep was measured on.
    """

    unet: UNet2DConditionModel
    report: CalibrationReport
    manifest: Manifest
    recipe: Recipe
    held_out: Sequence[Call]
    by_step: Mapping[float, Sequence[Call]]

    @torch_defaults()
    def with_activations(
        self, activations: ActivationSettings, scores: ScoreSettings | None = None
    ) -> "CalibrationResult":
        """The same weights with other bits or groups of activations, without calibrating again.

        Ranges were observed by channel, pixel and step, which is enough for all bits and groups.

        Args:
            activations: bits and grouping.
            scores: settings of attention scores; unchanged by default.

        Returns:
            A result with another UNet that shares the weights of this one.

        Raises:
            DGQError: if ranges were learned for the old settings, if something to be quantized was
                not observed, or with other tokens, or if the settings do not fit the weights.
        """
        for value, kind in ((activations, ActivationSettings), (scores, ScoreSettings | None)):
            if not isinstance(value, kind):
                raise DGQError(
                    "with_activations takes dgq.ActivationSettings, and dgq.ScoreSettings or None, "
                    f"not {value!r:.60}"
                )
        if self.recipe.learning.learns_ranges:
            raise DGQError(
                f"{self.recipe.name} learns the ranges of activations together with the weights, "
                "for its own bits: calibrate again, or by a recipe with learning.activation_lr 0"
            )
        before = self.manifest.quantization
        settings = before.with_activations(activations, scores or before.scores)
        unet = sharing_copy(self.unet)
        requantize_activations_(unet, settings)
        unet.manifest = manifest = replace(self.manifest, quantization=settings)
        report = replace(
            self.report,
            sqnr_db=sqnr_db(unet, self.held_out),
            sqnr_by_step_db=sqnr_by_step(unet, self.by_step),
        )
        recipe = Custom(settings, self.recipe.learning, f"{self.recipe.name}, other activations")
        return replace(self, unet=unet, report=report, manifest=manifest, recipe=recipe)

    def __repr__(self) -> str:
        return f"CalibrationResult({self.recipe.name}, {self.report.sqnr_db:.1f} dB)"
