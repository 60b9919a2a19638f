"""Sources: where the float weight comes from."""

from .base import SOURCES, FloatMaster, Source
from .planes import PlaneSource, SigmoidPlanes
from .rounded_planes import RoundedPlanes

__all__ = ["SOURCES", "FloatMaster", "PlaneSource", "RoundedPlanes", "SigmoidPlanes", "Source"]
