"""Plain data that every room shares: layouts, spaces, assignments, budgets, registries."""

from .._lazy import lazily

_MODULES = {
    "activation": ("ActivationSpec", "AttentionSpec"),
    "assignment": ("Assignment", "MatrixAssignment"),
    "budget": ("Budget", "BudgetError", "Budgets", "budgets_of"),
    "constants": ("constant",),
    "float_bytes": ("from_bytes", "to_bytes"),
    "json_file": ("read_json",),
    "layout": ("SubgroupLayout", "spread"),
    "liveness": ("Liveness", "applies", "kept_rows", "scores_of"),
    "method": ("METHODS", "MethodSpec", "StageSpec"),
    "parts": ("Part", "Written", "by_name", "name_and_options", "plain"),
    "patterns": ("search",),
    "processes": ("over_processes",),
    "progress": ("bars", "say", "track"),
    "registry": ("Registry", "nearest", "unknown"),
    "shape": ("ModelShape", "Reduction"),
    "sparsity": ("DENSE", "Pattern", "checked_patterns", "pattern_of", "pattern_word"),
    "space": (
        "Link",
        "OpenChoice",
        "PrecisionSpace",
        "RowBlock",
        "WeightSpec",
        "input_of",
    ),
    "storage": ("MaskStorage", "MatrixStorage"),
    "straight_through": ("replace_forward", "scale_gradient", "to_stored_type"),
    "usage": ("Usage",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__getattr__ = lazily(__name__, _HOMES)
__all__ = sorted(_HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
