"""Strategies: how precisions are searched while weights are trained."""

from .alternating import Alternating
from .base import (
    DRAWN,
    GATE_PARAMETERS,
    HIGHEST,
    MODEL_PARAMETERS,
    QUANTIZER_PARAMETERS,
    STRATEGIES,
    WEIGHTS,
    Pass,
    Progress,
    SearchStrategy,
    searches_shapes,
)
from .bilevel import Bilevel
from .continuous_sparsification import ContinuousSparsification
from .descending import Descending
from .elastic import ElasticSearch
from .expansion import ChannelExpansion
from .gate_search import GateSearch
from .joint import Joint
from .once import Once
from .penalties import PENALTIES, Penalty
from .phases import Phases
from .projection import likeliest, likeliest_of
from .weight_coupling import WeightCoupling

__all__ = [
    "DRAWN",
    "GATE_PARAMETERS",
    "HIGHEST",
    "MODEL_PARAMETERS",
    "PENALTIES",
    "QUANTIZER_PARAMETERS",
    "STRATEGIES",
    "WEIGHTS",
    "Alternating",
    "Bilevel",
    "ChannelExpansion",
    "ContinuousSparsification",
    "Descending",
    "ElasticSearch",
    "GateSearch",
    "Joint",
    "Once",
    "Pass",
    "Penalty",
    "Phases",
    "Progress",
    "SearchStrategy",
    "WeightCoupling",
    "likeliest",
    "likeliest_of",
    "searches_shapes",
]
