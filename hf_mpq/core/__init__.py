"""Plain data that every room shares: layouts, spaces, assignments, budgets, registries."""

from .assignment import Assignment, MatrixAssignment
from .budget import Budget, BudgetError
from .constants import constant
from .float_bytes import from_bytes, to_bytes
from .layout import SubgroupLayout, spread
from .liveness import Liveness, applies, kept_rows, liveness, scores_of
from .method import METHODS, MethodSpec, StageSpec
from .registry import Registry
from .space import ActivationSpec, AttentionSpec, Link, PrecisionSpace, RowBlock, WeightSpec
from .storage import MatrixStorage
from .straight_through import replace_forward, scale_gradient, to_stored_type
from .usage import Usage

__all__ = [
    "METHODS",
    "ActivationSpec",
    "Assignment",
    "AttentionSpec",
    "Budget",
    "BudgetError",
    "Link",
    "Liveness",
    "MatrixAssignment",
    "MatrixStorage",
    "MethodSpec",
    "PrecisionSpace",
    "Registry",
    "RowBlock",
    "StageSpec",
    "SubgroupLayout",
    "Usage",
    "WeightSpec",
    "applies",
    "constant",
    "from_bytes",
    "kept_rows",
    "liveness",
    "replace_forward",
    "scale_gradient",
    "scores_of",
    "spread",
    "to_bytes",
    "to_stored_type",
]
