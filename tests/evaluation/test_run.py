"""Whole evaluations of a small quantized pipeline."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import scenes
from data.embedded import SCENES
from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import load_quantized_unet
from evaluation import EvaluationSettings, Protocol, evaluate
from evaluation.features import references
from evaluation.features.extractors import Extractors
from evaluation.features.gaussian import fit_gaussian
from evaluation.features.references import RENDER_BATCH
from evaluation.images import image_set
from evaluation.images.files import encoded, read_image, to_images, to_tensor
from evaluation.images.sampling import sample, using_unet
from evaluation.images.store import fingerprint
from evaluation.images.tag import tagged
from evaluation.metrics.fid import frechet_distance
from evaluation.models import find_models, locate
from evaluation.prompts import reference_captions
from evaluation.report import record
from evaluation.versions import versions_of
from tests.forging import forge_, quantization

Evaluate = Callable[..., dict[str, Any]]
N = 8
OF_SETTINGS = {"ckpt", "output", "images", "overwrite", "pipeline", "batch_size", "compile"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of images that all evaluations here share."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module", autouse=True)
def _few_renders() -> Iterator[None]:
    """A thousand of them for each evaluation would be most of the work here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "MIN_RENDERS", 96)
        yield


@pytest.fixture(scope="module")
def run(ckpt: Path, clip_folder: Path, images: Path) -> Evaluate:
    """Evaluate with small defaults; what is printed is under ``printed``."""

    def call(output: Path | None, **changes: Any) -> dict[str, Any]:
        settings = {"ckpt": (ckpt,), "output": output, "images": images, "batch_size": 3}
        protocol = {"clip": str(clip_folder), "num_images": N, "sqnr_prompts": 2}
        for name, value in changes.items():
            (settings if name in OF_SETTINGS else protocol)[name] = value
        console = Console(file=io.StringIO(), width=160)
        asked = EvaluationSettings(**settings, protocol=Protocol(**protocol), latency_calls=1)
        report = evaluate(asked, console, "python evaluate.py")
        return {"report": report, "printed": console.file.getvalue()}  # type: ignore[attr-defined]

    return call


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def finished(run: Evaluate, output: Path) -> dict[str, Any]:
    """One complete evaluation."""
    return run(output)


def folder_of(images: Path, name: str) -> Path:
    """Images of a model with the first settings, which have N prompts."""
    for folder in sorted(images.glob(f"{name}-seed0-*")):
        known = json.loads((folder / "manifest.json").read_text())
        if len(known["prompts"]) == N and known["settings"]["num_inference_steps"] == 2:
            return folder
    raise FileNotFoundError(name)


def test_metrics_json_has_the_promised_keys(finished: dict[str, Any], output: Path) -> None:
    report = json.loads((output / "metrics.json").read_text())
    assert report == finished["report"]
    assert set(report) == {
        *("protocol", "models", "n_references", "notes", "versions", "threads", "command"),
    }
    assert report["threads"] == torch.get_num_threads()
    full, quantized = report["models"]
    alone = {"fid", "kid", "inception_score", "clip_score", "oracle_mean", "oracle_all"}
    distances = {"fid_to_full_precision", "kid_to_full_precision", "psnr", "psnr_mean", "ssim"}
    for name in alone:
        assert isinstance(full["metrics"][name]["value"], float)
    for name in alone | distances:
        assert isinstance(quantized["metrics"][name]["value"], float)
    assert full["metrics"]["psnr"] is None
    assert full["sqnr"] is None
    # PNDM makes one call more than it has steps.
    for part in ("plain", "guided"):
        assert len(quantized["sqnr"][part]["per_step_db"]) == 3
    estimate = full["metrics"]["clip_score"]
    assert estimate["interval"][0] <= estimate["value"] <= estimate["interval"][1]


def test_the_protocol_says_how_it_was_done(finished: dict[str, Any], ckpt: Path) -> None:
    protocol = finished["report"]["protocol"]
    assert protocol["preset"] == "default"
    assert set(protocol["extractors"]) == {"fid and kid", "inception score", "clip score"}
    assert protocol["num_images"] == N
    assert protocol["seeds"] == [0]
    assert protocol["num_inference_steps"] == 2
    assert protocol["guidance_scale"] == 3.0
    assert protocol["sampler"] == "PNDMScheduler"
    assert finished["report"]["versions"]["torch"] == version("torch")
    assert not any(note.startswith("CLIP score: of") for note in finished["report"]["notes"])
    full, quantized = finished["report"]["models"]
    assert (full["name"], full["checkpoint_sha256"]) == ("full precision", None)
    assert quantized["name"] == "w4a8"
    assert len(quantized["checkpoint_sha256"]) == 64
    assert quantized["quantization"]["weights"]["n_bits"] == 4


def test_images_are_those_of_the_two_unets(
    finished: dict[str, Any], images: Path, ckpt: Path, pipeline_folder: Path, generation: Any
) -> None:
    pipeline = load_pipeline(str(pipeline_folder))
    prompts = scenes.sample_captions(N, 0, "test")
    expected = sample(pipeline, prompts, [4], generation, 0)
    with using_unet(pipeline, load_quantized_unet(ckpt)):
        quantized = sample(pipeline, prompts, [4], generation, 0)
    for name, image in (("full_precision", expected), ("w4a8", quantized)):
        actual = to_tensor([read_image(folder_of(images, name) / "00004.png")])
        torch.testing.assert_close(actual, image, atol=1.01 / 255, rtol=0)
    assert (expected - quantized).abs().max() > 2 / 255


def test_fid_is_that_of_renders_of_held_out_scenes(
    finished: dict[str, Any], images: Path, clip_folder: Path
) -> None:
    extractors = Extractors(Protocol(clip=str(clip_folder)), benchmark=SCENES, device="cpu")
    captions = reference_captions(references.MIN_RENDERS, 0)
    renders = [
        to_images(scenes.render(captions[i : i + RENDER_BATCH], 32, i // RENDER_BATCH))
        for i in range(0, len(captions), RENDER_BATCH)
    ]
    drawn = [read_image(p) for p in sorted(folder_of(images, "w4a8").glob("*.png"))]
    a, b = (fit_gaussian(extractors.extract(batches).pooled) for batches in (renders, [drawn]))
    actual = finished["report"]["models"][1]["metrics"]["fid"]["value"]
    assert actual == pytest.approx(frechet_distance(a, b), rel=1e-5)


def test_distances_to_full_precision_are_those_of_the_images(
    finished: dict[str, Any], images: Path
) -> None:
    a, b = (
        to_tensor([read_image(p) for p in sorted(folder_of(images, name).glob("*.png"))])
        for name in ("full_precision", "w4a8")
    )
    expected = -10 * torch.log10((a - b).double().square().mean()).item()
    metrics = finished["report"]["models"][1]["metrics"]
    assert metrics["psnr"]["value"] == pytest.approx(expected, rel=1e-5)
    assert 0 < metrics["ssim"]["value"] < 1


def test_only_the_metrics_that_are_named_are_measured(
    finished: dict[str, Any], run: Evaluate, tmp_path: Path
) -> None:
    everything = finished["report"]["models"][1]["metrics"]
    result = run(tmp_path / "out", metrics=("psnr", "clip_score"))
    metrics = result["report"]["models"][1]["metrics"]
    measured = {key: value for key, value in metrics.items() if value is not None}
    assert measured == {key: everything[key] for key in ("psnr", "psnr_mean", "clip_score")}
    assert result["report"]["protocol"]["metrics"] == ["psnr", "clip_score"]
    assert result["report"]["n_references"] is None
    assert "FID" not in result["printed"]
    with pytest.raises(DGQError, match="there is no such metric; expected some of fid, kid"):
        run(tmp_path / "other", metrics=("fad",))


def test_costs_are_those_of_the_files(finished: dict[str, Any], ckpt: Path) -> None:
    full, quantized = (model["cost"] for model in finished["report"]["models"])
    file = ckpt / "quantized" / "diffusion_pytorch_model.safetensors"
    assert quantized["bytes_on_disk"] == file.stat().st_size
    assert quantized["bytes_in_memory"] < full["bytes_in_memory"] / 3
    assert quantized["layer_bops"] < full["layer_bops"] / 8
    for cost in (full, quantized):
        assert cost["latency_s"] > 0
        assert cost["peak_call_bytes"] > 4 * 2 * 16 * 64  # an activation of two rows at least
    assert full["compiled_latency_s"] is None
    assert any("--compile" in note for note in finished["report"]["notes"])


def test_the_compiled_unet_is_timed_if_asked_for(
    run: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        def call(*_: Any, **__: Any) -> None:
            raise RuntimeError("no compiler\nanywhere")

        return call

    monkeypatch.setattr(torch, "compile", lambda unet: unet)
    report = run(tmp_path / "out", num_images=2, compile=True)["report"]
    assert report["models"][0]["cost"]["compiled_latency_s"] > 0
    assert not any("--compile" in note for note in report["notes"])
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        DGQError, match=r"--compile: the UNet cannot be compiled here \(no compiler"
    ):
        run(tmp_path / "out", num_images=2, compile=True)


def test_too_few_images_for_fid_are_pointed_out(finished: dict[str, Any]) -> None:
    assert any("covariance is singular" in note for note in finished["report"]["notes"])
    assert "covariance is" in finished["printed"]


def test_grid_table_and_page(finished: dict[str, Any], output: Path) -> None:
    with Image.open(output / "grid.png") as grid:
        assert grid.width > N * 192
    for expected in ("FID to real images", "CLIP score", "oracle: shape", "SQNR", "GBOPs"):
        assert expected in finished["printed"]
    page = (output / "report.html").read_text()
    assert page.count('class="pixelated"') == 2 * N
    assert scenes.sample_captions(N, 0, "test")[0] in page


def test_a_rerun_continues_and_reports_the_same(
    finished: dict[str, Any], run: Evaluate, output: Path, images: Path
) -> None:
    folder = folder_of(images, "w4a8")
    expected = (folder / "00003.png").read_bytes()
    (folder / "00003.png").write_bytes(expected[:100])
    kept = (folder / "00000.png").stat().st_mtime_ns
    report = run(output)["report"]
    for first, second in zip(finished["report"]["models"], report["models"], strict=True):
        assert first["metrics"] == second["metrics"]
        assert first["sqnr"] == second["sqnr"]
    assert (folder / "00003.png").read_bytes() == expected
    assert (folder / "00000.png").stat().st_mtime_ns == kept


def test_results_of_another_evaluation_are_not_replaced(
    finished: dict[str, Any], run: Evaluate, output: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
    with pytest.raises(DGQError, match=r"results of another evaluation.*--overwrite"):
        run(output, num_images=2)
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == before


def test_overwriting_replaces_results_and_keeps_images(
    finished: dict[str, Any], run: Evaluate, output: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(output, out)
    before = {p: p.stat().st_mtime_ns for p in images.rglob("*.png")}
    report = run(out, num_images=2, overwrite=True)["report"]
    assert json.loads((out / "metrics.json").read_text()) == report
    assert report["protocol"]["num_images"] == 2
    assert {p: p.stat().st_mtime_ns for p in images.rglob("*.png")} == before


def test_each_protocol_has_a_folder_of_its_own_by_default(run: Evaluate, ckpt: Path) -> None:
    for n in (2, 3):
        run(None, num_images=n)
    folders = list((ckpt / "evaluation").iterdir())
    assert len(folders) == 2
    sizes = {
        json.loads((f / "metrics.json").read_text())["protocol"]["num_images"] for f in folders
    }
    assert sizes == {2, 3}
    shutil.rmtree(ckpt / "evaluation")


def test_several_models_and_seeds_in_one_table(
    finished: dict[str, Any], run: Evaluate, ckpt: Path, output: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ckpt, other)
    generation = {"num_inference_steps": 5, "guidance_scale": 3.0}
    forge_(other / "quantized", quantization(generation=generation))
    ckpts = (ckpt, other / "quantized")
    with pytest.raises(DGQError, match="calibrated for different sampling"):
        run(tmp_path / "out", ckpt=ckpts)
    result = run(tmp_path / "out", ckpt=ckpts, seeds=(0, 1), num_inference_steps=2)
    full, first, second = result["report"]["models"]
    assert [m["name"] for m in (full, first, second)] == ["full precision", "w4a8", "other"]
    # The same weights: the same images, whatever the manifest says otherwise.
    assert first["metrics"] == second["metrics"]
    assert first["checkpoint_sha256"] != second["checkpoint_sha256"]
    fid = first["metrics"]["fid"]
    assert fid["value"] == pytest.approx(np.mean(fid["seeds"]))
    assert fid["std"] == pytest.approx(np.std(fid["seeds"], ddof=1))
    assert fid["seeds"][0] == finished["report"]["models"][1]["metrics"]["fid"]["value"]
    assert "±" in result["printed"]
    assert "other" in (tmp_path / "out" / "report.html").read_text()


def test_full_precision_alone(run: Evaluate, pipeline_folder: Path, tmp_path: Path) -> None:
    result = run(
        tmp_path / "out",
        **{"ckpt": (), "pipeline": str(pipeline_folder), "num_inference_steps": 2},
        guidance_scale=3.0,
    )
    (model,) = result["report"]["models"]
    assert model["metrics"]["fid"]["value"] > 0
    assert "FID to full precision" not in result["printed"]


def test_the_published_protocol_in_small(run: Evaluate, images: Path, tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    lines = ["file_name,text", *(f"{i}.jpg,a dog number {i}" for i in range(4))]
    (tmp_path / "list" / "metadata.csv").write_text("\n".join(lines))
    np.savez(tmp_path / "real.npz", mu=np.zeros(12), sigma=np.eye(12))
    report = run(
        tmp_path / "out",
        prompts=str(tmp_path / "list"),
        references=tmp_path / "real.npz",
        num_images=3,
        jpeg_quality=75,
        measured_size=16,
        clip_images=2,
    )["report"]
    assert report["protocol"]["references"] == "real.npz"
    assert len(report["protocol"]["references_sha256"]) == 64
    assert report["protocol"]["clip_images"] == 2
    assert "CLIP score: of the first 2 of 3 images" in report["notes"]
    full, quantized = report["models"]
    assert full["metrics"]["fid"]["value"] > 0
    assert full["metrics"]["kid"] is None
    assert full["metrics"]["inception_score"] is None
    assert "oracle_all" not in full["metrics"]
    assert quantized["metrics"]["kid_to_full_precision"] is not None
    assert any("KID: real.npz has statistics only" in note for note in report["notes"])
    assert any(list(folder.glob("00002.jpg")) for folder in images.iterdir())


def test_other_prompts_and_a_single_image(run: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog on a beach\n")
    result = run(tmp_path / "out", prompts=str(tmp_path / "prompts.txt"), num_images=None)
    report = result["report"]
    assert any("was calibrated on 1 of these 1 prompts" in note for note in report["notes"])
    assert report["protocol"]["num_images"] == 1
    for model in report["models"]:
        for name in ("fid", "kid", "inception_score", "fid_to_full_precision"):
            assert model["metrics"][name] is None
    assert any("--references" in note for note in report["notes"])
    assert any("need at least two images" in note for note in report["notes"])
    assert "--references" in result["printed"]


def test_equal_images_have_no_psnr_and_a_note(
    finished: dict[str, Any], run: Evaluate, tmp_path: Path, images: Path
) -> None:
    copied = tmp_path / "images"
    folders = [folder_of(images, name) for name in ("full_precision", "w4a8")]
    for folder in folders:
        shutil.copytree(folder, copied / folder.name)
    quantized = copied / folders[1].name
    known = json.loads((quantized / "manifest.json").read_text())
    for index, path in enumerate(sorted(folders[0].glob("*.png"))):
        which = f"{fingerprint(known['settings'])} {index} {known['prompts'][index]}"
        (quantized / path.name).write_bytes(tagged(encoded(read_image(path)), which))
    report = run(tmp_path / "out", images=copied)["report"]
    assert report["models"][1]["metrics"]["psnr"] is None
    assert "psnr of w4a8: inf, since the images compared are equal" in report["notes"]


def test_images_too_small_for_the_oracle(run: Evaluate, tmp_path: Path) -> None:
    report = run(tmp_path / "out", num_images=2, measured_size=16)["report"]
    assert "oracle_all" not in report["models"][1]["metrics"]
    assert sum(note.startswith("oracle: ") for note in report["notes"]) == 1


def test_steps_that_were_not_calibrated_are_noted(run: Evaluate, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not calibrated"):
        report = run(tmp_path / "out", num_images=2, num_inference_steps=3)["report"]
    assert any("w4a8 was not calibrated for these sampler steps" in n for n in report["notes"])


def test_another_shape_is_noted_and_has_no_renders(
    finished: dict[str, Any], run: Evaluate, tmp_path: Path
) -> None:
    assert not any("latents" in note for note in finished["report"]["notes"])
    report = run(tmp_path / "out", num_images=2, height=24, width=32, measured_size=32)["report"]
    note = "w4a8 was calibrated on latents of 8 x 8, these images have 6 x 8"
    assert note in report["notes"]
    assert report["models"][1]["metrics"]["fid"] is None
    assert report["n_references"] is None
    assert report["protocol"]["references"] is None
    assert any("need real images" in note for note in report["notes"])


def test_an_output_that_cannot_be_written(run: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DGQError, match=r"--output .* cannot be written into"):
        run(tmp_path / "file" / "out")
    with pytest.raises(DGQError, match="is not a folder"):
        run(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "missing.txt"}, "missing.txt cannot be read"),
        ({"references": Path("missing")}, "missing is not a folder"),
        ({"clip": "missing/clip"}, "no CLIP model can be loaded"),
        ({"pipeline": "missing/pipeline"}, "neither a local folder"),
        ({"ckpt": (Path("missing"),)}, "cannot be used as a checkpoint"),
        ({"ckpt": (), "metrics": ("psnr",)}, "name one with --ckpt"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(
    run: Evaluate, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DGQError, match=message) as error:
        run(tmp_path / "out", **({"images": tmp_path / "images"} | changes))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused(
    run: Evaluate, pipeline_folder: Path, tmp_path: Path
) -> None:
    pipeline = load_pipeline(str(pipeline_folder))
    config = dict(pipeline.unet.config) | {"layers_per_block": 2}
    pipeline.unet = type(pipeline.unet).from_config(config)
    pipeline.save_pretrained(tmp_path / "other")
    with pytest.raises(
        DGQError, match=r"w4a8 was made for another model than .*: layers_per_block is 1"
    ):
        run(tmp_path / "out", pipeline=str(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_other_weights_is_refused(
    run: Evaluate, pipeline_folder: Path, tmp_path: Path
) -> None:
    pipeline = load_pipeline(str(pipeline_folder))
    with torch.no_grad():
        pipeline.unet.conv_in.bias[0] += 0.5
    pipeline.save_pretrained(tmp_path / "other")
    with pytest.raises(DGQError, match=r"w4a8 was calibrated on other weights than .*--run"):
        run(tmp_path / "out", pipeline=str(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.safetensors", "config.json"])
def test_a_truncated_checkpoint_is_refused(
    run: Evaluate, ckpt: Path, tmp_path: Path, file: str
) -> None:
    damaged = tmp_path / "w4a8"
    shutil.copytree(ckpt, damaged)
    content = (damaged / "quantized" / file).read_bytes()
    (damaged / "quantized" / file).write_bytes(content[: len(content) // 2])
    before = sorted(damaged.rglob("*"))
    with pytest.raises(DGQError, match=r"damaged|cannot be read as JSON"):
        run(tmp_path / "out", ckpt=(damaged,))
    assert not (tmp_path / "out").exists()
    assert sorted(damaged.rglob("*")) == before


def test_models_are_named_by_run_folder_checkpoint_or_export(ckpt: Path, tmp_path: Path) -> None:
    quantized = ckpt / "quantized"
    assert locate(ckpt) == locate(quantized) == quantized
    for name in ("a", "b"):
        shutil.copytree(ckpt, tmp_path / name / "w4a8")
    (tmp_path / "a" / "w4a8" / "last.ckpt").write_bytes(b"")
    assert locate(tmp_path / "a" / "w4a8" / "last.ckpt") == tmp_path / "a" / "w4a8" / "quantized"
    models = find_models([tmp_path / "a" / "w4a8", tmp_path / "b" / "w4a8"])
    with pytest.raises(DGQError, match="same model twice"):
        find_models([tmp_path / "a" / "w4a8", tmp_path / "a" / "w4a8" / "quantized"])
    assert [model.name for model in models] == ["full precision", "a-w4a8", "b-w4a8"]
    shutil.rmtree(tmp_path / "a" / "w4a8" / "quantized")
    with pytest.raises(DGQError, match=r"unfinished calibration.*--ckpt_path last"):
        locate(tmp_path / "a" / "w4a8" / "last.ckpt")


def test_models_of_different_pipelines_are_not_compared(
    run: Evaluate, ckpt: Path, tmp_path: Path
) -> None:
    shutil.copytree(ckpt, tmp_path / "other")
    forge_(tmp_path / "other" / "quantized", quantization(pipeline="elsewhere"))
    with pytest.raises(DGQError, match="different pipelines"):
        run(tmp_path / "out", ckpt=(ckpt, tmp_path / "other"))


def test_images_of_other_versions_are_drawn_again(
    run: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    few = {"images": images, "num_images": 2, "metrics": ("psnr",)}
    found = run(tmp_path / "out", **few)["report"]["versions"]
    assert {name: found[name] for name in ("dgq", "torch")} == {
        name: version(name) for name in ("dgq", "torch")
    }
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    for module in (image_set, record):
        monkeypatch.setattr(module, "versions_of", lambda _: {"dgq": "0.0.1"})
    with pytest.raises(DGQError, match="results of another evaluation"):
        run(tmp_path / "out", **few)
    run(tmp_path / "other", **few)
    assert len(set(images.rglob("*.png")) - before.keys()) == len(before) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_packages_that_are_not_installed_have_no_version() -> None:
    assert versions_of(("torch", "no-such-package")) == {"torch": version("torch")}
