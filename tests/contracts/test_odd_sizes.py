"""Sizes that nobody would choose: all pack, load and agree with the trainable model."""

from random import Random

import pytest

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.core import Assignment, MatrixAssignment
from tests.contracts.test_families import close
from tests.tiny import FAMILIES, HEADS, outputs, tiny_model

BITS = (0, 1, 2, 3, 4, 8)
NAMES = {
    "distilbert": {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
    }
}


def odd_sizes(family: str, random: Random) -> dict[str, int]:
    """Of a model; the width of a head is even where positions are rotated."""
    heads, width = random.randint(1, 4), 2 * random.randint(1, 9)
    sizes = {
        "hidden_size": heads * width,
        "num_attention_heads": heads,
        "intermediate_size": random.randint(1, 129),
        "num_hidden_layers": 1,
        "vocab_size": 97 + random.randint(0, 60),
    }
    return {NAMES.get(family, {}).get(name, name): size for name, size in sizes.items()}


def random_assignment(model, config: MPQConfig, random: Random) -> Assignment:
    return Assignment(
        {
            name: MatrixAssignment(tuple(random.choice(spec.candidates) for _ in range(spec.layout.count)))
            for name, spec in config.resolve(model).weights.items()
        }
    )


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.full if seed else []) for seed in range(40)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_is_packed_and_loaded(family, seed, tmp_path):
    random = Random(f"{family} {seed}")
    sizes, groups = odd_sizes(family, random), random.choice([1, 7, 1000, "channel", "matrix", "columns:3"])
    model = tiny_model(family, **sizes)
    config = MPQConfig(bits=BITS, embedding_bits=(2, 4, 8), groups=groups)
    config.assignment = random_assignment(model, config, random).to_dict()
    trained = outputs(hf_mpq.quantize(model, config))
    hf_mpq.pack(model).save_pretrained(tmp_path)
    again = HEADS["sequence"].from_pretrained(tmp_path)
    close(trained, outputs(again))
    assert hf_mpq.size_report(again).total_bytes == hf_mpq.size_report(model).total_bytes
    close(trained, outputs(hf_mpq.prepare(again, "cpu-float")), 1e-3)  # an input's level may be the next one
