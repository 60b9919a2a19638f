"""A page of HTML about a compressed model."""

from .page import write_html

__all__ = ["write_html"]
