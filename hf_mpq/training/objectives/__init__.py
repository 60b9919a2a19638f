"""Loss terms by name: the loss of a stage is their weighted sum."""

from .attention_scores import AttentionScores
from .base import OBJECTIVES, Objective, Signals
from .bins import BinRegularisation
from .cosine_distance import CosineDistance
from .distortion import Distortion
from .embeddings import EmbeddingCosine, EmbeddingRelations
from .hidden_states import HiddenStates
from .late_interaction import MaxSim
from .quantization_error import QuantizationError
from .ranking import Ranking
from .self_teaching import SelfTeaching
from .soft_labels import SoftLabels
from .task import Task
from .value_relations import ValueRelations
from .weights import WeightObjective

__all__ = [
    "OBJECTIVES",
    "AttentionScores",
    "BinRegularisation",
    "CosineDistance",
    "Distortion",
    "EmbeddingCosine",
    "EmbeddingRelations",
    "HiddenStates",
    "MaxSim",
    "Objective",
    "QuantizationError",
    "Ranking",
    "SelfTeaching",
    "Signals",
    "SoftLabels",
    "Task",
    "ValueRelations",
    "WeightObjective",
]
