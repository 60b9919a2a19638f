"""What tests of prepared models share."""

import pytest

from hf_mpq.runtime.int8.build import kernel


@pytest.fixture(params=["own products", "products of oneDNN"])
def compiler(request, monkeypatch):
    """The built kernel; builds it at the first use."""
    if kernel() is None:
        pytest.skip("the fused layers cannot be built here")
    if request.param == "own products" and not kernel().HAS_PRODUCTS:
        pytest.skip("the kernel multiplies with AVX512-VNNI, which this CPU does not have")
    monkeypatch.setattr("hf_mpq.runtime.int8.native.multiplies", lambda library: request.param == "own products")
