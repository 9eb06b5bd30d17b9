"""The study of the CLIP model counts right, and prints what it found."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import scenes
from dgq.errors import DGQError
from dgq.pipelines.loading import load_unet
from dgq.storage.tensor_files import write_tensors
from evaluation.features.clip_features import ClipFeatures
from scenes.changes import changeable
from scenes.studies import measuring_clip, snapshots
from scenes.studies.measuring_clip import (
    captions_about,
    main,
    make_parser,
    picture_key,
    share_nearest,
    tell_changed,
)
from scenes.studies.snapshots import find_snapshots
from scenes.studies.unet_weights import load_weights_
from scenes.vocabulary import RELATIONS

ABOVE = "a small red circle above a large blue square on a white background"
BELOW = "a large blue square below a small red circle on a white background"
TINY = ("--captions", "6", "--pictures", "3", "--num-images", "2")


def test_retrieval_counts_rows_and_captions_of_the_same_picture() -> None:
    cosines = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.9, 0.1], [0.8, 0.6, 0.0]])
    assert share_nearest(cosines, ["a", "b", "c"]) == pytest.approx(2 / 3)
    assert share_nearest(cosines, ["a", "b", "a"]) == 1  # row 2 finds caption 0 of its picture
    assert share_nearest(torch.eye(8).roll(1, 0), list("abcdefgh")) == 0


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


@pytest.mark.parametrize("attribute", scenes.ATTRIBUTES)
def test_captions_speak_of_the_attribute_and_are_held_out(attribute: str) -> None:
    captions = captions_about(attribute, 40)
    assert len(captions) == 40
    assert captions == captions_about(attribute, 40)
    assert all(scenes.captions.split_of(caption) == "test" for caption in captions)
    assert all(attribute in changeable(scenes.parse_caption(caption)) for caption in captions)


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
    clip = ReadingClip(captions_about("relation", 20), blind)
    assert tell_changed(clip, "relation", 20) == (0 if blind else 1)  # a tie tells nothing


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training's folder: a snapshot of noise, and a file that is none."""
    folder = tmp_path_factory.mktemp("training")
    weights = {n: (0.5 * t).half() for n, t in load_unet("scenes").named_parameters()}
    write_tensors(folder / "step-000100.safetensors", weights, {})
    (folder / "step-last.safetensors").touch()
    return folder


def test_the_command_prints_shares_and_the_training(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scenes, "NUM_INFERENCE_STEPS", 2)
    monkeypatch.setattr(snapshots, "N_REFERENCES", 8)
    assert main([*TINY, "--snapshots", str(training)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("| 0.80 |") for line in lines) == 2
    assert sum(line.endswith("| 0.95 |") for line in lines) == len(scenes.ATTRIBUTES)
    rows = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    assert rows["renders"].endswith("| 1.000 | 1.000 |")
    assert rows["step-000100"].split(" | ")[1:] != rows["pipeline"].split(" | ")[1:]


def test_check_tells_whether_bars_are_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring_clip, "RETRIEVAL_BAR", 0.0)
    monkeypatch.setattr(measuring_clip, "ATTRIBUTE_BAR", 0.0)
    assert main([*TINY, "--check"]) == 0
    assert "bars missed: none" in capsys.readouterr().out
    monkeypatch.setattr(measuring_clip, "RETRIEVAL_BAR", 1.1)
    assert main([*TINY, "--check"]) == 1
    assert "bars missed: picture to caption, caption to picture" in capsys.readouterr().out
    assert main(list(TINY)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--captions", "1"), "--captions must be at least 2, got 1"),
        (("--pictures", "0"), "--pictures must be at least 2, got 0"),
        (("--num-images", "1"), "--num-images must be at least 2, got 1"),
        (("--snapshots", "nowhere"), "--snapshots nowhere holds no step-*.safetensors"),
    ],
)
def test_bad_input_is_one_line(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_snapshots_come_in_order_and_must_fit(tmp_path: Path) -> None:
    for step in (1600, 100, 1_000_000):
        (tmp_path / f"step-{step:06d}.safetensors").touch()
    steps = [path.stem for path in find_snapshots(tmp_path)]
    assert steps == ["step-000100", "step-001600", "step-1000000"]
    write_tensors(tmp_path / "x", {"weight": torch.ones(2)}, {})
    with pytest.raises(DGQError, match="x is not of this pipeline's UNet"):
        load_weights_(torch.nn.Linear(1, 1), tmp_path / "x")


def test_every_option_is_explained() -> None:
    assert all(action.help for action in make_parser()._actions)
