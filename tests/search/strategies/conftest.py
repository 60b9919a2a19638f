"""Tiny models with open gates, and one training step at a time."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from hf_mpq import MPQConfig, quantize
from hf_mpq.core import PrecisionSpace, budgets_of
from hf_mpq.cost import CostModel, Limits, limits_of
from hf_mpq.nn import usages
from hf_mpq.search.strategies import STRATEGIES, Progress
from hf_mpq.search.strategies.open_gates import open_gates
from tests.tiny import tiny_batch, tiny_model


@dataclass
class Case:
    """A model with open gates and what a strategy is given about it."""

    model: nn.Module
    space: PrecisionSpace
    limits: Limits

    @property
    def cost(self) -> CostModel:
        return self.limits[0].cost

    @property
    def limit(self) -> float | None:
        return self.limits[0].amount

    def strategy(self, name, **options):
        return STRATEGIES[name](self.space, self.limits, **options)

    def gates(self):
        return open_gates(self.space, self.model)

    def scores(self, seed=0):
        random = np.random.default_rng(seed)
        return {
            name: random.lognormal(0, 1.5, (spec.layout.count, 1)) * 4.0 ** -np.array(spec.candidates, float)
            for name, spec in self.space.weights.items()
            if spec.bits is None
        }


def open_case(budget="2.5bits", family="bert", **config):
    config = MPQConfig(**{"bits": (0, 2, 4), "groups": 4, "activation_bits": None, **config})
    model = quantize(tiny_model(family), config)
    space = model.config.quantization_config.resolve(model)
    return Case(model, space, limits_of(space, budgets_of(budget)))


def step_progress(step, steps=30, steps_per_epoch=10, search_steps=2):
    return Progress(step, steps, steps_per_epoch, search_steps)


def search_loss(case, strategy, progress, penalised):
    """Loss of one pass, as a trainer would make it."""
    outputs = case.model(**tiny_batch(), labels=torch.tensor([0, 1, 0]))
    return outputs.loss + strategy.penalty(usages(case.model), progress) if penalised else outputs.loss


@pytest.fixture
def make_case():
    return open_case


@pytest.fixture
def at_step():
    return step_progress


@pytest.fixture
def loss_of():
    return search_loss
