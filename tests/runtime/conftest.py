"""What tests of prepared models share."""

import pytest

from hf_mpq.runtime.int8.build import kernel


@pytest.fixture(params=["own products", "products of oneDNN"])
def compiler(request, monkeypatch):
    """The built kernel; builds it at the first use."""
    _multiply_by(request.param, monkeypatch)


@pytest.fixture(params=["own products", "products of oneDNN", "no compiler"])
def multiplied(request, monkeypatch):
    """Every way in which cpu-int8 multiplies, by name."""
    _multiply_by(request.param, monkeypatch)
    return request.param


def _multiply_by(way: str, monkeypatch) -> None:
    if way == "no compiler":
        for place in ("layer", "native"):
            monkeypatch.setattr(f"hf_mpq.runtime.int8.{place}.kernel", lambda: None)
    elif kernel() is None:
        pytest.skip("the fused layers cannot be built here")
    elif way == "own products" and not kernel().HAS_PRODUCTS:
        pytest.skip("the kernel multiplies with AVX512-VNNI, which this CPU does not have")
    else:
        monkeypatch.setattr("hf_mpq.runtime.int8.native.multiplies", lambda library: way == "own products")
