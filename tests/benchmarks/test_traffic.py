"""Bytes of compiled graphs."""

import pytest
import torch

from benchmarks.inference.traffic import counted_traffic


@pytest.mark.filterwarnings("ignore:dynamo_pgo")
def test_what_is_fused_is_neither_written_nor_read_again() -> None:
    x = torch.randn(1000, 1000)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True), counted_traffic() as traffic_gb:
        assert traffic_gb() is None
        torch.compile(lambda x: ((x + 1).relu() * 2).abs(), fullgraph=True)(x)
        assert traffic_gb() == pytest.approx(8e-3)
