"""What the encoder families look like: data, not code."""

from .family import Family, LayerNames, family_of
from .table import FAMILIES

__all__ = ["FAMILIES", "Family", "LayerNames", "family_of"]
