"""ZeroQuant (Yao et al., NeurIPS 2022): group-wise weights, token-wise activations, layer-by-layer distillation."""

from ..core import METHODS, MethodSpec, Part

_PAPER = "Yao et al., ZeroQuant: Efficient and Affordable Post-Training Quantization, NeurIPS 2022"
_FEED_FORWARD = r"(intermediate\.dense|(?<!attention\.)output\.dense|ffn|mlp\.W)"
_COMMON = {
    "bits": 8,
    "groups": 48,
    "quantizer": Part("symmetric", scale="max", two_bits="integer"),
    "activation": Part("dynamic-token", symmetric=True),
}

ZEROQUANT = METHODS.add(
    "zeroquant",
    MethodSpec(
        name="zeroquant",
        summary="Weights are rounded in groups of rows, activations for each token, and every layer is distilled in "
        "turn from its float self on unlabelled text. No labels and no whole-model training.",
        paper=_PAPER,
        config=_COMMON,
        rounding="nearest",
        deviations=(
            "embeddings and pooler are at 8 bits too; the shipped configuration of the paper leaves them float",
        ),
    ),
)

ZEROQUANT_4_8 = METHODS.add(
    "zeroquant-4-8",
    MethodSpec(
        name="zeroquant-4-8",
        summary="ZeroQuant with the feed-forward weights at 4 bits and the others at 8. Layer-by-layer distillation "
        "makes up for the lower bits.",
        paper=_PAPER,
        config={**_COMMON, "rules": {_FEED_FORWARD: {"bits": 4}}},
        rounding=Part("lkd", steps=100, batch_size=32, lr=5e-6),
        deviations=("attention at 8 bits, feed-forward at 4, activations at 8 bits where the paper's row has 16",),
    ),
)
