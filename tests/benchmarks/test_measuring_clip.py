"""The measure of the CLIP model counts right, and its command writes what it found."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch.nn import functional as F

import scenes
from benchmarks.measuring_clip import attributes, retrieval
from benchmarks.measuring_clip.attributes import captions_about, tell_changed
from benchmarks.measuring_clip.command import main, make_parser
from benchmarks.measuring_clip.page import statement
from benchmarks.measuring_clip.plot import plot
from benchmarks.measuring_clip.points import Point, rises
from benchmarks.measuring_clip.retrieval import DIRECTIONS, picture_key, retrieve
from benchmarks.measuring_clip.share import Share
from benchmarks.measuring_clip.snapshots import find_snapshots
from benchmarks.unet_weights import load_weights_
from dgq.errors import DGQError
from dgq.pipelines.loading import load_unet
from dgq.storage.files import read_tensors, write_tensors
from evaluation import references
from evaluation.clip_features import ClipFeatures
from evaluation.estimate import over_seeds
from scenes.changes import changeable
from scenes.vocabulary import RELATIONS

ABOVE = "a small red circle above a large blue square on a white background"
BELOW = "a large blue square below a small red circle on a white background"
TINY = ("--captions", "6", "--pictures", "3", "--num-images", "2")


@given(st.integers(1, 2000), st.data())
def test_intervals_are_those_of_scipy(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    expected = binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert Share(hits, n, 0.5, n).interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_bar_is_met_by_the_share_itself() -> None:
    assert Share(95, 100, 0.95, 100).met
    assert not Share(94, 100, 0.95, 100).met
    share = Share(3, 4, 0.8, 2).as_json()
    assert (share["value"], share["captions"], share["met"]) == (0.75, 2, False)


def test_retrieval_counts_both_directions() -> None:
    # Picture 2 lies nearest to caption 0, and caption 2 nearest to picture 1.
    pictures = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.8, 0.6, 0.0]])
    texts = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.2], [0.0, 0.6, 0.8]]), dim=1)
    shares = retrieve(pictures, texts, ["a", "b", "c"])
    assert [shares[name].hits for name in DIRECTIONS] == [2, 2]
    assert [shares[name].hits for name in DIRECTIONS] == [
        sum(int(row.argmax()) == i for i, row in enumerate(table))
        for table in (pictures @ texts.T, texts @ pictures.T)
    ]
    # Picture 2 is that of caption 0 too, but caption 2 still finds picture 1.
    shares = retrieve(pictures, texts, ["a", "b", "a"])
    assert [shares[name].hits for name in DIRECTIONS] == [3, 2]


def test_retrieval_of_orthogonal_features_is_perfect_until_they_are_shifted() -> None:
    keys = [str(i) for i in range(8)]
    assert all(share.value == 1 for share in retrieve(torch.eye(8), torch.eye(8), keys).values())
    shifted = retrieve(torch.eye(8), torch.eye(8).roll(1, 0), keys)
    assert all(share.value == 0 for share in shifted.values())


def test_captions_of_the_same_picture_have_one_key() -> None:
    assert picture_key(ABOVE) == picture_key(BELOW)
    left = ABOVE.replace("above", "to the left of")
    assert picture_key(left) == picture_key(BELOW.replace("below", "to the right of"))
    assert len({picture_key(ABOVE.replace("above", relation)) for relation in RELATIONS}) == 4
    # Renders that differ only by their jitter, of half a pixel at most.
    pictures = scenes.render([ABOVE, BELOW, left], 32, 0)
    assert (
        (pictures[0] - pictures[1]).abs().mean() < 0.05 < (pictures[0] - pictures[2]).abs().mean()
    )
    single = "three small yellow crosses on a grey background"
    assert picture_key(single) == single


@pytest.mark.parametrize("attribute", scenes.ATTRIBUTES)
def test_captions_speak_of_the_attribute_and_are_held_out(attribute: str) -> None:
    captions = captions_about(attribute, 40, 0)
    assert len(captions) == 40
    assert captions == captions_about(attribute, 40, 0)
    assert all(scenes.captions.split_of(caption) == "test" for caption in captions)
    assert all(attribute in changeable(scenes.parse_caption(caption)) for caption in captions)
    if attribute in ("colour", "background"):
        assert len(set(captions)) == 40


class ReadingClip(ClipFeatures):
    """Knows captions by heart: a picture is the caption it was asked for, unless ``blind``."""

    def __init__(self, captions: Sequence[str], blind: bool) -> None:
        super().__init__()
        self.of = {caption: i for i, caption in enumerate(captions)}
        self.blind, self.seen = blind, 0

    def images(self, batch):  # type: ignore[no-untyped-def]
        rows = torch.arange(self.seen, self.seen + len(batch))
        self.seen += len(batch)
        return rows, F.one_hot(rows, len(self.of) + 1).float()

    def texts(self, texts):  # type: ignore[no-untyped-def]
        known = [0 if self.blind else self.of.get(text, len(self.of)) for text in texts]
        return F.one_hot(torch.tensor(known), len(self.of) + 1).float()


@pytest.mark.parametrize("blind", [False, True])
def test_only_a_lower_score_tells_the_changed_caption(blind: bool) -> None:
    captions = captions_about("relation", 20, 0)
    shown: list[int] = []
    share = tell_changed(ReadingClip(captions, blind), "relation", 20, 0, shown.append)
    assert share.value == (0 if blind else 1)  # a tie tells nothing
    assert (share.n, share.captions, sum(shown)) == (20, len(set(captions)), 20)


def points(*fids: float) -> list[Point]:
    estimate = replace(over_seeds([0.5]), interval=(0.4, 0.6))
    steps = [None, *(100 * 2**i for i in range(len(fids)))]
    pairs = zip(steps, (1.0, *fids), strict=True)
    return [Point(step, fid, estimate, estimate, estimate) for step, fid in pairs]


def test_the_statement_follows_the_numbers() -> None:
    assert statement(points(300.0, 80.0, 12.0)) == "FID falls monotonically along the training."
    assert "from 12.00 at 200 to 13.00 at 400." in statement(points(80.0, 12.0, 13.0))
    assert len(rises(points(3.0, 3.0, 4.0))) == 2  # to stay is not to fall


@given(st.lists(st.floats(0.1, 1e3), min_size=2, max_size=6))
def test_fid_falls_if_it_falls_everywhere(fids: list[float]) -> None:
    assert (not rises(points(*fids))) == all(a > b for a, b in pairwise(fids))


def test_the_plot_has_fid_on_a_logarithmic_axis() -> None:
    upper, lower = plot(points(300.0, 80.0, 12.0)).axes
    assert (upper.get_yscale(), upper.get_ylabel()) == ("log", "FID")
    line, floor = upper.get_lines()
    np.testing.assert_array_equal(line.get_data(), [[100, 200, 400], [300, 80, 12]])
    assert floor.get_ydata()[0] == 1
    assert [line.get_label() for line in lower.get_lines()] == ["oracle mean", "oracle all"]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training's folder: a snapshot of noise, a log, files that are no snapshots."""
    folder = tmp_path_factory.mktemp("training")
    unet = load_unet("scenes")
    weights = {name: (0.5 * tensor).half() for name, tensor in unet.named_parameters()}
    write_tensors(folder / "step-000100.safetensors", weights, {})
    (folder / "log.jsonl").write_text('{"step": 192}\n{"step": 200}\n')
    (folder / "step-last.safetensors").touch()
    return folder


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_the_command_writes_table_numbers_and_plot(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(scenes, "NUM_INFERENCE_STEPS", 2)
    monkeypatch.setattr(references, "MIN_RENDERS", 8)
    docs, images = tmp_path / "docs", tmp_path / "images"
    command = (*TINY, "--docs", docs, "--images", images, "--snapshots", training)
    assert run(*command) == 0
    report = json.loads((docs / "measuring_clip.json").read_text())
    page = (docs / "measuring_clip.md").read_text()
    assert page in capsys.readouterr().out
    assert [share["n"] for share in report["retrieval"].values()] == [6, 6]
    assert list(report["attributes"]) == list(scenes.ATTRIBUTES)
    for name, share in report["attributes"].items():
        assert f"| {name} | 3 | {share['captions']} | {share['value']:.3f} |" in page
    found = report["training"]["points"]
    assert [point["step"] for point in found] == [None, 100, 200]
    assert found[0]["oracle_all"]["value"] == 1
    falls = report["training"]["fid_falls_monotonically"]
    assert falls == (found[1]["fid"] > found[2]["fid"])
    assert ("FID falls monotonically" in page) == falls
    assert (docs / "measuring_clip.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.suffix for path in docs.iterdir()) == [".json", ".md", ".png"]
    drawn = [read_tensors(path)[0]["images"] for path in images.iterdir()]
    assert [tensor.dtype for tensor in drawn] == [torch.uint8] * 2
    assert not torch.equal(*drawn)

    # Again, from the images that are kept.
    monkeypatch.setattr("measuring_clip.training.generate", None)
    assert run(*command) == 0
    assert json.loads((docs / "measuring_clip.json").read_text()) == report


def test_check_tells_whether_bars_are_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = (*TINY, "--docs", tmp_path, "--check")
    monkeypatch.setattr(retrieval, "BAR", 0.0)
    monkeypatch.setattr(attributes, "BAR", 0.0)
    assert run(*command) == 0
    assert "bars missed: none" in capsys.readouterr().out
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md"]
    assert "## FID" not in (tmp_path / "measuring_clip.md").read_text()
    monkeypatch.setattr(retrieval, "BAR", 1.1)
    assert run(*command) == 1
    assert "bars missed: picture to caption, caption to picture" in capsys.readouterr().out
    assert "**no**" in (tmp_path / "measuring_clip.md").read_text()
    assert run(*command[:-1]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--captions", "1"), "--captions must be at least 2, got 1"),
        (("--pictures", "0"), "--pictures must be at least 2, got 0"),
        (("--num-images", "1"), "--num-images must be at least 2, got 1"),
        (("--clip", "nowhere"), "--clip nowhere is no folder of a CLIP model"),
        (("--snapshots", "nowhere"), "--snapshots nowhere holds no step-*.safetensors"),
        (("--snapshots", "TRAINING", "--pipeline", "x"), "--pipeline x is no folder with a model"),
        (("--snapshots", "TRAINING", "--final-step", "100"), "give the right --final-step"),
    ],
)
def test_bad_input_is_one_line(
    arguments: Sequence[str],
    message: str,
    training: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    given_ = [str(training) if argument == "TRAINING" else argument for argument in arguments]
    assert run("--docs", tmp_path / "docs", *given_) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not (tmp_path / "docs").exists()


def test_a_training_without_a_log_asks_for_the_final_step(
    training: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(training / "step-000100.safetensors", tmp_path)
    assert run("--snapshots", tmp_path, "--docs", tmp_path / "docs") == 2
    assert "log.jsonl does not tell the last step" in capsys.readouterr().err


def test_snapshots_come_in_order_and_must_fit(tmp_path: Path) -> None:
    for step in (1600, 100, 1_000_000):
        (tmp_path / f"step-{step:06d}.safetensors").touch()
    assert list(find_snapshots(tmp_path)) == [100, 1600, 1_000_000]
    write_tensors(tmp_path / "x", {"weight": torch.ones(2)}, {})
    with pytest.raises(DGQError, match="x is not of this pipeline's UNet"):
        load_weights_(torch.nn.Linear(1, 1), tmp_path / "x")


def test_every_option_is_explained() -> None:
    assert all(action.help for action in make_parser()._actions)
    assert "python benchmarks/measuring_clip" in make_parser().format_help()
