"""products.py against the modules that it stands for."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from trimtab.models import products
from trimtab.models.products import Product


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [16, products.LARGE // 256])  # beside each other, and laid out anew
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_its_modules(
    dtype: torch.dtype, size: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast no weight is cast again: the modules' own are not looked at."""
    torch.manual_seed(0)
    maps = [nn.Linear(256, size, bias=bias), nn.Linear(256, 2 * size, bias=bias)]
    x = torch.randn(5, 256)
    hidden = torch.randn(5, 3 * size)
    precision = torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
    with torch.inference_mode(), precision:
        expected = torch.cat([one(x) for one in maps], dim=-1)
        product = Product(*maps)
        for one in maps:
            monkeypatch.setattr(one, "forward", _refuse)
        outputs, added = product(x), product.added_to(hidden, x)
    assert outputs.dtype == expected.dtype == dtype
    assert added.dtype == torch.float32
    # Kernels of another shape may add in another order: in bf16 that is one rounding, 2⁻⁸ of a number below 2.
    close = {"rtol": 2**-7, "atol": 2**-8} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(outputs, expected, **close)
    torch.testing.assert_close(added, hidden + outputs, rtol=1e-5, atol=1e-5)


def test_a_processor_without_the_instructions_lays_nothing_out_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's operators raise there; a linear map in bf16 does not."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    one, x = nn.Linear(256, products.LARGE // 256), torch.randn(5, 256)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        product = Product(one)
        assert product.packed is None
        torch.testing.assert_close(product(x), one(x), rtol=2**-7, atol=2**-8)
    with torch.inference_mode():
        assert (Product(one).packed is not None) == torch._C._has_mkldnn


def _refuse(_: Tensor) -> Tensor:
    raise AssertionError("the module itself was called")
