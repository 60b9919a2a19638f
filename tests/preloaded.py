"""What forked processes have imported before they start: all that is heavy, and nothing of hf_mpq."""

import gc

import accelerate  # noqa: F401
import datasets  # noqa: F401
import scipy.optimize  # noqa: F401
import torch.distributed  # noqa: F401
from transformers import (  # noqa: F401
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertTokenizerFast,
    Trainer,
    pipeline,
)

gc.collect()
gc.freeze()
