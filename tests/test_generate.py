"""Drawing one picture: as evaluate.py draws it, beside full precision, refused in one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL import Image

from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.storage.checkpoint import (
    FOLDER,
    GenerationSettings,
    Manifest,
    load_quantized_unet,
    read_manifest,
    save_quantized,
)
from dgq.storage.fingerprint import network_sha256
from evaluation.command_line import main as evaluate
from evaluation.one_prompt.command_line import main
from tests.quantized_models import SETTINGS, TIMESTEPS
from tests.tiny_pipelines import calibrate_

SCRIPT = Path(__file__).parents[1] / "generate.py"
PROMPTS = ["a red circle", "two blue squares"]
SETTING = "exponents a6"
STEPS = ("--steps", "3", "--guidance", "3", "--height", "16", "--width", "16")


def save_run(folder: Path, unet: UNet2DConditionModel, pipeline: str) -> Path:
    """Quantize a UNet with nearest rounding, as the run of a calibration."""
    generation = GenerationSettings(3, 3.0, 16, 16)
    config, sha256 = dict(unet.config), network_sha256(unet)
    description = (SETTINGS[SETTING], generation, TIMESTEPS, (8, 8))
    calibrate_(unet, SETTINGS[SETTING], TIMESTEPS)
    save_quantized(unet, folder / FOLDER, Manifest(pipeline, config, *description, sha256))
    return folder


@pytest.fixture(scope="module")
def run(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized model of the smallest pipeline."""
    folder = tmp_path_factory.mktemp("runs") / "w4a6"
    return save_run(folder, load_unet(str(micro_folder)), str(micro_folder))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_picture_is_the_one_that_evaluate_draws(run: Path, elsewhere: Path) -> None:
    (elsewhere / "prompts.txt").write_text("\n".join(PROMPTS))
    options = "--prompts prompts.txt --batch-size 1 --latency-calls 1 --sqnr-prompts 1 --seeds 5"
    assert evaluate(["--ckpt", str(run), *options.split(), "--output", "out"]) == 0
    drawn = {
        name: sorted(next((elsewhere / "outputs/images").glob(f"{name}*")).glob("*.png"))
        for name in ("full_precision", "w4a6")
    }
    for index, prompt in enumerate(PROMPTS):
        noise = ("--seed", "5", "--index", str(index))
        assert main([prompt, "--ckpt", str(run), *noise, "--output", f"{index}.png"]) == 0
        assert np.array_equal(pixels(Path(f"{index}.png")), pixels(drawn["w4a6"][index]))
    pipeline = pipeline_of(run)
    assert main([PROMPTS[1], "--pipeline", pipeline, *STEPS, *noise, "--output", "full.png"]) == 0
    assert np.array_equal(pixels(Path("full.png")), pixels(drawn["full_precision"][1]))
    assert not np.array_equal(pixels(Path("full.png")), pixels(Path("1.png")))


def pipeline_of(run: Path) -> str:
    """Where the model of a run is from."""
    return read_manifest(run).pipeline


def test_compared_both_pictures_are_in_one_file(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt, ckpt = PROMPTS[0], ("--ckpt", str(run))
    assert main([prompt, *ckpt, "--compare", "--output", "both.png"]) == 0
    printed = capsys.readouterr().out
    for words in ("full precision: ", "w4a6: ", " s, peak memory ", "SQNR", "PSNR", "both.png"):
        assert words in printed
    assert str(load_quantized_unet(run).execution) in printed
    assert main([prompt, *ckpt, "--output", "quantized.png"]) == 0
    assert main([prompt, "--pipeline", pipeline_of(run), *STEPS, "--output", "full.png"]) == 0
    sheet, factor = pixels(Path("both.png")), 16
    for column, name in enumerate(("full", "quantized")):
        alone = pixels(Path(f"{name}.png")).repeat(factor, 0).repeat(factor, 1)
        x = 8 + column * (256 + 8)
        assert any(
            np.array_equal(sheet[y : y + 256, x : x + 256], alone) for y in range(len(sheet) - 255)
        ), name


def test_pictures_do_not_depend_on_how_many_there_are(run: Path) -> None:
    assert main([PROMPTS[0], "--ckpt", str(run), "--number", "3", "--output", "p.jpg"]) == 0
    assert sorted(p.name for p in Path().glob("*.jpg")) == ["p-0.jpg", "p-1.jpg", "p-2.jpg"]
    assert main([PROMPTS[0], "--ckpt", str(run), "--index", "2", "--output", "q.jpg"]) == 0
    assert Path("p-2.jpg").read_bytes() == Path("q.jpg").read_bytes()
    assert Path("p-1.jpg").read_bytes() != Path("q.jpg").read_bytes()


def test_nothing_is_overwritten_unless_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [PROMPTS[0], "--ckpt", str(run)]
    assert main(command) == 0
    assert main([*command, "--steps", "2"]) == 0
    names = ["a-red-circle-seed0.png", "a-red-circle-seed0_2.png"]
    assert sorted(p.name for p in Path("outputs/pictures").iterdir()) == names
    Path("mine.png").write_text("mine")
    assert main([*command, "--output", "mine.png"]) == 2
    assert Path("mine.png").read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--output", "mine.png", "--overwrite"]) == 0
    assert pixels(Path("mine.png")).shape == (16, 16, 3)


def test_options_change_the_picture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [PROMPTS[0], "--ckpt", str(run)]
    assert main([*command, "--execution", "float", "--output", "float.png"]) == 0
    assert "w4a6: 0 layers multiply integers" in capsys.readouterr().out
    variants: dict[str, tuple[str, ...]] = {
        "plain": (),
        "empty": ("--negative", ""),
        "negative": ("--negative", "a green star"),
        "scheduler": ("--scheduler", "EulerDiscreteScheduler"),
        "guidance": ("--guidance", "8"),
    }
    for name, options in variants.items():
        assert main([*command, *options, "--output", f"{name}.png"]) == 0
    drawn = {name: pixels(Path(f"{name}.png")) for name in variants}
    assert np.array_equal(drawn["plain"], drawn["empty"])
    for name in ("negative", "scheduler", "guidance"):
        assert not np.array_equal(drawn["plain"], drawn[name]), name
    assert main([*command, "--height", "32", "--width", "24", "--output", "wide.png"]) == 0
    assert Image.open("wide.png").size == (24, 32)


def test_a_whole_pipeline_with_a_quantized_unet_draws_by_itself(
    run: Path, micro_folder: Path
) -> None:
    pipeline = load_pipeline(str(micro_folder), load_quantized_unet(run))
    pipeline.save_pretrained("whole")
    assert main([PROMPTS[0], "--ckpt", "whole", "--output", "whole.png"]) == 0
    assert main([PROMPTS[0], "--ckpt", str(run), "--output", "run.png"]) == 0
    assert np.array_equal(pixels(Path("whole.png")), pixels(Path("run.png")))
    assert str(micro_folder) not in Path("whole/unet/config.json").read_text()


def test_a_pipeline_is_loaded_without_the_weights_of_its_unet(
    run: Path, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the UNet in full precision was read")

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", refuse)
    assert main([PROMPTS[0], "--ckpt", str(run), "--output", "p.png"]) == 0


@pytest.fixture(scope="module")
def lora(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with random values on the attention of the smallest pipeline."""
    peft = pytest.importorskip("peft")
    pipeline: DiffusionPipeline = load_pipeline(str(micro_folder))
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    torch.manual_seed(0)
    pipeline.unet.add_adapter(config)
    folder = tmp_path_factory.mktemp("lora")
    layers = peft.get_peft_model_state_dict(pipeline.unet)
    pipeline.save_lora_weights(str(folder), unet_lora_layers=layers)
    return folder


def test_a_lora_changes_the_picture_by_its_scale(run: Path, lora: Path) -> None:
    command = [PROMPTS[0], "--pipeline", pipeline_of(run), *STEPS]
    file = lora / "pytorch_lora_weights.safetensors"
    variants = {"no": (), "one": ("--lora", str(file)), "three": ("--lora", str(lora))}
    variants["three"] += ("--lora-scale", "3")
    variants["zero"] = ("--lora", str(lora), "--lora-scale", "0")
    for name, options in variants.items():
        assert main([*command, *options, "--output", f"{name}.png"]) == 0
    drawn = {name: pixels(Path(f"{name}.png")) for name in variants}
    assert not np.array_equal(drawn["no"], drawn["one"])
    assert not np.array_equal(drawn["one"], drawn["three"])
    assert np.array_equal(drawn["no"], drawn["zero"])


@pytest.mark.skipif(find_spec("dgq.adapters.adapters") is None, reason="LoRA on quantized layers")
def test_a_lora_goes_on_both_models_of_a_comparison(run: Path, lora: Path) -> None:
    command = [PROMPTS[0], "--ckpt", str(run), "--compare"]
    assert main([*command, "--output", "without.png"]) == 0
    assert main([*command, "--lora", str(lora), "--output", "with.png"]) == 0
    without, with_ = (pixels(Path(f"{name}.png")) for name in ("without", "with"))
    half = without.shape[1] // 2
    assert not np.array_equal(without[:, :half], with_[:, :half])
    assert not np.array_equal(without[:, half:], with_[:, half:])


def of_another_width(run: Path) -> list[str]:
    """A pipeline whose texts are wider than the UNet reads."""
    return ["--ckpt", str(run), "--pipeline", "scenes"]


def changed_weights(run: Path) -> list[str]:
    """A comparison with other weights than it was made from."""
    unet = load_unet(pipeline_of(run))
    with torch.no_grad():
        unet.conv_in.weight += 1
    pipeline = load_pipeline(pipeline_of(run), unet)
    pipeline.save_pretrained("changed")
    return ["--ckpt", str(run), "--compare", "--pipeline", "changed"]


def damaged(run: Path) -> list[str]:
    """A model with a flipped bit."""
    folder = Path("damaged")
    folder.mkdir()
    for file in (run / FOLDER).iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= file.suffix == ".safetensors"
        (folder / file.name).write_bytes(content)
    return ["--ckpt", str(folder)]


def strange_lora(run: Path) -> list[str]:
    """A LoRA that is not a safetensors file."""
    Path("strange.safetensors").write_bytes(b"strange")
    return ["--ckpt", str(run), "--lora", "strange.safetensors"]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("does not exist", lambda run: ["--ckpt", "missing"]),
        ("prompt", lambda run: None),
        ("--compare", lambda run: ["--compare"]),
        ("--steps", lambda run: ["--ckpt", str(run), "--steps", "0"]),
        ("--seed", lambda run: ["--ckpt", str(run), "--seed", "-1"]),
        ("guidance", lambda run: ["--ckpt", str(run), "--guidance", "nan"]),
        ("go together", lambda run: ["--ckpt", str(run), "--height", "16"]),
        ("--height", lambda run: ["--ckpt", str(run), "--height", "13", "--width", "16"]),
        ("--steps", lambda run: ["--ckpt", str(run), "--steps", "5000"]),
        ("--negative", lambda run: ["--ckpt", str(run), "--negative", "x", "--guidance", "1"]),
        ("DDIMScheduler", lambda run: ["--ckpt", str(run), "--scheduler", "Magic"]),
        ("execution", lambda run: ["--ckpt", str(run), "--execution", "magic"]),
        ("give --ckpt", lambda run: ["--pipeline", pipeline_of(run), "--execution", "float"]),
        ("--device", lambda run: ["--ckpt", str(run), "--device", "magic"]),
        ("--device", lambda run: ["--ckpt", str(run), "--device", "meta"]),
        ("--output", lambda run: ["--ckpt", str(run), "--output", "p.txt"]),
        ("cannot be written", lambda run: ["--ckpt", str(run), "--output", "/proc/p/p.png"]),
        ("--lora", lambda run: ["--ckpt", str(run), "--lora-scale", "1"]),
        ("does not exist", lambda run: ["--ckpt", str(run), "--lora", "missing.safetensors"]),
        ("--lora strange", strange_lora),
        ("its cross_attention_dim is 16, there 128", of_another_width),
        ("other weights", changed_weights),
        ("damaged", damaged),
    ],
)
def test_bad_input_is_one_line_before_anything_is_drawn(
    words: str,
    options: Callable[[Path], list[str] | None],
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was drawn")

    monkeypatch.setattr("evaluation.one_prompt.generate.sample", refuse)
    given = options(run)
    capsys.readouterr()  # what making the input showed
    assert main(["a red circle", *given] if given is not None else []) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert not list(Path().glob("**/*.png"))


def test_the_script_runs_from_anywhere(elsewhere: Path) -> None:
    script = subprocess.run(
        [sys.executable, str(SCRIPT), "a circle", "--ckpt", "missing"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.returncode == 2
    assert script.stderr.startswith("error: ")
    assert script.stderr.count("\n") == 1
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("option", ["--output", "--lora", "--negative", "--pipeline"])
def test_a_value_that_yaml_takes_for_a_comment_is_not_lost(
    option: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in ([option, "#1.png"], [f"{option}=#1.png"]):
        assert main(["a circle", "--pipeline", "nowhere", *given]) == 2
        assert f"{option} #1.png would be read as a comment" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())
