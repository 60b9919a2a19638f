"""Fisher information of sub-groups: one backward pass over a few hundred examples."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core import PrecisionSpace, WeightSpec, input_of, track
from ...nn.bfloat16 import bf16_products
from ...nn.heads import decisions_of
from .base import SCORERS, Scorer, check_choice, check_count, never_rising, open_matrices, readers, rounding_errors
from .inputs import InputRecorder, open_inputs
from .moments import Moment, MomentRecorder
from .passes import Batch, batches_on, differentiating, tables
from .projections import ProjectionRecorder
from .sampled_loss import sampled_loss

FORMS = ("projected", "kronecker", "diagonal")
_Layers = Mapping[str, tuple[nn.Module, WeightSpec]]


@SCORERS.register("fisher")
class FisherScorer(Scorer):
    """The second-order estimate of the KL divergence per example that rounding a sub-group to b bits causes.

    `"projected"` is the Gauss-Newton form of the sub-group itself, `S(b) = 1/2 E_n[<grad_n, dW_b>^2]`, with the
    gradient of example n summed over its tokens. It keeps what the tokens and the rows of a sub-group do together.

    `"kronecker"` is `1/2 sum_rows d_i dw_i A dw_i^T` with `A = E[x x^T]` over tokens and `d_i` the squared gradient of
    output i summed over the tokens of an example (after K-FAC, Martens and Grosse, 2015). It takes inputs to be
    independent of gradients and tokens of each other, which they are not in BERT; see docs/results. `"diagonal"`
    keeps only the diagonal of A: the cheapest, and blind to correlated inputs.

    Open inputs have the projected score in every form: `1/2 E_n[<grad_n, dx_b>^2]` with what rounding changes in them.

    Gradients are those of outputs drawn from the model (see `sampled_loss`): the true Fisher information, not the
    empirical one, which vanishes at convergence. Padding counts for nothing. Rows of a table count as read half a time
    more than they were seen; a decoder tied to it counts too. Our own composition.

    Memory: projected, four bytes for each weight and candidate (1.7 GB for the encoder of BERT-base and five);
    kronecker, one A for each distinct input (540 MB).

    Args:
        form: `"projected"`, `"kronecker"` or `"diagonal"`.
        draws: of outputs for each example; each further one costs a backward pass and lowers the noise.
        seed: of the draws.
        bf16: of the projected form: products in bfloat16; None where a CPU is made for them.
        progress: show a progress bar.
    """

    def __init__(
        self,
        form: str = "projected",
        draws: int = 1,
        seed: int = 0,
        bf16: bool | None = None,
        progress: bool = False,
    ):
        self.form, self.draws = check_choice("form", form, FORMS), check_count("draws", draws)
        self.seed, self.bf16, self.progress = seed, bf16, progress

    def forward_passes(self, space: PrecisionSpace, batches: int) -> float:
        return batches * (1.5 + (4.0 if self.form == "projected" else 2.0) * self.draws)

    def score(self, model: nn.Module, space: PrecisionSpace, batches: Iterable[Mapping]) -> dict[str, Tensor]:
        layers, given = open_matrices(model, space), batches_on(model, batches)
        scores = self._projected if self.form == "projected" else self._kronecker
        with InputRecorder(open_inputs(model, space)) as inputs:
            found = scores(model, layers, given, inputs)
        drawn = sum(map(len, given)) * self.draws
        found |= {input_of(name): 0.5 * total / drawn for name, total in inputs.totals.items()}
        return {name: never_rising(table) for name, table in found.items()}

    def _projected(self, model: nn.Module, layers: _Layers, given: list[Batch], inputs: InputRecorder):
        recording = ProjectionRecorder(layers, readers(model, layers), self.progress)
        with recording as recorder, bf16_products(model, self.bf16):
            for batch, backward in self._passes(model, given, inputs):
                recorder.begin(len(batch))
                backward()
                recorder.finish()
        drawn = sum(map(len, given)) * self.draws
        return {
            name: 0.5 * (total + recorder.unseen(name) if isinstance(layers[name][0], nn.Embedding) else total) / drawn
            for name, total in recorder.totals.items()
        }

    def _kronecker(self, model: nn.Module, layers: _Layers, given: list[Batch], inputs: InputRecorder):
        parts = {
            (name, number): module
            for name, modules in readers(model, layers).items()
            for number, module in enumerate(modules)
        }
        with MomentRecorder(parts, self.form == "diagonal") as moments:
            for _, backward in self._passes(model, given, inputs, moments):
                backward()
        drawn = sum(map(len, given)) * self.draws
        tables: dict[str, Tensor] = {}
        for key, module in track(parts.items(), "scoring", disable=not self.progress):
            name = key[0]
            table = _kronecker_table(module, layers[name][1], moments.inputs(key), moments.gradients[key], drawn)
            tables[name] = tables[name] + table if name in tables else table
        return tables

    def _passes(
        self, model: nn.Module, given: list[Batch], inputs: InputRecorder, moments: MomentRecorder | None = None
    ):
        """Run forward; yield each batch with its backward pass, once for each draw."""
        reached = tables(model)
        generator = torch.Generator(reached[0].device).manual_seed(self.seed)
        with differentiating(model, reached):
            for batch in track(given, "gradients", disable=not self.progress):
                if moments is not None:
                    moments.mask = batch.mask
                outputs = decisions_of(model.config, model(**batch.inputs), batch.mask)
                if moments is not None:
                    moments.flush()
                for draw in range(self.draws):
                    loss = sampled_loss(outputs, generator)
                    last = draw + 1 == self.draws
                    inputs.begin(len(batch))
                    yield (
                        batch,
                        lambda loss=loss, last=last: torch.autograd.grad(
                            loss, reached, retain_graph=not last, allow_unused=True
                        ),
                    )
                    inputs.finish()


@torch.no_grad()
def _kronecker_table(module: nn.Module, spec: WeightSpec, inputs: Moment, gradients, drawn: int) -> Tensor:
    """`(groups, candidates)`."""
    gradients = torch.as_tensor(gradients, device=module.weight.device) / drawn
    columns = []
    for error in rounding_errors(module.weight, spec):
        weighted = _weighted_squares(error, inputs, gradients, isinstance(module, nn.Embedding))
        columns.append(0.5 * spec.layout.reduce(weighted, "sum").double())
    return torch.stack(columns, dim=1)


def _weighted_squares(error: Tensor, inputs: Moment, gradients: Tensor, table: bool) -> Tensor:
    """Twice each weight's share of the score: `(out, in)`."""
    total = torch.as_tensor(inputs.total, device=error.device)
    if table:
        often = total + 0.5
        return error.square() * (often / often.sum()).unsqueeze(1) * gradients
    mean = total / max(inputs.tokens, 1)
    spread = error @ mean if mean.dim() == 2 else error * mean
    return error * spread * gradients.reshape(-1, 1)
