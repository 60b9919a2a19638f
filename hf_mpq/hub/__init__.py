"""Models on the Hub: what they came from, their card, and the upload."""

from ..plugin.origin import hub_name, remember_base, remember_making
from .facts import CARD_WRITERS, CardFacts
from .push import push, push_model

__all__ = ["CARD_WRITERS", "CardFacts", "hub_name", "push", "push_model", "remember_base", "remember_making"]
