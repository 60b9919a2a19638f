"""What runs from the shell."""

from .._extras import require

require("cli", "the command hf-mpq")
