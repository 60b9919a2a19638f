"""Whole encoders in one call, against the packed model in double precision, and against themselves."""

import copy
import importlib
import multiprocessing
import os
import shutil
import warnings
from ctypes import CDLL
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import hf_mpq
from hf_mpq.nn import PackedLinear, body_of
from hf_mpq.runtime import backends
from hf_mpq.runtime.int8 import Int8Product, unsupported
from hf_mpq.runtime.native import NAME, NativeEncoder, library, make_native, paths
from hf_mpq.runtime.native.encoder import INSTRUCTIONS
from tests.runtime.test_int8 import packed_model
from tests.runtime.threads import wrong_answers
from tests.tiny import FAMILIES, VOCABULARY, outputs, tiny_batch

native_library = importlib.import_module("hf_mpq.runtime.native.library")  # whose function has the same name
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    PATHS = paths()
pytestmark = pytest.mark.skipif(not PATHS, reason="the kernel is not built: python setup.py build_ext --inplace")
WHOLE = ("bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "mpnet", "modernbert", "deberta-v2")
LENGTHS = (11, 3, 7, 1, 16, 5, 37, 20)
KINDS = [
    {},
    {"activation": "static"},
    {"activation_options": {"symmetric": True}},
    {"activation": "static", "activation_options": {"symmetric": True}},
    {"quantizer": "minmax"},
    {"quantizer": "minmax", "activation": "static"},
    {"activation_bits": 5},
    {"changes": {"hidden_act": "relu"}},
    {"changes": {"hidden_act": "gelu_new"}, "activation": "static"},
    {"changes": {"hidden_act": "relu"}, "activation": "static"},
    {"changes": {"num_attention_heads": 2, "hidden_size": 80}},
    {"changes": {"num_attention_heads": 3, "hidden_size": 51, "intermediate_size": 77}, "activation": "static"},
    {"bits": (0, 2, 4, 8), "groups": 8},
]


@pytest.fixture(params=PATHS or [None])
def path(request, monkeypatch):
    """Every set of instructions that this machine has."""
    monkeypatch.setenv(INSTRUCTIONS, request.param)


def native(model):
    """A packed model prepared, its encoder in one call."""
    hf_mpq.prepare(model, NAME)
    assert isinstance(body_of(model), NativeEncoder)
    return model


def ragged(lengths=LENGTHS, tokens: int = 38) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (len(lengths), tokens), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


@torch.no_grad()
def hidden(model, batch) -> torch.Tensor:
    """By the one call, or a failure."""
    answer = body_of(model).native.answer(batch)
    assert answer is not None
    return answer.last_hidden_state


def assert_alike(got, want):
    """Most levels are the same; where one is not, it is the next, and what follows moves a little."""
    difference, largest = (got.double() - want).abs(), want.abs().max()
    assert difference.median() < 1e-6 * largest
    assert difference.max() < 0.1 * largest


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_hidden_states_are_those_of_double_precision(fields):
    model, batch = packed_model(**fields), ragged()
    with torch.no_grad():
        want = body_of(copy.deepcopy(model).double())(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    got = hidden(native(model), batch)
    assert_alike(got[real], want[real])
    assert not got[~real].any()


@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers(family, activation):
    model, real = packed_model(family, activation=activation), tiny_batch()["attention_mask"].bool()
    with torch.no_grad():
        want = body_of(copy.deepcopy(model).double())(**tiny_batch())
    before = outputs(model)
    hf_mpq.prepare(model, NAME)
    assert isinstance(body_of(model), NativeEncoder) == (family in WHOLE)
    with torch.no_grad():
        got = body_of(model)(**tiny_batch())
    assert isinstance(got, type(want)) and got.keys() == want.keys()
    assert_alike(got.last_hidden_state[real], want.last_hidden_state[real])
    for one, other in zip(outputs(model), before):
        assert_close(one, other, rtol=0.1, atol=0.1 * float(other.abs().max()))
    with hf_mpq.use_backend("reference"):
        assert all(torch.equal(one, other) for one, other in zip(outputs(model), before))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("activation", ["dynamic-token", "static"])
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_a_token_is_the_same_in_every_batch_padding_and_number_of_threads(family, activation):
    model, batch = native(packed_model(family, activation=activation)), ragged()
    together = hidden(model, batch)
    before = torch.get_num_threads()
    try:
        for row, length in enumerate(LENGTHS):
            one = {name: values[row : row + 1, :length] for name, values in batch.items()}
            assert torch.equal(hidden(model, one)[0], together[row, :length])
            torch.set_num_threads(1 + row % 3)
            assert torch.equal(hidden(model, {"input_ids": one["input_ids"]})[0], together[row, :length])
            assert torch.equal(hidden(model, batch), together)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("changes", [{}, {"num_attention_heads": 3, "hidden_size": 51}], ids=str)
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_attention_in_bfloat16_is_near_and_the_same_in_every_batch(family, changes):
    model, batch = packed_model(family, changes=changes), ragged()
    real = batch["attention_mask"].bool()
    want = hidden(native(model), batch)
    got = hidden(hf_mpq.prepare(model, NAME, torch.bfloat16), batch)
    bfloat16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text() and PATHS[0] in ("amx", "avx512-gfni", "avx512-vnni")
    assert torch.equal(got, want) != bfloat16
    difference = (got - want)[real].abs()
    assert difference.median() < 0.02 * want.abs().max() and difference.max() < 0.3 * want.abs().max()
    for row, length in enumerate(LENGTHS):
        one = {"input_ids": batch["input_ids"][row : row + 1, :length]}
        assert torch.equal(hidden(model, one)[0], got[row, :length])


def test_what_is_given_beside_ids_counts():
    """Token types, positions, masks of other types, padding at the left, one row for all."""
    model, batch = packed_model(changes={"head": "token"}), ragged()
    mask = batch["attention_mask"].flip(1)
    types = torch.arange(38).remainder(2).expand(len(LENGTHS), -1)
    variants = [
        {"token_type_ids": types},
        {"position_ids": torch.arange(38).flip(0).unsqueeze(0)},
        {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)},
        {"attention_mask": mask.bool()},
        {"attention_mask": mask.int(), "input_ids": batch["input_ids"].int()},
        {"attention_mask": (torch.arange(38) % 3 > 0).long().expand(len(LENGTHS), -1)},
    ]
    given = [batch | one for one in variants]
    exact = copy.deepcopy(model).double()
    for one in given:
        with torch.no_grad():
            want = body_of(exact)(**one).last_hidden_state
        real = one["attention_mask"].bool()
        native(model)
        assert_alike(hidden(model, one)[real], want[real])


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_head_reads_its_first_token_also_where_that_is_padding(head):
    """Hidden states of padding are 0 in the call; a head of tokens reads no padding that anybody looks at."""
    model, batch = packed_model(changes={"head": head}), ragged()
    batch["attention_mask"] = batch["attention_mask"].flip(1)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(**batch).logits
        got = native(model)(**batch).logits
    real = batch["attention_mask"].bool() if head == "token" else ...
    assert_alike(got[real], want[real])
    assert (body_of(model).native.answer(batch) is None) == (head == "sequence")


def test_what_the_call_cannot_give_comes_from_the_layers():
    model = packed_model()
    batch, want = tiny_batch(), None
    body, real = body_of(native(model)), tiny_batch()["attention_mask"].bool()
    embeds = body.embeddings.word_embeddings(batch["input_ids"])
    asked = [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"input_ids": None, "inputs_embeds": embeds},
        {"return_dict": False},
        {"attention_mask": batch["attention_mask"][:, None, None].bool()},
        {"attention_mask": batch["attention_mask"] * torch.tensor([[1], [1], [0]])},
    ]
    with torch.no_grad():
        want = body(**batch).last_hidden_state
        for one in asked:
            assert body.native.answer(batch | one) is None
            got = body(**{name: value for name, value in (batch | one).items() if value is not None})
            rows = real & torch.tensor([[True], [True], [False]])
            assert_close(got[0][rows], want[rows], rtol=0, atol=0.05 * float(want.abs().max()))
        assert body.native.answer(batch) is not None  # the hooks that hidden states have left do not matter


def test_what_an_encoder_does_not_read_may_be_a_tensor():
    """What tokenizers say besides keeps the one call; the rest is left to the layers, which have their own answers."""
    model = packed_model()
    body, batch = body_of(native(model)), tiny_batch()
    with torch.no_grad():
        for name in ("special_tokens_mask", "length"):
            assert body.native.answer({**batch, name: torch.zeros(3, 11).long()}) is not None
        for name in ("labels", "encoder_hidden_states", "inputs_embeds"):
            assert body.native.answer({**batch, name: torch.zeros(3, 11)}) is None
        assert body.native.answer({**batch, "input_ids": batch["input_ids"].float()}) is None
        assert_close(*(body(**batch, **one)[0] for one in ({}, {"special_tokens_mask": torch.zeros(3, 11).long()})))


def test_ids_outside_of_the_table_are_an_error():
    model = native(packed_model())
    with pytest.raises(IndexError), torch.no_grad():
        model(input_ids=torch.tensor([[3, VOCABULARY, 4]]))


def change_a_hook(body):
    body.encoder.layer[0].register_forward_hook(lambda module, args, output: output + 1)


def change_a_module(body):
    body.encoder.layer[1].output.dense = nn.Linear(56, 32)


@pytest.mark.parametrize("change", [change_a_hook, change_a_module])
def test_what_is_changed_inside_is_seen(change):
    model, batch = native(packed_model()), tiny_batch()
    body, before = body_of(model), outputs(model)[0]
    change(body)
    assert body.native.answer(batch) is None
    assert (outputs(model)[0] - before).abs().max() > 1e-3


def test_training_and_gradients_run_the_layers():
    model, batch = native(packed_model()), tiny_batch()
    body = body_of(model)
    assert body.native.answer(batch) is not None
    assert body.train().native.answer(batch) is None
    body.eval()
    embeds = body.embeddings.word_embeddings(batch["input_ids"]).requires_grad_()
    body(inputs_embeds=embeds, attention_mask=batch["attention_mask"])[0].sum().backward()
    assert embeds.grad.abs().max() > 0


def test_copies_moves_and_loading_decode_again(tmp_path):
    model, batch = native(packed_model()), tiny_batch()
    want = outputs(model)[0]
    copied = copy.deepcopy(model)
    assert not isinstance(body_of(copied), NativeEncoder) and type(body_of(copied)).__name__ == "BertModel"
    assert_close(outputs(copied)[0], want, rtol=0, atol=0.05 * float(want.abs().max()))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(outputs(again)[0], outputs(copied)[0])
    body = body_of(model)
    model.load_state_dict(model.state_dict())
    assert body.native.answer(batch) is None
    assert isinstance(body_of(hf_mpq.prepare(model, NAME)), NativeEncoder)
    assert torch.equal(outputs(model)[0], want)
    assert not isinstance(body_of(hf_mpq.prepare(model, "cpu-float")), NativeEncoder)


def test_auto_chooses_from_it_where_it_runs_the_whole_encoder():
    model = packed_model(changes={"head": "bare"})
    hf_mpq.prepare(model, "auto")
    outputs(model)
    assert model.fastest_backend.names == (NAME, "cpu-float") and isinstance(model, NativeEncoder)
    assert type(model).__name__ == "BertModel"
    copied = copy.deepcopy(model)
    assert not isinstance(copied, NativeEncoder) and type(copied) is type(packed_model(changes={"head": "bare"}))


@pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
def test_auto_chooses_from_others_where_the_kernel_is_not_there(monkeypatch):
    monkeypatch.setattr("hf_mpq.runtime.native.encoder.library", lambda: None)
    other = hf_mpq.prepare(packed_model(), "auto")
    assert other.fastest_backend.names == ("cpu-int8", "cpu-float")
    assert not any(NAME in one.prepared for one in other.modules() if isinstance(one, hf_mpq.nn.PackedLinear))


def test_many_threads_ask_one_model():
    model = native(packed_model())
    batches = [tiny_batch(1 + number % 5, 4 + 2 * number) for number in range(4)]
    with torch.no_grad():
        wanted = [model(**batch).logits for batch in batches]
    assert not wrong_answers(model, batches, wanted, torch.equal, 5, "logits")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    model, batch = native(packed_model("distilbert")), ragged()  # which has nothing of torch behind its layers
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    want = hidden(model, batch)
    child = os.fork()
    if not child:
        os._exit(0 if torch.equal(hidden(model, batch), want) else 1)
    torch.set_num_threads(before)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.full
@pytest.mark.parametrize("backend", [NAME, "cpu-float", None])
def test_a_spawned_process_gets_a_model_that_answers(backend):
    """Pickled whole, prepared or not; what points into memory here is made anew there."""
    model = packed_model()
    model = model if backend is None else hf_mpq.prepare(model, backend)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(outputs, (model,))
    for one, other in zip(outputs(model), there, strict=True):
        assert_close(one, other, rtol=0, atol=1e-6)


def test_without_a_kernel_layers_run(monkeypatch):
    model = packed_model()
    want = outputs(model)[0]
    monkeypatch.setattr("hf_mpq.runtime.native.encoder.library", lambda: None)
    hf_mpq.prepare(model, NAME)
    assert not isinstance(body_of(model), NativeEncoder)
    assert_close(outputs(model)[0], want, rtol=0, atol=0.1 * float(want.abs().max()))


def test_what_the_kernel_cannot_run_is_said():
    model = hf_mpq.prepare(packed_model(changes={"hidden_act": "silu"}), NAME)
    assert "'silu'" in make_native(model)
    assert library() is not None


def test_a_kernel_of_another_interface_is_not_called(tmp_path, monkeypatch):
    """It would read fields where they no longer are; an old one cannot even be asked."""
    shutil.copytree(native_library.HERE, tmp_path / "native", ignore=shutil.ignore_patterns("*.py", "*.cpp"))
    monkeypatch.setattr(native_library, "HERE", tmp_path / "native")
    assert library.__wrapped__() is not None
    header = tmp_path / "native" / "kernel" / "interface.h"
    header.write_text(header.read_text() + "// more\n")
    with pytest.warns(UserWarning, match="was built of another version of hf_mpq: install it again"):
        assert library.__wrapped__() is None
    assert not native_library._speaks_as_here(CDLL(None))


def test_it_runs_where_the_sums_of_other_products_saturate(monkeypatch):
    """On CPUs with neither VNNI nor AMX, the kernel's own sums are right; what it does not run multiplies floats."""
    monkeypatch.setattr(backends, "unsupported", lambda: "this CPU has neither AVX512-VNNI nor AMX")
    model = packed_model()
    with pytest.raises(ValueError, match="neither"):
        hf_mpq.prepare(model, "cpu-int8")
    want = outputs(model)[0]
    assert_close(outputs(native(model))[0], want, atol=0.02 * float(want.abs().max()), rtol=0)
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    assert not any(isinstance(layer.prepared[NAME], Int8Product) for layer in layers)
