"""Neural channel expansion (Park et al., 2022): widths under a budget, all at 2 bits."""

from ..core import METHODS, MethodSpec, Part, StageSpec
from .mpq import DISTILLATION

_SEARCH = Part("expansion", warmup=0.1, penalty=Part("log-band", strength=2.0, tolerance=0.05))

CHANNEL_EXPANSION = METHODS.add(
    "channel-expansion",
    MethodSpec(
        name="channel-expansion",
        summary="All weights have 2 bits, and what is searched is how many feed-forward rows each layer has. The model "
        "is made half as wide again without changing its function; a gate for each layer mixes its widths under the "
        "budget, and one whose widest candidate is wanted gets a wider one. The likeliest widths within the budget are "
        "then trained on.",
        paper="Park et al., Automatic Network Adaptation for Ultra-Low Uniform-Precision Quantization, 2022",
        config={"bits": (0, 2), "groups": 96, "quantizer": "lsq", "gate": "width"},
        stages=(
            StageSpec("search", share=0.4, objectives=DISTILLATION, strategy=_SEARCH, reshape=Part("widen", rows=1.5)),
            StageSpec("qat", share=0.6, objectives=DISTILLATION),
        ),
        deviations=(
            "reconstructed: the threshold (half as likely again as if all open widths were alike), how often it is "
            "looked at (ten times in the search), the step (an eighth of the original width), the start of a new "
            "candidate (half of the widest one's share, so that nothing changes when it opens), the quantizer and the "
            "weight of the penalties (2, as in the search that the paper builds on)",
            "widths are those of feed-forward rows, from half of the original to half as wide again; heads and the "
            "hidden size stay",
            "all widths are mixed, without noise, where the second matrix reads them, which is the same as the sum of "
            "the networks at each width; the paper mixes two drawn ones and brings their channels to one width by "
            "averaging: gate={'name': 'width', 'drawn': 2, 'mixing': 'interpolation'}",
            "the model is widened before the search, and rows that are not open yet pass nothing on; new rows are "
            "pairs of copies that cancel out. The paper adds channels during the search",
            "there is no normalisation between the two matrices, so none of its own for each width",
            "each limit of the budget has its penalty, with a band of 5 % on either side, and the widths are decided "
            "within them; the paper penalises operations and parameters and takes the likeliest widths",
            "gates learn from a batch of the search slice in every step (search_fraction of the training set, 20 %; "
            "half in the paper), after the first tenth of the search, at a rate that suits its length",
            "both stages distil from the float model, and training goes on from the searched weights; in the paper "
            "the found network is trained anew: stages={'qat': {'start': 'loaded', 'reshape': 'widen'}}",
            "without training (hf_mpq.compress) it is 2 bits at the model's own width, without the rows that matter "
            "least where the budget is below that",
        ),
    ),
)
