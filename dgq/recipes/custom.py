"""Any combination of settings."""

from dataclasses import dataclass, field

from dgq.recipes.recipe import Recipe
from dgq.settings import LearningSettings, NetworkSettings, QuantizationSettings

DEFAULT = QuantizationSettings()


@dataclass(frozen=True)
class Custom(Recipe):
    """Any settings, learned block by block.

    Args:
        quantization: what is quantized and how.
        learning: how weights and ranges are learned.
        name: name for reports.
        network: how the UNet as a whole is learned after its targets; None skips this.
    """

    # A default in the class, which takes the place of the abstract property.
    quantization: QuantizationSettings = DEFAULT
    learning: LearningSettings = field(default_factory=LearningSettings)
    name: str = "custom"
    network: NetworkSettings | None = None
