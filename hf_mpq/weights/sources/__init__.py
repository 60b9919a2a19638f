"""Sources: where the float weight comes from."""

from .base import SOURCES, FloatMaster, Source
from .planes import PlaneSource, SigmoidPlanes

__all__ = ["SOURCES", "FloatMaster", "PlaneSource", "SigmoidPlanes", "Source"]
