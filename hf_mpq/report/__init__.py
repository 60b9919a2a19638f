"""Tables, plots and text about compressed models."""

from .bit_map import bit_map
from .latency_chart import latency_chart
from .pareto import pareto_front
from .sensitivity import sensitivity_map
from .size_report import SizeReport, size_report
from .trajectory import search_trajectory

__all__ = [
    "SizeReport",
    "bit_map",
    "latency_chart",
    "pareto_front",
    "search_trajectory",
    "sensitivity_map",
    "size_report",
]
