"""Whole evaluations of a small quantized pipeline."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open

import scenes
from dgq.checkpoint import load_quantized_unet
from dgq.errors import DGQError
from dgq.pipelines import load_pipeline
from lit.evaluation import EvaluationSettings, evaluate
from lit.evaluation.features import ClipExtractor
from lit.evaluation.generation import Sampling, sample, using_unet
from lit.evaluation.images import read_image, to_images, to_tensor
from lit.evaluation.measure import MIN_REFERENCES, RENDER_BATCH
from lit.evaluation.metrics import frechet_distance
from lit.evaluation.plan import run_folder
from lit.evaluation.prompts import reference_captions

Evaluate = Callable[..., dict[str, Any]]
N = 5


@pytest.fixture(scope="module")
def run(ckpt: Path, clip_folder: Path) -> Evaluate:
    """Evaluate with small defaults; what is printed is under ``printed``."""

    def call(output: Path, **changes: Any) -> dict[str, Any]:
        defaults = {
            "ckpt": ckpt,
            "output": output,
            "clip": str(clip_folder),
            "num_images": N,
            "batch_size": 3,
            "sqnr_prompts": 2,
        }
        console = Console(file=io.StringIO(), width=120)
        report = evaluate(EvaluationSettings(**(defaults | changes)), console)
        return {"report": report, "printed": console.file.getvalue()}  # type: ignore[attr-defined]

    return call


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def finished(run: Evaluate, output: Path) -> dict[str, Any]:
    """One complete evaluation."""
    return run(output)


def test_metrics_json_has_the_promised_keys(finished: dict[str, Any], output: Path) -> None:
    report = json.loads((output / "metrics.json").read_text())
    assert report == finished["report"]
    metrics = {"fid", "inception_score", "clip_score", "oracle"}
    distances = {"fid_to_full_precision", "psnr", "sqnr_db", "sqnr_db_per_step"}
    assert set(report) == {"protocol", "full_precision", "quantized", "cost", "notes"}
    assert set(report["full_precision"]) == metrics
    assert set(report["quantized"]) == metrics | distances
    for name in ("full_precision", "quantized"):
        assert list(report[name]["oracle"]) == ["mean", "all", *scenes.ATTRIBUTES]
        assert {"bops", "bytes"} <= set(report["cost"][name])
        assert all(isinstance(report[name][m], float) for m in metrics - {"oracle"})
    assert len(report["quantized"]["sqnr_db_per_step"]) == 3


def test_the_protocol_says_how_it_was_done(finished: dict[str, Any]) -> None:
    protocol = finished["report"]["protocol"]
    assert protocol["num_images"] == N
    assert protocol["num_inference_steps"] == 2
    assert protocol["guidance_scale"] == 3.0
    assert protocol["sampler"] == "PNDMScheduler"
    assert protocol["checkpoint"] == "w4a8"
    assert len(protocol["checkpoint_sha256"]) == 64
    assert protocol["versions"]["torch"] == torch.__version__
    assert protocol["quantization"]["weights"]["n_bits"] == 4


def test_images_are_those_of_the_two_unets(
    finished: dict[str, Any], output: Path, ckpt: Path, pipeline_folder: Path
) -> None:
    pipeline, sampling = load_pipeline(str(pipeline_folder)), Sampling(2, 3.0, seed=0)
    prompts = scenes.sample_captions(N, 0, "test")
    expected = to_tensor(sample(pipeline, prompts, [4], sampling))
    with using_unet(pipeline, load_quantized_unet(ckpt)):
        quantized = to_tensor(sample(pipeline, prompts, [4], sampling))
    for name, image in (("full_precision", expected), ("quantized", quantized)):
        actual = to_tensor([read_image(output / "images" / name / "00004.png")])
        torch.testing.assert_close(actual, image, atol=1.01 / 255, rtol=0)
    assert (expected - quantized).abs().max() > 2 / 255


def test_fid_is_that_of_renders_of_other_scenes(
    finished: dict[str, Any], output: Path, clip_folder: Path
) -> None:
    clip = ClipExtractor(clip_folder)
    captions = reference_captions(MIN_REFERENCES, 0)
    renders = [
        to_images(scenes.render(captions[i : i + RENDER_BATCH], 32, i // RENDER_BATCH))
        for i in range(0, len(captions), RENDER_BATCH)
    ]
    images = [read_image(p) for p in sorted((output / "images" / "quantized").glob("*.png"))]
    expected = frechet_distance(clip.images(renders).pooled, clip.images([images]).pooled)
    assert finished["report"]["quantized"]["fid"] == pytest.approx(expected, rel=1e-3)


def test_bytes_are_those_of_the_files(finished: dict[str, Any], ckpt: Path) -> None:
    cost = finished["report"]["cost"]
    with safe_open(ckpt / "quantized" / "quantized.safetensors", "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert cost["quantized"]["bytes"] == sum(t.numel() * t.element_size() for t in tensors)
    assert cost["quantized"]["bytes"] < cost["full_precision"]["bytes"] / 3
    assert cost["quantized"]["layer_bops"] < cost["full_precision"]["layer_bops"] / 8


def test_too_few_images_for_fid_are_pointed_out(finished: dict[str, Any]) -> None:
    assert any("covariance is singular" in note for note in finished["report"]["notes"])
    assert "covariance is" in finished["printed"]


def test_grid_and_table(finished: dict[str, Any], output: Path) -> None:
    with Image.open(output / "grid.png") as grid:
        assert grid.width > N * 192
    for expected in ("FID to real images", "CLIP score", "oracle: shape", "SQNR", "GBOPs"):
        assert expected in finished["printed"]


def test_a_rerun_continues_and_reports_the_same(
    finished: dict[str, Any], run: Evaluate, output: Path
) -> None:
    images = output / "images" / "quantized"
    expected = (images / "00003.png").read_bytes()
    (images / "00003.png").write_bytes(expected[:100])
    kept = (images / "00000.png").stat().st_mtime_ns
    report = run(output)["report"]
    assert report == finished["report"]
    assert (images / "00003.png").read_bytes() == expected
    assert (images / "00000.png").stat().st_mtime_ns == kept


def test_other_settings_are_refused(finished: dict[str, Any], run: Evaluate, output: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
    with pytest.raises(DGQError, match=r"guidance_scale 3\.0, not 1\.0.*--overwrite"):
        run(output, guidance_scale=1.0)
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == before


def test_overwriting_replaces_images_and_results(run: Evaluate, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(out, num_images=2)["report"]
    image = out / "images" / "full_precision" / "00000.png"
    before = image.read_bytes()
    second = run(out, num_images=2, seed=1, overwrite=True)["report"]
    assert image.read_bytes() != before
    assert (first["protocol"]["seed"], second["protocol"]["seed"]) == (0, 1)
    assert json.loads((out / "metrics.json").read_text()) == second


def test_an_output_that_cannot_be_written(
    run: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr("lit.evaluation.store.write_json", refuse)
    with pytest.raises(DGQError, match=r"cannot write to --output .*read-only"):
        run(tmp_path / "out")


def test_a_run_can_be_named_by_its_quantized_folder(ckpt: Path) -> None:
    assert run_folder(ckpt / "quantized") == run_folder(ckpt) == ckpt


def test_images_too_small_for_the_oracle(
    run: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("too small")

    monkeypatch.setattr(scenes, "score", refuse)
    report = run(tmp_path / "out", num_images=2)["report"]
    assert report["quantized"]["oracle"] is None
    assert report["notes"].count("oracle: too small") == 1


def test_other_prompts_and_a_single_image(run: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog on a beach\n")
    result = run(tmp_path / "out", prompts=tmp_path / "prompts.txt", num_images=None)
    report = result["report"]
    assert report["protocol"]["num_images"] == 1
    for name in ("full_precision", "quantized"):
        assert report[name]["fid"] is None
        assert report[name]["oracle"] is None
        assert report[name]["inception_score"] is None
    assert report["quantized"]["fid_to_full_precision"] is None
    assert any("--references" in note for note in report["notes"])
    assert "--references" in result["printed"]


def test_shared_full_precision_images_and_references(
    finished: dict[str, Any], run: Evaluate, output: Path, tmp_path: Path
) -> None:
    shared = output / "images" / "full_precision"
    before = {p: p.stat().st_mtime_ns for p in shared.iterdir()}
    # The real images are the full-precision ones: their distance to themselves is nothing.
    report = run(tmp_path / "out", full_precision_images=shared, references=shared)["report"]
    assert {p: p.stat().st_mtime_ns for p in shared.iterdir()} == before
    assert not (tmp_path / "out" / "images" / "full_precision").exists()
    assert report["full_precision"]["fid"] == pytest.approx(0, abs=1e-3)
    quantized = report["quantized"]
    assert quantized["fid"] == pytest.approx(quantized["fid_to_full_precision"], rel=1e-6)
    assert quantized["psnr"] == finished["report"]["quantized"]["psnr"]


def test_weights_at_full_precision_are_infinitely_close(
    run: Evaluate, tmp_path: Path, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = load_pipeline(str(pipeline_folder)).unet
    monkeypatch.setattr("dgq.checkpoint.load_quantized_unet", lambda _: unet)
    report = run(tmp_path / "out", num_images=2)["report"]
    assert report["quantized"]["psnr"] is None
    assert report["quantized"]["sqnr_db"] is None
    assert report["quantized"]["sqnr_db_per_step"] == [None] * 3
    assert any(note.startswith("sqnr_db: inf") for note in report["notes"])
    assert report["quantized"]["fid_to_full_precision"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt": Path("missing/run")}, "missing/run cannot be used as a checkpoint"),
        ({"clip": "missing/clip/model"}, "no CLIP model can be loaded"),
        ({"references": Path("missing")}, "is not a folder"),
        ({"device": "nonsense"}, "--device nonsense cannot be used"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(
    run: Evaluate, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DGQError, match=message) as error:
        run(tmp_path / "out", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_model_is_refused(
    run: Evaluate, pipeline_folder: Path, tmp_path: Path
) -> None:
    pipeline = load_pipeline(str(pipeline_folder))
    config = dict(pipeline.unet.config) | {"layers_per_block": 2}
    pipeline.unet = type(pipeline.unet).from_config(config)
    pipeline.save_pretrained(tmp_path / "other")
    with pytest.raises(DGQError, match=r"of another model than .*: layers_per_block is 1 there"):
        run(tmp_path / "out", pipeline=str(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["quantized.safetensors", "quantization.json"])
def test_a_truncated_checkpoint_is_refused(
    run: Evaluate, ckpt: Path, tmp_path: Path, file: str
) -> None:
    damaged = tmp_path / "w4a8"
    shutil.copytree(ckpt, damaged)
    content = (damaged / "quantized" / file).read_bytes()
    (damaged / "quantized" / file).write_bytes(content[: len(content) // 2])
    before = sorted(damaged.rglob("*"))
    with pytest.raises(DGQError, match="damaged"):
        run(tmp_path / "out", ckpt=damaged)
    assert not (tmp_path / "out").exists()
    assert sorted(damaged.rglob("*")) == before


def test_the_two_kinds_of_images_cannot_share_a_folder(run: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="is where quantized images go"):
        run(tmp_path / "out", full_precision_images=tmp_path / "out" / "images" / "quantized")


def test_an_output_that_is_a_file_is_refused(run: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DGQError, match="is not a folder"):
        run(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
