"""When a checkpoint may be written, and what it must agree in."""

import json
from typing import Any

import pytest

from dgq.errors import DGQError
from lit.checkpoint_content import check_content, check_whole

FINISHED: dict[str, Any] = {"target": "a", "error": 0.1}
BEGUN: dict[str, Any] = {"target": "b", "error_nearest": 0.2}
CONTENT = {"identity": json.dumps({"seed": 1}), "calls": "c", "quantization": {"n_bits": 4}}


def test_only_whole_targets_are_written() -> None:
    check_whole([FINISHED], 0)
    check_whole([FINISHED, FINISHED], 1)
    for records, epoch in (([], 0), ([BEGUN], 0), ([FINISHED], 1), ([FINISHED, BEGUN], 1)):
        with pytest.raises(DGQError, match="whole targets"):
            check_whole(records, epoch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": json.dumps({"seed": 2})}, "seed: 1 then, 2 now"),
        ({"calls": "d"}, "recorded again"),
        ({"quantization": {"n_bits": 5}}, "chosen other bits"),
    ],
)
def test_each_difference_is_named(change: dict[str, Any], message: str) -> None:
    check_content(CONTENT, dict(CONTENT))
    with pytest.raises(DGQError, match=message):
        check_content(CONTENT, CONTENT | change)
