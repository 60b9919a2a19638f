"""Many runs and one row of each: tasks by methods by budgets by seeds, or an open search over a space.

What a comparison is made of (`Study`, `Results`, `origin`) needs no more than training does; `Sweep` asks Optuna what
to run next.
"""

from .._extras import require

with require("train", "hf_mpq.sweep"), require("report", "hf_mpq.sweep"):
    from .distances import agreement, divergence, divergences
    from .origin import origin
    from .plan import Plan
    from .rows import Results
    from .study import Study
    from .sweep import Sweep
    from .table import write_report

__all__ = [
    "Plan",
    "Results",
    "Study",
    "Sweep",
    "agreement",
    "divergence",
    "divergences",
    "origin",
    "write_report",
]
