"""The command line: what it passes on, and what it says about bad input."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import evaluate
from dgq.errors import DGQError
from lit.evaluation import EvaluationSettings


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[EvaluationSettings]:
    """Settings of the evaluations that were asked for, none of which is run."""
    asked: list[EvaluationSettings] = []
    monkeypatch.setattr(evaluate, "evaluate", lambda settings, _: asked.append(settings))
    return asked


def test_options_become_settings(evaluated: list[EvaluationSettings]) -> None:
    command = (
        "--ckpt outputs/w4a8 --num-images 8 --batch-size 2 --seed 3 --num-inference-steps 4 "
        "--guidance-scale 0 --prompts p.txt --references r --pipeline some/model --clip c "
        "--output o --sqnr-prompts 5 --full-precision-images f --device cpu --overwrite"
    )
    assert evaluate.main(command.split()) == 0
    assert evaluated == [
        EvaluationSettings(
            ckpt=Path("outputs/w4a8"),
            output=Path("o"),
            full_precision_images=Path("f"),
            num_images=8,
            batch_size=2,
            seed=3,
            num_inference_steps=4,
            guidance_scale=0.0,
            prompts=Path("p.txt"),
            references=Path("r"),
            pipeline="some/model",
            clip="c",
            sqnr_prompts=5,
            device="cpu",
            overwrite=True,
        )
    ]


def test_defaults_are_those_of_the_settings(evaluated: list[EvaluationSettings]) -> None:
    assert evaluate.main(["--ckpt", "outputs/w4a8"]) == 0
    assert evaluated == [EvaluationSettings(ckpt=Path("outputs/w4a8"))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-images", "0"], "--num-images must be a whole number of at least 1, got 0"),
        (["--batch-size", "-1"], "--batch-size"),
        (["--num-inference-steps", "0"], "--num-inference-steps"),
        (["--sqnr-prompts", "0"], "--sqnr-prompts"),
        (["--guidance-scale", "nan"], "--guidance-scale"),
        (["--seed", "-1"], "--seed"),
        ([], "cannot be used as a checkpoint"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--ckpt", str(tmp_path / "missing"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("options", [["--num-images", "3.5"], ["--nonsense"], []])
def test_what_cannot_be_parsed_is_code_2(options: list[str]) -> None:
    arguments = ["--ckpt", "x", *options] if options else []
    with pytest.raises(SystemExit) as exit_:
        evaluate.main(arguments)
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(DGQError("no such thing"), 2, "no such thing"), (KeyboardInterrupt(), 130, "goes on")],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(evaluate, "evaluate", fail)
    assert evaluate.main(["--ckpt", "x"]) == code
    assert said in capsys.readouterr().err


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    text = capsys.readouterr().out
    for action in evaluate.make_parser()._actions:
        assert action.help
        assert action.option_strings[-1] in text


def test_the_script_runs_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, evaluate.__file__, "--ckpt", "missing"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
