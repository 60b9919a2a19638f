"""One stage: an ordinary Trainer whose steps are the passes of a strategy."""
