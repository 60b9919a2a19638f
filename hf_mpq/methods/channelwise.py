"""Channel-wise mixed precision (Risso et al., IGSC 2022) with joint pruning (Motetti et al., 2024)."""

from ..core import METHODS, MethodSpec, Part, StageSpec

_SEARCH = Part("alternating", warmup=0.2, compensate_pruned=True, optimizer="adam", learning_rate=0.05)

CHANNELWISE = METHODS.add(
    "channelwise",
    MethodSpec(
        name="channelwise",
        summary="Every output channel gets its own precision, 0 bits prunes it, and every input gets 2, 4 or 8 bits. "
        "Gates and weights take turns within each epoch under a differentiable cost, and a fine-tuning at the chosen "
        "bits follows.",
        paper="Risso et al., Channel-wise Mixed-precision Assignment for DNN Inference on Constrained Edge Nodes, "
        "IGSC 2022; 0 bits: Motetti et al., Joint Pruning and Channel-wise Mixed-Precision Quantization, 2024",
        config={
            "bits": (0, 2, 4, 8),
            "groups": "channel",
            "quantizer": Part("symmetric", scale="range", two_bits="integer"),
            "gate": "softmax",
            "activation_bits": (2, 4, 8),
        },
        outliers="none",
        stages=(
            StageSpec("search", strategy=_SEARCH),
            StageSpec("finetune", start="previous"),
        ),
        deviations=(
            "the input of each matrix has its own bits; in the papers all that read a layer's output share them",
            "the warm-up is the first fifth of the search stage, with quantized weights at the start's mixture and "
            "gates that stand still; the papers warm up in float or at 8 bits",
            "the gates learn by Adam at 0.05: in the few epochs of a fine-tuning the papers' SGD, made for hundreds "
            "(strategy_options={'optimizer': 'sgd', 'learning_rate': 0.01}), moves them by the size penalty alone, and "
            "whole matrices end at 0 bits",
            "with a budget the penalty is DUCCIO's hinge and the result is projected into it; without one, lambda "
            "times the cost as in the papers: strategy_options={'penalty_options': {'strength': ...}} traces the front",
            "scales are set once, by the papers' rule 2 max|w| / (2^bits - 1) in each channel; the papers read them "
            "off the weights in every pass",
            "activations have one dynamic range per token, not PACT's learned clip for each of their bits; "
            "activation='learned' learns one (LSQ+)",
            "the search slice is the last part of an epoch, not the first; no early stopping; the weights take the "
            "trainer's AdamW and schedule, not Adam at 1e-3 that falls by a hundredth per epoch",
            "channels are not permuted when stored: a map says the bits of each, and pruned rows are folded away",
        ),
    ),
)
