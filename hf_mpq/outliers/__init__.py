"""Channels of activations that are far larger than the others: made alike before inputs are quantized."""

from .base import OUTLIERS, InputAffine, OutlierRule
from .gamma import GammaMigration
from .inputs import InputGroup, record_inputs
from .shift_scale import ShiftAndScale
from .suppress import suppress_outliers

__all__ = [
    "OUTLIERS",
    "GammaMigration",
    "InputAffine",
    "InputGroup",
    "OutlierRule",
    "ShiftAndScale",
    "record_inputs",
    "suppress_outliers",
]
