"""Models on the Hub: their card, and the upload."""

from .._extras import require

with require("report", "hf_mpq.hub"):
    from .card import write_card
    from .facts import CardFacts
    from .push import push, push_model

__all__ = ["CardFacts", "push", "push_model", "write_card"]
