"""A scan of an equal weight is done once, and anew where the weight was changed."""

import torch

from hf_mpq.core import SubgroupLayout
from hf_mpq.weights.quantizers import scan
from hf_mpq.weights.quantizers.grid import Grid
from hf_mpq.weights.quantizers.scan import RememberedScans, scan_scale


def test_equal_weights_are_scanned_once_and_changed_ones_anew(monkeypatch):
    done = []
    monkeypatch.setattr(scan, "_widest", lambda *given, real=scan._widest: done.append(1) or real(*given))
    layout, grid = SubgroupLayout((6, 32), 3), Grid.signed(4, half_step=False, narrow=True)
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    alone = scan_scale(layout, weight, grid, torch.float16)
    with RememberedScans() as remembered:
        first = scan_scale(layout, weight, grid, torch.float16)
        first.zero_()  # what is given is one's own
        assert torch.equal(scan_scale(layout, weight.clone(), grid, torch.float16), alone) and len(done) == 2
        scan_scale(layout, weight, Grid.signed(3, half_step=False, narrow=True), torch.float16)
        weight.mul_(2)
        assert torch.equal(scan_scale(layout, weight, grid, torch.float16), 2 * alone) and len(done) == 4
    with remembered:
        scan_scale(layout, weight, grid, torch.float16)
        assert len(done) == 4
    scan_scale(layout, weight, grid, torch.float16)
    assert len(done) == 5
