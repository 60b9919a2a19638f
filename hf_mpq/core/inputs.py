"""What encoders take."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Tensors that describe a text to a model, in the order in which exports take them."""
