"""Options, presets, and what is said about those that are wrong."""

from pathlib import Path

import pytest

from dgq.errors import DGQError
from evaluation import EvaluationSettings, Protocol, command_line
from evaluation.command_line import PROTOCOLS, main, make_parser, parse_settings


def test_options_become_settings() -> None:
    command = (
        "--ckpt outputs/w4a8 outputs/w4a4 --num-images 8 --batch-size 2 --seeds 3 4 --compile "
        "--num-inference-steps 4 --guidance-scale 0 --prompts p.txt --references r --pipeline "
        "some/model --clip c --output o --sqnr-prompts 5 --images i --device cpu --overwrite "
        "--devices 2 --latency-calls 3 --features inception --inception w.pth --clip-images 6 "
        "--jpeg-quality 80 --measured-size 256 --height 512 --width 512 --lpips false "
        "--image-reward --inception-score-splits 10 --metrics fid psnr"
    )
    assert parse_settings(command.split()) == EvaluationSettings(
        ckpt=(Path("outputs/w4a8"), Path("outputs/w4a4")),
        protocol=Protocol(
            prompts="p.txt",
            references=Path("r"),
            num_images=8,
            seeds=(3, 4),
            num_inference_steps=4,
            guidance_scale=0.0,
            height=512,
            width=512,
            jpeg_quality=80,
            measured_size=256,
            features="inception",
            inception=Path("w.pth"),
            clip="c",
            clip_images=6,
            inception_score_splits=10,
            sqnr_prompts=5,
            metrics=("fid", "psnr"),
            lpips=False,
            image_reward=True,
        ),
        protocol_name="custom",
        pipeline="some/model",
        output=Path("o"),
        images=Path("i"),
        batch_size=2,
        devices=2,
        device="cpu",
        latency_calls=3,
        compile=True,
        overwrite=True,
    )


def test_defaults_are_those_of_the_settings() -> None:
    assert parse_settings([]) == EvaluationSettings()
    underscores = parse_settings(["--ckpt", "outputs/w4a8", "--num_images=8"])
    assert underscores == EvaluationSettings(
        (Path("outputs/w4a8"),), Protocol(num_images=8), protocol_name="custom"
    )


@pytest.mark.parametrize("name", sorted(path.name for path in PROTOCOLS.glob("*.yaml")))
@pytest.mark.parametrize("option", ["--protocol={}", "--protocol {}"])
def test_every_preset_is_found_by_name_and_overridden_by_options(name: str, option: str) -> None:
    arguments = ["--seeds", "7", *option.format(name.removesuffix(".yaml")).split()]
    settings = parse_settings([*arguments, "--num-images", "3"])
    assert settings.protocol_name == name.removesuffix(".yaml")
    assert settings.protocol.seeds == (7,)
    assert settings.protocol.num_images == 3
    assert settings.protocol.guidance_scale is not None


def test_the_published_protocol() -> None:
    protocol = parse_settings(["--protocol", "paper.yaml"]).protocol
    assert protocol == Protocol(
        num_images=30_000,
        num_inference_steps=25,
        guidance_scale=7.5,
        height=512,
        width=512,
        seeds=(1234,),
        jpeg_quality=75,
        measured_size=256,
        features="inception",
        inception_score_splits=10,
        clip="open_clip:ViT-g-14:laion2b_s34b_b88k",
        clip_images=3000,
    )


def test_presets_go_together_from_left_to_right(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("guidance_scale: 4\nseeds: [1, 2]\nmetrics: [kid]\n")
    arguments = ["--protocol", "quick", "--protocol", str(tmp_path / "more.yaml")]
    settings = parse_settings(arguments)
    assert settings.protocol_name == "quick-more"
    assert settings.protocol.guidance_scale == 4
    assert settings.protocol.seeds == (1, 2)
    assert settings.protocol.metrics == ("kid",)
    assert settings.protocol.features == "inception"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--num-images 0", "--num-images must be a whole number of at least 1, got 0"),
        ("--batch-size -1", "--batch-size"),
        ("--devices 0", "--devices"),
        ("--measured-size 1000000000", "--measured-size must be at most 4096"),
        ("--clip=", "--clip is empty"),
        ("--clip=#1", "--clip #1 would be read as a comment"),
        ("--latency-calls 0", "--latency-calls"),
        ("--num-inference-steps 0", "--num-inference-steps"),
        ("--sqnr-prompts 0", "--sqnr-prompts"),
        ("--clip-images 0", "--clip-images"),
        ("--measured-size 0", "--measured-size"),
        ("--inception-score-splits 0", "--inception-score-splits"),
        ("--jpeg-quality 0", "--jpeg-quality must be 1 to 95"),
        ("--guidance-scale inf", "guidance_scale"),
        ("--guidance-scale -1", "--guidance-scale must be at least 0"),
        ("--seeds -1", "--seeds"),
        ("--seeds 1 1", "--seeds must be distinct"),
        ("--height 512", "--height and --width go together"),
        ("--inception w.pth", "goes with --features inception"),
        ("--features vgg", "features"),
        ("--metrics vmaf", "invalid choice: 'vmaf' (choose from 'fid', 'kid'"),
        ("--metrics lpips", "LPIPS compares a quantized model with full precision: name one"),
        ("--num-images 3.5", "num_images"),
        ("--nonsense", "nonsense"),
        ("--protocol nonsense", "no protocol nonsense: it is not a file"),
        ("--ckpt missing missing", "names the same model twice"),
        ("--ckpt missing", "cannot be used as a checkpoint: it does not exist"),
        ("--prompts missing.txt", "missing.txt cannot be read"),
        ("--device nonsense", "--device nonsense cannot be used"),
        ("--pipeline missing", "missing is neither a local folder"),
        ("--clip missing-clip", "no CLIP model can be loaded from missing-clip"),
        ("--features inception --inception missing.pth", "no Inception weights at missing.pth"),
        ("--references missing", "missing is not a folder"),
        ("--references missing.npz", "missing.npz holds no FID statistics"),
        ("--lpips", "LPIPS compares a quantized model with full precision: name one"),
        ("--image-reward", "the package ImageReward is not installed: pip install"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluation.extras.find_spec", lambda _: None)
    assert main(["--num-images", "2", *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["num_images: many\n", "nonsense: 3\n", "{", "seeds: 3\n"])
def test_a_preset_that_is_wrong_is_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(content)
    assert main(["--protocol", str(tmp_path / "own.yaml"), "--ckpt", "missing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", [b"caf\xe9", b"- fid", b"", b"num_images: [1"])
def test_a_protocol_without_options_is_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    assert main(["--protocol", str(tmp_path / "own.yaml")]) == 2
    error = capsys.readouterr().err
    assert "own.yaml" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(DGQError("no such thing"), 2, "no such thing"), (KeyboardInterrupt(), 130, "resumes")],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(command_line, "evaluate", fail)
    assert main([]) == code
    assert said in capsys.readouterr().err


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for action in make_parser()._actions:
        assert action.help, action.option_strings
        assert action.option_strings[-1].partition("[")[0] in text
