"""What the encoder families look like: data, not code."""

from .family import Family, LayerNames
from .table import FAMILIES, family_for, family_of

__all__ = ["FAMILIES", "Family", "LayerNames", "family_for", "family_of"]
