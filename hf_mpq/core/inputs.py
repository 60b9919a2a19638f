"""What encoders take."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Tensors that describe a text to a model, in the order in which exports take them."""
LABELS = ("labels", "label", "label_ids")
"""Columns of labels, which collators give a model as `labels`."""
POSITIONS = ("start_positions", "end_positions")
"""Labels of question answering."""


def is_label(name: str) -> bool:
    """Whether what a batch has of this name is what is to be found, and no input."""
    return "label" in name or name in POSITIONS
