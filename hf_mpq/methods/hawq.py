"""HAWQ-v3's allocation (Yao et al., ICML 2021): Hessian trace times squared error, an integer program over matrices."""

from ..core import METHODS, MethodSpec, Part

_QUERY_AND_KEY = r"(.*\.)(query|key|q_lin|k_lin|query_proj|key_proj|attn\.q|attn\.k)$"

HAWQ_V3 = METHODS.add(
    "hawq-v3",
    MethodSpec(
        name="hawq-v3",
        summary="Bits of each matrix are chosen by an integer program that minimises Hessian trace times squared "
        "rounding error under the budget. Nothing is trained.",
        paper="Yao et al., HAWQ-V3: Dyadic Neural Network Quantization, ICML 2021 (trace: Dong et al., HAWQ-V2, 2020)",
        config={"bits": (4, 8), "groups": "channel", "embedding_bits": 8, "rules": {_QUERY_AND_KEY: {"tie": r"\1"}}},
        scorer=Part("hessian", measure="trace"),
        allocator=Part("milp", formats=1),
        rounding="nearest",
        deviations=(
            "embedding tables, which the paper's networks lack, have 8 bits in every budget",
            "a weight matrix is a layer of the paper: one precision each, one scale for each row",
            "query and key of a layer are tied, as the paper ties the tensors that meet in one addition",
            "further limits (bit operations) go into allocator={'name': 'milp', 'formats': 1, 'limits': [...]}",
            "scales are float16, not dyadic numbers; activations at 8 bits, one range per token",
        ),
    ),
)
