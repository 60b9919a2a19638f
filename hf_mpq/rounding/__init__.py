"""Rounding without labels: better codes than the nearest, from a few hundred inputs."""

from .autoround import AutoRounder
from .base import ROUNDERS, Rounder
from .bias_correction import correct_biases
from .gptq import GPTQRounder
from .lkd import LayerwiseDistillation
from .nearest import NearestRounder

__all__ = [
    "ROUNDERS",
    "AutoRounder",
    "GPTQRounder",
    "LayerwiseDistillation",
    "NearestRounder",
    "Rounder",
    "correct_biases",
]
