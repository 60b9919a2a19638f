"""Bigger & Faster (Bailey et al., 2022): the shape of an int8 encoder by the latency that int8 has on this machine."""

from ..core import METHODS, MethodSpec, Part, StageSpec
from .mpq import DISTILLATION

BIGGER_FASTER = METHODS.add(
    "bigger-faster",
    MethodSpec(
        name="bigger-faster",
        summary="One super-model is trained at many depths and widths at once, each a part of its parameters, by "
        "distillation and rounded to 8 bits. An evolution then searches the shape whose outputs stay nearest to the "
        "teacher's among those that are fast enough, by a latency that is predicted from shapes measured here as int8 "
        "runs them. The sub-net is cut out as an ordinary smaller model and distilled further.",
        paper="Bailey et al., Bigger & Faster: Two-stage Neural Architecture Search for Quantized Transformer Models, "
        "2022",
        config={"bits": 8, "groups": "channel", "quantizer": "minmax"},
        stages=(
            StageSpec("supernet", share=0.6, objectives=DISTILLATION, strategy=Part("elastic", target=0.5)),
            StageSpec("distil", share=0.4, objectives=DISTILLATION),
        ),
        deviations=(
            "the super-model begins as the fine-tuned teacher, with rows, heads and hidden dimensions in the order of "
            "their weights, and learns the task's outputs and hidden states; the paper's begins as AutoTinyBERT's and "
            "learns the last hidden states and attention scores on a corpus",
            "hidden states of a sub-net are taught layer by layer, by those of the same depth and their first "
            "dimensions; the paper has a learned projection, of which a sub-net takes a part",
            "every step runs the whole model, the smallest sub-net and two drawn ones, the latter taught by the whole "
            "one; the paper draws one shape a step",
            "sub-nets round weights and inputs to 8 bits in training; the published code rounds after training alone",
            "a sub-net has whole heads, as many as its hidden size holds, and layers evenly spaced; the paper keeps 12 "
            "heads, the first dimensions of the concatenated heads and the first layers",
            "fitness is the divergence of the sub-net as it is from the teacher on calibration inputs; the paper "
            "fine-tunes each candidate for an epoch of MNLI",
            "the window of latencies ends at the target and not 10 % above it; the first generation is drawn from all "
            "of it, without the paper's rule for good ratios of rows to hidden size",
            "latency is predicted by a curve of five coefficients through a few dozen measured shapes, and not by a "
            "network trained on 14,250",
            "without training (hf_mpq.compress) it is 8 bits at the model's own shape",
        ),
    ),
)
