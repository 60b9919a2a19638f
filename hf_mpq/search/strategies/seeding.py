"""Random numbers as a function of where training is."""

import numpy as np
import torch


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU for a sequence of numbers from 0."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
