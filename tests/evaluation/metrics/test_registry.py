"""The list of metrics, and which of them are measured."""

from collections import Counter

import pytest

import scenes
from dgq.errors import DGQError
from evaluation.features.features import Feature
from evaluation.metrics.metric import Against
from evaluation.metrics.registry import all_metrics, choose_metrics
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol

DOGS = Prompts(("a dog",), "list", "list")
SCENES = Prompts(tuple(scenes.sample_captions(1, 0, "test")), "list", "list")


def keys(protocol: Protocol, prompts: Prompts = DOGS) -> set[str]:
    return {metric.key for metric in choose_metrics(protocol, prompts, "cpu")[0]}


def test_no_two_metrics_share_a_name_or_a_line() -> None:
    names = Counter(kind.key for kind in all_metrics())
    lines = Counter(line.key for kind in all_metrics() for line in kind.lines)
    assert names.most_common(1)[0][1] == 1
    assert lines.most_common(1)[0][1] == 1


def test_metrics_of_the_whole_set_come_first_and_distances_last() -> None:
    order = [kind.key for kind in all_metrics()]
    assert order[:3] == ["fid", "kid", "inception_score"]
    assert order.index("oracle") < order.index("fid_to_full_precision") < order.index("ssim")


def test_every_metric_says_what_it_is_in_one_line() -> None:
    for kind in all_metrics():
        assert kind.__doc__ is not None
        assert kind.__doc__.partition("\n")[0].endswith(".")
        assert kind.name
        assert all(line.label for line in kind.lines)


def test_the_oracle_is_for_prompts_of_a_benchmark() -> None:
    quiet = Protocol(lpips=False)
    assert keys(quiet, SCENES) - keys(quiet) == {"oracle"}


def test_a_metric_that_is_named_is_never_left_out_silently() -> None:
    with pytest.raises(DGQError, match="--metrics oracle: it does not apply to these prompts"):
        choose_metrics(Protocol(metrics=("oracle",)), DOGS, "cpu")


@pytest.mark.parametrize("asked", [Protocol(metrics=("fid", "psnr")), Protocol(lpips=True)])
def test_comparisons_with_full_precision_need_a_model(asked: Protocol) -> None:
    with pytest.raises(DGQError, match="name one with --ckpt"):
        choose_metrics(asked, DOGS, "cpu", has_models=False)
    chosen, notes = choose_metrics(Protocol(), DOGS, "cpu", has_models=False)
    assert chosen
    assert all(metric.against < Against.FULL_PRECISION for metric in chosen)
    assert not [note for note in notes if "LPIPS" in note]


def test_naming_metrics_leaves_all_others_out() -> None:
    assert keys(Protocol(metrics=("kid", "psnr"))) == {"kid", "psnr"}
    chosen, notes = choose_metrics(Protocol(metrics=("clip_score",)), DOGS, "cpu")
    assert chosen[0].features == {Feature.EMBEDDINGS}
    assert not notes  # nothing is said of packages that were not asked for
    with pytest.raises(DGQError, match="--metrics fad: there is no such metric"):
        choose_metrics(Protocol(metrics=("fid", "fad")), DOGS, "cpu")
