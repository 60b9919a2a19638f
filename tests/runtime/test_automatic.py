"""The fastest backend at each shape."""

import copy
import inspect
import io
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import hf_mpq
from hf_mpq.runtime import automatic
from hf_mpq.runtime.int8 import unsupported
from tests.runtime.test_decoded import without_kernel
from tests.runtime.threads import wrong_answers
from tests.tiny import outputs, tiny_batch, tiny_model

pytestmark = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))


def packed(family="deberta-v2", **fields):
    return hf_mpq.pack(hf_mpq.quantize(tiny_model(family), hf_mpq.MPQConfig(bits=4, **fields))).eval()


@pytest.mark.parametrize("slow, fast", [("cpu-int8", "cpu-float"), ("cpu-float", "cpu-int8")])
def test_what_is_slower_is_not_chosen(slow, fast, monkeypatch):
    """By a clock that stands still but in one product."""
    without_kernel(monkeypatch)
    model, now = hf_mpq.prepare(packed()), [0.0]
    monkeypatch.setattr(automatic, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    layer = next(one for one in model.modules() if isinstance(one, hf_mpq.nn.PackedLinear))
    product = layer.prepared[slow]

    def slowed(x):
        now[0] += 0.05
        return product(x)

    layer.prepared[slow] = slowed
    with torch.no_grad():
        model(**tiny_batch(3, 11))
    assert model.fastest_backend.chosen == {(4, 16): fast}
    assert model.fastest_backend.milliseconds[4, 16][slow] > model.fastest_backend.milliseconds[4, 16][fast] == 0


def test_a_shape_is_measured_once(monkeypatch):
    without_kernel(monkeypatch)
    model = hf_mpq.prepare(packed("mpnet"))
    calls = []
    layer = next(one for one in model.modules() if isinstance(one, hf_mpq.nn.PackedLinear))
    for name, product in dict(layer.prepared).items():
        layer.prepared[name] = lambda x, product=product: calls.append(1) or product(x)
    with torch.no_grad():
        model(**tiny_batch(3, 11))
        first = len(calls)
        for rows, tokens in ((3, 11), (4, 16), (3, 9)):
            model(**tiny_batch(rows, tokens))
    assert first > 6 and len(calls) == first + 3
    with torch.no_grad():
        model(tiny_batch(1, 3)["input_ids"])
    assert set(model.fastest_backend.chosen) == {(4, 16), (1, 4)}


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
def test_outputs_are_those_of_the_packed_model(family):
    model = packed(family)
    want = outputs(model)
    hf_mpq.prepare(model)
    for _ in range(2):
        for got, expected in zip(outputs(model), want):
            assert_close(got, expected, rtol=0, atol=0.1 * float(expected.abs().max()))
    with hf_mpq.use_backend("cpu-float"):
        for got, expected in zip(outputs(model), want):
            assert_close(got, expected, rtol=1e-4, atol=1e-5)
    with hf_mpq.use_backend("reference"):
        assert all(torch.equal(got, expected) for got, expected in zip(outputs(model), want))


def test_requests_during_a_measurement_are_answered():
    model = hf_mpq.prepare(packed("bert"))
    batches = [tiny_batch(1 + number % 3, 7 + number) for number in range(6)]
    with torch.no_grad(), hf_mpq.use_backend("reference"):
        wanted = [model(**batch).logits for batch in batches]
    alike = lambda got, want: torch.allclose(got, want, rtol=0, atol=0.1 * float(want.abs().max()))  # noqa: E731
    assert not wrong_answers(model, batches, wanted, alike) and model.fastest_backend.chosen


def test_copies_decode_and_another_backend_takes_its_place():
    model = packed("bert")
    want, kind = outputs(model), type(model)
    hf_mpq.prepare(model)
    outputs(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert all(torch.equal(got, expected) for got, expected in zip(outputs(twin), want))
        assert is_plain(twin, kind)
        hf_mpq.prepare(twin, "auto")
        outputs(twin)
        assert twin.fastest_backend.chosen and twin.fastest_backend is not model.fastest_backend
        assert is_plain(hf_mpq.prepare(twin, "reference"), kind)
    hf_mpq.prepare(model, "reference")
    assert is_plain(model, kind)
    assert all(torch.equal(got, expected) for got, expected in zip(outputs(model), want))


def is_plain(model, kind):
    hooks = model._forward_pre_hooks, model._forward_hooks
    return type(model) is kind and "fastest_backend" not in vars(model) and not any(hooks)


def test_the_model_is_what_it_was_to_others(tmp_path):
    model = packed("bert")
    forward = inspect.signature(model.forward)
    hf_mpq.prepare(model)
    with torch.no_grad():
        assert len(model(**tiny_batch(), output_hidden_states=True).hidden_states) == 3
    assert isinstance(model, type(packed("bert"))) and str(type(model)) == str(type(packed("bert")))
    assert inspect.signature(model.forward) == forward
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.architectures == ["BertForSequenceClassification"] and len(outputs(again)) == 1
    assert is_plain(hf_mpq.prepare(again, "reference"), type(packed("bert")))


def test_an_error_in_forward_leaves_the_context_as_it_was():
    model = hf_mpq.prepare(packed("bert"), "auto")
    with pytest.raises(IndexError):
        model(torch.full((1, 4), 10_000))
    with torch.no_grad():
        model(**tiny_batch())
    assert hf_mpq.nn.packed.active_backend() is None


@pytest.mark.parametrize("calls", [0, 1], ids=["while it measures", "later"])
def test_an_interrupted_call_leaves_the_context_as_it_was(calls):
    model = hf_mpq.prepare(packed("bert"))

    def interrupt(*_):
        raise KeyboardInterrupt

    for _ in range(calls):
        outputs(model)
    hook = model.classifier.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        outputs(model)
    assert hf_mpq.nn.packed.active_backend() is None
    hook.remove()
    outputs(model)
    assert model.fastest_backend.chosen


@pytest.mark.filterwarnings("ignore")
def test_a_prepared_model_can_be_compiled():
    model = packed("bert")
    want = outputs(model)
    compiled = torch.compile(hf_mpq.prepare(model), backend="eager")
    with torch.no_grad():
        got = compiled(**tiny_batch()).logits
    assert_close(got, want[0], rtol=0, atol=0.1 * float(want[0].abs().max()))


def test_float_activations_have_one_choice():
    model = hf_mpq.prepare(packed("bert", activation_bits=None))
    assert "fastest_backend" not in vars(model)


def test_an_unknown_backend_says_which_there_are():
    with (
        pytest.raises(ValueError, match="cpu-float, cpu-int8, cpu-native, cuda, cuda-float, reference"),
        hf_mpq.use_backend("gpu"),
    ):
        pass
