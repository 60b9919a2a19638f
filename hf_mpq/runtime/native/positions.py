"""What scores get from where tokens stand, as plain data for the kernel."""

from functools import cached_property

import torch
from torch import Tensor, nn

from ...nn import PackedLinear
from . import structures
from .fit import Unfit
from .forms import Form


class Positions:
    """Mixin of a plan: biases by distance, turned queries and keys, and positions with matrices of their own."""

    form: Form
    modules: list[nn.Module]
    _body: nn.Module

    def _relative(self, described: structures.Encoder) -> None:
        if self.form.relative is None:
            return
        span = self._body.config.max_position_embeddings
        with torch.no_grad():
            biases = self._body.get_submodule(self.form.relative).compute_position_bias(torch.zeros(1, span, 1))[0]
        by_distance = torch.cat([biases[:, 1:, 0].flip(1), biases[:, 0]], 1)  # of key minus query, ascending
        described.relative, described.span = self._floats(by_distance), span

    def _turns(self, described: structures.Encoder) -> None:
        """Cosines and sines of every position, as the model itself makes them."""
        if self.form.rotary is None:
            return
        config, rotary = self._body.config, self._module(self._body, self.form.rotary)
        positions = torch.arange(config.max_position_embeddings).unsqueeze(0)
        with torch.no_grad():
            found = [rotary(torch.zeros(1), positions, kind) for kind in self._kinds]
        halves = [torch.cat([part[0].chunk(2, -1)[0] for part in one], -1) for one in found]
        turns = torch.stack(halves)
        described.turns, described.turn_kinds, described.turn_positions = self._floats(turns), *turns.shape[:2]

    @cached_property
    def _kinds(self) -> list[str]:
        return sorted(set(self._body.config.layer_types))

    @cached_property
    def _places(self) -> Tensor | None:
        """Of each distance, query minus key, ascending, the row of the table of positions; None where attention has
        none."""
        config = self._body.config
        if self.form.disentangled is None or not config.relative_attention:
            return None
        owner, span = self._body.get_submodule(self.form.disentangled), config.max_position_embeddings
        buckets = owner.get_rel_pos(torch.zeros(1, span, 1))[0]  # of query and key
        by_distance = torch.cat([buckets[0, 1:].flip(0), buckets[:, 0]])
        half = len(owner.get_rel_embedding()) // 2
        return (by_distance + half).clamp(0, 2 * half - 1).to(torch.int32)

    def _projected_positions(self, attention: nn.Module, attend: list[PackedLinear]) -> list[int | None]:
        """Of a layer, what its scores get from distances: positions through matrices of their own, or those of keys and
        queries."""
        config, owner = self._body.config, self._body.get_submodule(self.form.disentangled)
        norms = [module for name, module in owner.named_children() if name == "LayerNorm"]
        self.modules += [owner.rel_embeddings, *norms]
        query, key, _ = attend
        if not config.share_att_key:
            key, query = (getattr(attention, name, None) for name in ("pos_key_proj", "pos_query_proj"))
            self.modules += [module for module in (key, query) if module is not None]
        found = []
        for kind, matrix in (("c2p", key), ("p2c", query)):
            if kind not in config.pos_att_type:
                found.append(None)
                continue
            with torch.no_grad():
                positions = matrix(owner.get_rel_embedding())
            if positions.shape[1] != attend[0].out_features:
                raise Unfit("heads were taken out of its attention, but not out of its positions")
            found.append(self._floats(positions.t().float()))
        return found

    def _distances(self, described: structures.Encoder) -> None:
        if self._places is not None:
            described.places, described.distances = self._pointer(self._places), (len(self._places) + 1) // 2
            described.place_count = len(self._body.get_submodule(self.form.disentangled).get_rel_embedding())
