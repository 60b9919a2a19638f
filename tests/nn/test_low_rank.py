"""A low-rank correction: part of the weight that is multiplied with, packed, counted, and better than a plain SVD."""

import pytest
import torch

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import MatrixStorage
from hf_mpq.cost import COSTS
from hf_mpq.nn import MPQLinear, correct_low_rank
from hf_mpq.nn.low_rank import input_moments, nearest_factors
from hf_mpq.nn.packing import pack_matrix, plain_layer
from hf_mpq.nn.walk import matrices
from hf_mpq.outliers import suppress_outliers
from hf_mpq.runtime import compact
from tests.contracts.test_families import close
from tests.contracts.test_folding import pruned_assignment
from tests.contracts.test_round_trips import same_state, state_of
from tests.contracts.test_sizes import bytes_on_disk
from tests.nn.cases import LAYOUTS, linear_of
from tests.nn.test_packed_layers import assert_twins, with_dead
from tests.outliers.cases import batches, spiky_model
from tests.tiny import HEADS, MOST, outputs, tiny_batch, tiny_model

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def corrected(layout, dead=(), **options) -> MPQLinear:
    layer = with_dead(linear_of(layout, rank=3, **options), list(dead))
    layer.set_low_rank(0.1 * torch.randn(13, 3), 0.1 * torch.randn(3, 11))
    return layer


@pytest.mark.parametrize("float_dtype", ["float16", "float32"])
@every_layout
def test_twins_are_equal(layout, float_dtype):
    layer, x = corrected(layout, float_dtype=float_dtype), torch.randn(4, 11)
    packed = pack_matrix(layer)
    assert_twins(layer, packed)
    assert torch.equal(packed(x), layer(x)) and not torch.equal(layer.coded_weight(), layer.quantized_weight())
    assert MatrixStorage.from_dict(packed.stored.to_dict()) == packed.stored
    kept = int(layer.kept_rows().sum())
    extra = packed.stored.total_bytes - linear_of(layout, float_dtype=float_dtype).storage().total_bytes
    assert extra == 3 * (kept + 11) * (2 if float_dtype == "float16" else 4)
    torch.testing.assert_close(plain_layer(packed)(x), layer(x))


def test_pruned_rows_and_dead_columns_stay_zero():
    layer = corrected(LAYOUTS["channel"], dead=(0, 3, 10))
    packed = pack_matrix(layer)
    assert_twins(layer, packed)
    assert not packed.weight[:, [0, 3, 10]].any() and not packed.weight[~layer.kept_rows()].any()
    assert packed.stored.buffers()["low_rank_columns"] == 2 * 3 * 8


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_the_error_is_at_most_that_of_a_plain_decomposition(rank):
    error, x = torch.randn(13, 11), torch.randn(40, 11) * torch.logspace(-2, 1, 11)
    moment = x.T @ x
    weighed = lambda e: float((e.double() @ moment.double() * e.double()).sum())  # noqa: E731
    rows, columns = nearest_factors(error, moment, rank)
    left, strengths, right = torch.linalg.svd(error)
    plain = left[:, :rank] * strengths[:rank] @ right[:rank]
    found, other = weighed(error - rows @ columns), weighed(error - plain)
    assert found < 0.7 * other if rank < 11 else found < 1e-4 * weighed(error)
    assert rows.shape == (13, rank) and columns.shape == (rank, 11)


@torch.no_grad()
@pytest.mark.parametrize("family", MOST)
def test_there_and_back(family, tmp_path):
    plain = tiny_model(family)
    config = MPQConfig(groups="channel", low_rank=6, rules={r"query|q_lin|\.q$": {"low_rank": 2}}, activation_bits=None)
    config.assignment = pruned_assignment(plain, config, {"pointwise", "value"}).to_dict()
    config.assignment["matrices"] = {
        name: matrix | {"bits": [min(b, 3) for b in matrix["bits"]]}
        for name, matrix in config.assignment["matrices"].items()
    }
    space, reference = config.resolve(plain), tiny_model(family)
    model = hf_mpq.quantize(plain, config)
    layers = {name: layer for name, layer in matrices(model, MPQLinear) if layer.spec.rank}
    before, moments = outputs(model), input_moments(model, layers, [tiny_batch()])

    def loss(name):
        layer, weight = layers[name], reference.get_submodule(hf_mpq.nn.absolute_name(reference, name)).weight
        error = (weight - layer.quantized_weight())[layer.kept_rows()][:, layer.live_inputs()]
        live = layer.live_inputs()
        return float((error @ moments[name][live][:, live] * error).sum())

    losses = {name: loss(name) for name in moments}
    correct_low_rank(model, reference, [tiny_batch()])
    assert len(losses) > 4 and all(loss(name) < 0.95 * losses[name] for name in losses)
    trained, report = outputs(model), hf_mpq.size_report(model)
    assert not torch.equal(trained[0], before[0])
    model.save_pretrained(tmp_path / "trainable")
    close(outputs(HEADS["sequence"].from_pretrained(tmp_path / "trainable")), trained, 0)
    assignment = hf_mpq.assignment_of(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    close(outputs(HEADS["sequence"].from_pretrained(tmp_path)), trained)
    assert COSTS["size"](space).of(assignment) == report.total_bytes == bytes_on_disk(tmp_path)
    packed = state_of(model)
    close(outputs(hf_mpq.unpack(model)), trained)
    assert same_state(hf_mpq.pack(model).state_dict(), packed)
    close(outputs(compact(model)), trained)


def test_corrections_go_with_a_shift_and_a_scale(tmp_path):
    options = {"bits": 3, "activation_bits": 4, "low_rank": 8, "input_affine": {".*output.dense": ["scale"]}}
    model, reference = hf_mpq.quantize(spiky_model("bert"), MPQConfig(**options)), spiky_model("bert")
    suppress_outliers(model, batches(), points=5)
    before = [(a - b).square().mean() for a, b in zip(hidden(model), hidden(reference))]
    correct_low_rank(model, reference, batches())
    after = [(a - b).square().mean() for a, b in zip(hidden(model), hidden(reference))]
    assert after[0] < 0.8 * before[0]
    trained = outputs(model)
    hf_mpq.pack(model).save_pretrained(tmp_path)
    close(outputs(HEADS["sequence"].from_pretrained(tmp_path)), trained)
    assert hf_mpq.size_report(model).total_bytes == bytes_on_disk(tmp_path)
    packed = state_of(model)
    assert same_state(hf_mpq.pack(hf_mpq.unpack(model)).state_dict(), packed)


def hidden(model) -> list[torch.Tensor]:
    """What the first layer's query gives."""
    found, query = [], model.bert.encoder.layer[0].attention.self.query
    hook = query.register_forward_hook(lambda layer, args, output: found.append(output.detach()))
    outputs(model)
    hook.remove()
    return found


def test_expected_bytes_and_tables_count_the_factors():
    model = tiny_model("bert")
    spaces = [MPQConfig(bits=(0, 2, 4), groups=4, low_rank=rank).resolve(model) for rank in (0, 5)]
    name = "encoder.layer.0.intermediate.dense"
    tables = [COSTS["size"](space).table(name) for space in spaces]
    assert (tables[1] - tables[0]).tolist() == [[0, 14 * 5 * 2, 14 * 5 * 2]] * 4
    quantized = hf_mpq.fix(hf_mpq.quantize(model, MPQConfig(bits=(2, 4), groups=4)))
    usages, assignment = hf_mpq.nn.usages(quantized), hf_mpq.assignment_of(quantized)
    spaces = [MPQConfig(bits=(2, 4), groups=4, low_rank=rank).resolve(tiny_model("bert")) for rank in (0, 5)]
    expected, exact = (
        [COSTS["size"](space).of(assignment) for space in spaces],
        [float(COSTS["size"](space).expected(usages)) for space in spaces],
    )
    assert expected[1] - expected[0] == exact[1] - exact[0] > 0


def test_refusals():
    with pytest.raises(ValueError, match="low_rank"):
        MPQConfig(low_rank=-1)
    with pytest.raises(ValueError, match="no layer has room"):
        correct_low_rank(hf_mpq.quantize(tiny_model("bert"), MPQConfig()), tiny_model("bert"), [tiny_batch()])
    model = hf_mpq.quantize(tiny_model("bert"), MPQConfig(low_rank=2))
    with pytest.raises(ValueError, match="batches"):
        correct_low_rank(model, tiny_model("bert"), [])
