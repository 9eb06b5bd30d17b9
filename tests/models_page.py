"""docs/models.md, made from what the tests calibrate and what they see refused.

``PYTHONPATH=.:tests python tests/models_page.py`` writes it again.
"""

from pathlib import Path

import model_zoo
import unet_zoo

from dgq.pipeline_kinds import why_refused

PAGE = Path(__file__).parents[1] / "docs/models.md"

TOP = """# Which models calibrate

Made by `tests/models_page.py` from the lists that the tests go through: each kind is built tiny, calibrated, saved,
loaded and drawn with, or refused in one line before work starts, with exit status 2. What a pipeline is, is read from
its `model_index.json` before anything else, on the hub before weights are downloaded.

## Pipelines that calibrate
"""

GREY = """
Pipelines that need an image are given grey ones (`dgq/pipeline_inputs.py`), so that what they draw comes from the
prompt: an image to start from is replaced altogether (strength 1, all steps of the sampler), one to be inpainted is
masked everywhere. Ranges then come from less than such a model meets in use; whoever has images records calls on
those. On evaluation they are given the same.
"""

FORMS = """
## Files

| form | |
|---|---|
| folder as `save_pretrained` writes it, hub id | whole or in shards, full precision preferred |
| half precision alone (`*.fp16.safetensors`, `*.bf16.safetensors`), or under the usual name | computed in float32; the log says so |
| one `.safetensors` in the original layout | `--pipeline model.safetensors`; converted once into `~/.cache/dgq/pipelines`, in its precision; the configuration (`model_index.json`, `config.json`s, tokenizer, sampler) comes from a folder `model/` beside it, from the folder it lies in, or from the hub's cache, else one line says what to fetch |
| `.bin`, `.ckpt`, `.pt`, `.pth` | refused: reading them may run code; the line says how to convert them |

## Pipelines that are refused
"""

UNETS = """
## UNets

`dgq.quantize_` takes a stock `UNet2DConditionModel` in float32. All linear layers and convolutions are quantized but
those that `keep` names; layers with weights that no recipe quantizes (`nn.Embedding`, `nn.Conv1d`, `nn.Conv3d`,
`nn.ConvTranspose2d`) stay in floating point, and one line says which. Layers that share a weight are quantized each for itself.

These features calibrate:
"""

REFUSED = """
These UNets are refused before anything is changed:
"""


def page() -> str:
    """The text of the page."""
    calibrate = table(
        ("kind", "class", ""),
        [(n, f"`{k.pipeline}`", k.note) for n, k in model_zoo.CALIBRATE.items()],
    )
    refused = table(
        ("kind", "class", "why"),
        [(n, f"`{k}`", reason(k, parts)) for n, (k, parts, _) in model_zoo.REFUSED.items()],
    )
    features = "".join(f"- {name}\n" for name in unet_zoo.CALIBRATE)
    others = "".join(f"- {name}\n" for name in unet_zoo.REFUSED)
    return "\n".join((TOP, calibrate + GREY + FORMS, refused + UNETS, features + REFUSED, others))


def reason(kind: str, parts: dict[str, tuple[str, str]]) -> str:
    """What the line says of a pipeline that is refused."""
    return str(
        why_refused({"_class_name": kind, **{name: [*part] for name, part in parts.items()}})
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
