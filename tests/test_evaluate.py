"""The script as users call it: from anywhere, killed and called again, on two devices."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import GenerationSettings
from evaluation.command_line import main
from evaluation.images.files import read_image, to_tensor
from evaluation.images.sampling import sample

SCRIPT = Path(__file__).parents[1] / "evaluate.py"
PROMPTS = [f"a picture of {i} red circles" for i in range(8)]


def start(work: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The script, in a folder of its own."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=work,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_script_runs_from_anywhere(tmp_path: Path) -> None:
    script = start(tmp_path, "--ckpt", "missing")
    _, error = script.communicate()
    assert script.returncode == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_killed_and_called_again_it_goes_on_with_two_processes(
    micro_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    command = (
        f"--pipeline {micro_folder} --prompts prompts.txt --batch-size 1 --guidance-scale 3 "
        "--num-inference-steps 12 --devices 2 --device cpu --output out --latency-calls 1"
    ).split()
    script = start(tmp_path, *command)
    before = wait_for_images(tmp_path, 2)
    script.send_signal(signal.SIGKILL)
    script.communicate()
    wait_until_gone(script.pid)
    assert len(before) < len(PROMPTS)
    assert not (tmp_path / "out").exists()

    monkeypatch.chdir(tmp_path)
    assert main(command) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["protocol"]["num_images"] == len(PROMPTS)
    images = sorted((tmp_path / "outputs" / "images").glob("*/*.png"))
    assert len(images) == len(PROMPTS)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "full precision" in capsys.readouterr().out
    # The same images as in one process and one batch.
    generation = GenerationSettings(12, 3.0)
    pipeline = load_pipeline(str(micro_folder))
    with torch.no_grad():
        expected = sample(pipeline, PROMPTS, range(len(PROMPTS)), generation, 0)
    actual = to_tensor([read_image(path) for path in images])
    torch.testing.assert_close(actual, expected, atol=1.01 / 255, rtol=0)


def wait_until_gone(group: int) -> None:
    """Until no process of a session is left: whoever drew has noticed that nobody waits."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise TimeoutError("drawing processes outlive the script")


def wait_for_images(work: Path, n: int) -> dict[Path, int]:
    """Images that are there as soon as there are n, with the times they were made."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = {p: p.stat().st_mtime_ns for p in (work / "outputs").glob("images/*/[0-9]*.png")}
        if len(found) >= n:
            return found
        time.sleep(0.02)
    raise TimeoutError("no images were drawn")
