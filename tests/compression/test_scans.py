"""Scales are scanned once: what was found for the scores is used to quantize."""

from hf_mpq import MPQConfig
from hf_mpq.compression.choices import DEFAULT
from hf_mpq.compression.engine import TrainingFree
from hf_mpq.weights.quantizers import scan
from tests.tiny import tiny_batch, tiny_model


def test_scores_and_quantization_share_their_scans(monkeypatch):
    done = []
    monkeypatch.setattr(scan, "_scanned", lambda *given, real=scan._scanned: done.append(1) or real(*given))
    engine = TrainingFree(tiny_model("bert"), MPQConfig(bits=(2, 4)), DEFAULT, [tiny_batch()])
    engine.scores()
    scanned, closed = len(done), sum(len(spec.candidates) == 1 for spec in engine.space.weights.values())
    engine.quantized(engine.everywhere(4))
    assert scanned > 20 and len(done) == scanned + closed  # no scores of what cannot be chosen
