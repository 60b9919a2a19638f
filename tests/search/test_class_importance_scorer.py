"""Class-based importance on nets whose classes are known."""

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

from hf_mpq import MPQConfig
from hf_mpq.core import PrecisionSpace, SubgroupLayout, WeightSpec
from hf_mpq.nn.heads import decisions_of
from hf_mpq.search import SCORERS
from hf_mpq.search.scorers.classes import Classing
from hf_mpq.search.scorers.passes import batches_on
from tests.tiny import tiny_batch, tiny_model


class TwoClasses(nn.Module):
    """Token 0 is of class 0, token 1 of class 1, token 2 stands for both. Neurons of `up`: one for class 1 alone, one
    shared, one that is always 0, one that nothing reads."""

    config = PretrainedConfig()

    def __init__(self):
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(3, 2), nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.set("table", [[1, 0], [0, 1], [1, 1]])
        self.set("up", [[0, 1], [1, 1], [0, 0], [1, 1]])
        self.set("down", [[-1, 0.5, 1, 0], [1, -0.3, -1, 0]])

    def set(self, name, values):
        getattr(self, name).weight.data = torch.tensor(values, dtype=torch.float)

    def forward(self, input_ids, attention_mask=None):
        up = self.up(self.table(input_ids))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        pooled = (up * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return {"logits": self.down(pooled)}


def space(axis: int = 0, groups: int = 4) -> PrecisionSpace:
    shapes = {"up": (4, 2), "down": (2, 4), "table": (3, 2)}
    return PrecisionSpace(
        {name: WeightSpec(SubgroupLayout(shape, groups, axis), (0, 2, 4)) for name, shape in shapes.items()}
    )


BATCHES = [
    {"input_ids": torch.tensor([[0, 0], [1, 1]]), "labels": torch.tensor([0, 1])},
    {"input_ids": torch.tensor([[1, 1]]), "labels": torch.tensor([1])},
]


@pytest.mark.parametrize("criterion", ["relative", "absolute"])
@pytest.mark.parametrize("tokens", ["max", "mean"])
def test_neurons_of_one_class_of_both_and_of_none(criterion, tokens):
    scorer = SCORERS["class-importance"](criterion=criterion, tokens=tokens)
    found = scorer.importance(TwoClasses(), space(), BATCHES)
    assert found["up"].tolist() == [1, 2, 0, 0]
    assert found["table"].tolist() == [1, 1, 0], "a row counts in the classes that read it"


def test_columns_follow_the_inputs():
    found = SCORERS["class-importance"]().importance(TwoClasses(), space(axis=1), BATCHES)
    assert found["up"].tolist() == [1, 1] and found["table"].tolist() == [1, 1]
    assert found["down"].tolist() == [1, 2, 0, 0]


def test_without_labels_the_predictions_are_the_classes():
    bare = [{"input_ids": batch["input_ids"]} for batch in BATCHES]
    assert SCORERS["class-importance"]().importance(TwoClasses(), space(), bare)["up"].tolist() == [1, 2, 0, 0]


def test_classes_count_the_same_however_many_examples_they_have():
    many = [{"input_ids": torch.tensor([[0, 0]] * 7 + [[1, 1], [0, 1]]), "labels": torch.tensor([0] * 7 + [1, 1])}]
    found = SCORERS["class-importance"]().importance(TwoClasses(), space(), many)
    assert found["table"].tolist() == [1.5, 1, 0]


def test_padding_is_no_token():
    padded = [
        {
            "input_ids": torch.tensor([[0, 2], [1, 2]]),
            "attention_mask": torch.tensor([[1, 0], [1, 0]]),
            "labels": torch.tensor([0, 1]),
        }
    ]
    found = SCORERS["class-importance"]().importance(TwoClasses(), space(), padded)
    assert found["table"].tolist() == [1, 1, 0] and found["up"].tolist() == [1, 2, 0, 0]


def test_the_relative_criterion_leaves_out_small_neurons():
    model = TwoClasses()
    model.set("down", [[-1, 1e-3, 1, 0], [1, -1e-3, -1, 0]])
    both = [{"input_ids": torch.tensor([[2, 2], [2, 2]]), "labels": torch.tensor([0, 1])}]
    found = {
        criterion: SCORERS["class-importance"](criterion=criterion).importance(model, space(), both)["up"].tolist()
        for criterion in ("relative", "absolute")
    }
    assert found == {"relative": [2, 0, 0, 0], "absolute": [2, 2, 0, 0]}
    loose = SCORERS["class-importance"](kappa=1e-4).importance(model, space(), both)
    assert loose["up"].tolist() == [2, 2, 0, 0]


def test_scores_are_the_largest_importance_times_a_shared_error():
    scores = SCORERS["class-importance"]().score(TwoClasses(), space(groups=2), BATCHES)
    expected = torch.tensor([[2.0], [0.0]], dtype=torch.float64) * torch.tensor([1.0, 4.0**-2, 4.0**-4]).double()
    assert torch.equal(scores["up"], expected)


def test_classes_of_heads():
    def classing(model, **labels):
        given = batches_on(model, [{**tiny_batch(), **labels}])
        found = Classing.of(model, given, bins=5)
        return found, found.classes(decisions_of(model.config, model(**given[0].inputs), given[0].mask), given[0])

    found, classes = classing(tiny_model("bert", num_labels=1), labels=torch.tensor([0.0, 5.0, 2.6]))
    assert (found.count, classes.tolist()) == (5, [0, 4, 2])
    found, classes = classing(tiny_model("bert", "question"), start_positions=torch.tensor([0, 10, 5]))
    assert (found.count, classes.tolist()) == (5, [0, 4, 2])
    found, classes = classing(tiny_model("bert", "bare"))
    assert (found.count, classes.tolist()) == (1, [0, 0, 0])
    found, classes = classing(tiny_model("bert", "token"))
    assert found.count == 2 and classes.shape == (3, 11) and (classes[-1, -3:] < 0).all() and (classes[0] >= 0).all()
    found, classes = classing(tiny_model("bert", "masked"))
    assert found.count == 5 and classes.max() <= 4
    several = tiny_model("bert", num_labels=3, problem_type="multi_label_classification")
    found, classes = classing(several, labels=torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    assert (found.count, classes.tolist()) == (4, [1, 0, 3]), "the rarest that holds, or none"
    found, classes = classing(tiny_model("bert", num_labels=3, problem_type="regression"))
    assert (found.count, classes.tolist()) == (1, [0, 0, 0])


def test_importance_of_a_model_lies_between_none_and_all_classes():
    model = tiny_model("albert")
    space = MPQConfig(bits=(0, 2), groups=4).resolve(model)
    for importance in SCORERS["class-importance"]().importance(model, space, [tiny_batch()]).values():
        assert (importance >= 0).all() and (importance <= 2).all()
