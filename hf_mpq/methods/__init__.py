"""Published systems, each a short composition of registered parts."""

from . import aq_bert, channelwise, class_based, ghost, hawq, mpq, q8, q_bert, sdq, uniform, zeroquant  # noqa: F401
