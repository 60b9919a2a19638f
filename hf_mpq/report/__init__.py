"""Tables, plots and text about compressed models."""

from ..hub.card import write_card
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
from .page.page import write_html

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
    "write_card",
    "write_html",
]
