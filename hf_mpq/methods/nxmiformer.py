"""NxMiFormer (Holmes et al., 2022): N:M sparsity by ADMM with quantization, a scheme for each kind of matrix."""

from ..core import METHODS, MethodSpec, StageSpec

_DISTILLED = {"task": {"weight": 0.5}, "soft-labels": {"weight": 0.5}}

NXMIFORMER = METHODS.add(
    "nxmiformer",
    MethodSpec(
        name="nxmiformer",
        summary="Each kind of matrix (query, key, ..., the same in all layers) is dense or keeps two of every four "
        "weights, at 4 or 8 bits. All combinations that fit the budget are filtered by their exact bytes and ranked by "
        "what they do to the untrained model; the best five are trained for a short while, and the best of them goes "
        "on: ADMM draws the weights towards the pattern while they are rounded straight-through, then the pattern is "
        "set, and the kept weights are trained.",
        paper="Holmes et al., Compressing Pre-trained Transformers via Low-Bit NxM Sparsity for Natural Language "
        "Understanding, 2022 (arXiv 2206.15014)",
        config={
            "bits": (4, 8),
            "patterns": ("dense", "2:4"),
            "quantizer": "lsq",
            "embedding_bits": 8,
            "rules": {r"\.\d+\.(.+)$": {"tie": r"\1"}},
        },
        allocator="schemes",
        rounding="nearest",
        stages=(
            StageSpec("admm", 3.0, _DISTILLED, schedules={"admm": {"rho": 1e-3, "every": 0.1}}),
            StageSpec("finetune", objectives=_DISTILLED),
        ),
        finalists=5,
        deviations=(
            "rebuilt from the abstract and from a library whose authorship is inferred; its equations are those of "
            "NxMTransformer (Holmes et al., NeurIPS 2021)",
            "kept weights at 16 bits are no scheme here: the format stores up to 8 bits, and the pattern at 8 bits is "
            "smaller; 1:4 and other bits are options: patterns=('dense', '2:4', '1:4') and bits=(2, 3, 4, 8)",
            "a budget counts stored bytes: codes, masks, scales, biases, tables; the paper's count "
            "of the encoder's weights alone, without or with an index for each kept weight, is an option of the "
            "allocator, {'name': 'schemes', 'share': 0.125, 'index_bits': 2}, and is printed beside the bytes",
            "of the combinations that fit, the 64 with the least sum of what each scheme does alone are measured, by "
            "the divergence from the float model on calibration rows; the paper measures all, by the task's metric on "
            "the dev set: {'name': 'schemes', 'measured': None}",
            "the best five are compared after a tenth of the first stage, on training rows that are kept for it, and "
            "only the best is trained to the end; the paper trains all five and takes the best on the dev set",
            "ADMM projects ten times in its stage, as often as in the paper's ten epochs, and a quarter of the steps "
            "trains the kept weights under their final mask; soft labels of the float model are half of the loss",
            "scales are learned steps of sub-groups of rows (LSQ), not a search over chunks of 32; all parameters are "
            "trained, not those of the encoder's linear layers alone",
        ),
    ),
)
