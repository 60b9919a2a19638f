"""Published systems, each a short composition of registered parts."""

from . import class_based, ghost, hawq, q_bert, zeroquant  # noqa: F401
