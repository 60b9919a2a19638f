"""Tables, plots and text about compressed models."""

from .._extras import require

with require("report", "hf_mpq.report"):
    from .figures.bit_map import bit_map
    from .figures.latency_chart import latency_chart
    from .figures.pareto import pareto_front
    from .figures.sensitivity import sensitivity_map
    from .figures.trajectory import search_trajectory
    from .measures.likeness import embedding_similarity
    from .measures.loyalty import Loyalty, loyalty
    from .measures.model_summary import ModelSummary
    from .measures.size_report import SizeReport, size_report
    from .measures.summary import summarize
    from .page import write_html

__all__ = [
    "Loyalty",
    "ModelSummary",
    "SizeReport",
    "bit_map",
    "embedding_similarity",
    "latency_chart",
    "loyalty",
    "pareto_front",
    "search_trajectory",
    "sensitivity_map",
    "size_report",
    "summarize",
    "write_html",
]


def __getattr__(name: str):
    if name == "write_card":
        from .._moved import moved

        return moved("hf_mpq.report.write_card", "hf_mpq.hub:write_card")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
