"""The example of docs/reference/recipes.md is a recipe that works."""

import re
from typing import Any

import yaml

import dgq
from dgq.unet.layers import quantized_layers
from tests.tiny_pipelines import ROOT, micro_unet, unet_call

TEXT = (ROOT / "docs/reference/recipes.md").read_text()
EXAMPLE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)[0]
CONFIG = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)[0]


def test_the_example_calibrates_as_it_says() -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(EXAMPLE, "docs/reference/recipes.md", "exec", dont_inherit=True), names)
    recipe = names["FewerInside"](**yaml.safe_load(CONFIG)["model"]["recipe"]["init_args"])
    learned = dgq.LearningSettings(iterations=1, polish_iterations=1)
    unet = micro_unet()
    calls = [unet_call(unet, 4, t, seed=i) for i, t in enumerate((801.0, 1.0))]
    result = dgq.calibrate(
        unet, calls, names["replace"](recipe, learning=learned), batch_size=4, progress=False
    )
    bits = {name: layer.weight_bits for name, layer in quantized_layers(result.unet).items()}
    assert {b for name, b in bits.items() if name.startswith("mid_block.")} == {3}
    assert {b for name, b in bits.items() if not name.startswith("mid_block.")} == {4}
    assert result.report.recipe == "fewer_inside_a6"
    assert result.manifest.quantization.layers.keys() == {n for n, b in bits.items() if b == 3}


def test_every_recipe_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.M)
    known = {name for name in dgq.recipes.__all__ if name[0].isupper()} - {"RECIPES", "Recipe"}
    assert set(rows) == known
