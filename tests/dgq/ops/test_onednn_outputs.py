"""The dtype that oneDNN's products are written in."""

from collections.abc import Iterator

import pytest
import torch

from dgq.ops import onednn


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    onednn.written_as.cache_clear()
    yield
    onednn.written_as.cache_clear()


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_is_written_where_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, expected: str
) -> None:
    capabilities = {"avx2": True, "avx512_bf16": has_bfloat16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    asked: list[torch.dtype] = []

    def product(
        codes: torch.Tensor, factor: float, row: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        asked.append(dtype)
        return codes.to(dtype)

    codes, one = torch.ones(1, 2, 4, dtype=torch.uint8), torch.ones(1)
    tables = (one, torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))
    output = onednn.at_steps(product, codes, *tables, torch.bfloat16)
    assert asked == [getattr(torch, expected)]
    assert output.dtype == torch.bfloat16
