"""Tables, plots and text about compressed models."""

from .bit_map import bit_map
from .card import write_card
from .latency_chart import latency_chart
from .likeness import embedding_similarity
from .loyalty import Loyalty, loyalty
from .model_summary import ModelSummary
from .page import write_html
from .pareto import pareto_front
from .sensitivity import sensitivity_map
from .size_report import SizeReport, size_report
from .summary import summarize
from .trajectory import search_trajectory

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
