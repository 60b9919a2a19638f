"""Budgets of the recipes, and of the commands that compare methods, can be met by a model of the size they are for."""

import re
from inspect import signature

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, BertConfig

from hf_mpq import MPQConfig
from hf_mpq.cost import limits_of
from hf_mpq.search.allocators.start import check_possible
from tests.recipes import RECIPES

MINILM = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
RECIPE = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((RECIPES / "methods").glob("*.yaml"))}
WITH_BUDGETS = [name for name, fields in RECIPE.items() if fields.get("budget")]
WRITTEN = re.findall(r'^ *budget="(.+)"$', (RECIPES / "README.md").read_text(), re.MULTILINE)


def check(fields):
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(BertConfig(**MINILM))
    known = signature(MPQConfig).parameters
    config = MPQConfig(**{name: value for name, value in fields.items() if name in known})
    space = config.resolve(model)
    check_possible(space, limits_of(space, config.budgets, None))


@pytest.mark.parametrize("name", WITH_BUDGETS)
def test_of_a_recipe(name):
    check(RECIPE[name])


@pytest.mark.parametrize("budget", WRITTEN)
def test_of_a_command(budget):
    check({"method": "fdq", "budget": budget.split(" + ")})


def test_there_are_some():
    assert "fdq" in WITH_BUDGETS and WRITTEN
