"""Pruned rows gone: smaller matrix products with the same outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..core import Link, RowBlock, applies, scores_of
from ..nn import PackedLinear, family_of, relative_modules


class CompactLinear(PackedLinear):
    """A packed layer that computes only some rows, from only some columns.

    Its stored bytes are those of the packed layer, so that saving writes the same file.

    Attributes:
        kept_rows, kept_columns: positions in the full matrix, ascending.
    """

    compacted = True
    chosen_by = ("map", "live_rows", "live_columns")
    """Stored tensors that say what is pruned."""

    @classmethod
    def of(cls, layer: PackedLinear, rows: Tensor, columns: Tensor) -> "CompactLinear":
        """Share the bytes of `layer`; `rows` `(out,)` and `columns` `(in,)` are bool."""
        compact = cls(layer.stored, layer.compute_dtype, layer.device, layer.input_quantizer)
        compact._buffers.update(layer._buffers)
        compact.output_quantizer, compact.precision = layer.output_quantizer, layer.precision
        compact.keep_of = layer.keep_of
        for name, kept in (("kept_rows", rows), ("kept_columns", columns)):
            compact.register_buffer(name, kept.nonzero().flatten(), persistent=False)
        compact.out_features, compact.in_features = len(compact.kept_rows), len(compact.kept_columns)
        return compact.train(layer.training)

    def channel_values(self, name: str) -> Tensor | None:
        full = super().channel_values(name)
        return None if full is None else full[self.kept_columns]

    def integers(self) -> tuple[Tensor, Tensor, Tensor] | None:
        found = super().integers()
        if found is None:
            return None
        levels, scale, offset = (part[self.kept_rows] for part in found)
        return levels[:, self.kept_columns], scale, offset

    @property
    def weight(self) -> Tensor:
        """The decoded weight, `(kept rows, kept columns)`."""
        return self.full_weight()[self.kept_rows][:, self.kept_columns].to(self.compute_dtype)

    @property
    def bias(self) -> Tensor | None:
        """The decoded bias, `(kept rows,)`; None without one."""
        full = super().bias
        return None if full is None else full[self.kept_rows]

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        given = {name: state_dict.get(prefix + name) for name in self.chosen_by if name in self._buffers}
        changed = [name for name, value in given.items() if value is not None and not self._is_stored(name, value)]
        if changed:
            errors.append(
                f"{prefix.removesuffix('.')} is compacted, and the given {', '.join(changed)} prune other "
                "rows or columns than those that are gone: load into a packed model as from_pretrained or "
                "hf_mpq.pack give it, and call hf_mpq.prepare after that"
            )
        else:
            super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)

    def _is_stored(self, name: str, value: Tensor) -> bool:
        return not self.anchor.is_meta and torch.equal(self._buffers[name], value.to(self.device))


@torch.no_grad()
def compact(model: nn.Module) -> nn.Module:
    """Remove folded feed-forward rows and whole pruned heads from a packed model's products, in place.

    Outputs stay as they were, whatever activations are quantized to: what is removed gave exact zeros. At least one row
    and one head are kept. Other pruned rows save bytes, not time, and stay. Saving writes the same packed files.

    Raises:
        ValueError: when the model is not packed, or its family is unknown.
    """
    family = family_of(model)
    layers = dict(relative_modules(model, PackedLinear))
    if not layers:
        raise ValueError("compact needs a packed model: call hf_mpq.pack(model) first")
    if family is None:
        raise ValueError(f"models of type {model.config.model_type!r} cannot be compacted: their links are not known")
    if not any("live_columns" in layer._buffers for layer in layers.values()):
        return model  # every row is read by the layer after it
    keep = {name: Kept(layer) for name, layer in layers.items()}
    layouts = {name: layer.stored.layout for name, layer in layers.items()}
    links = [link for link in family.links(model) if applies(link, layouts)]
    for link in links:
        if link.kind in ("pointwise", "gated"):
            drop_rows(link, _read_columns(layers[link.consumer]), keep)
    heads = _heads_to_drop(links, layers) if family.removable_heads else {}
    for link in links:
        if link.kind == "value" and link.blocks[0] in heads:
            drop_heads(link, heads, keep)
    replace_layers(model, layers, keep)
    tell_attention(model, family, heads)
    return model


class Kept:
    """Masks of the rows and columns of one layer that stay."""

    def __init__(self, layer: PackedLinear):
        rows, columns = layer.stored.layout.shape
        self.rows = torch.ones(rows, dtype=torch.bool, device=layer.device)
        self.columns = torch.ones(columns, dtype=torch.bool, device=layer.device)

    @property
    def whole(self) -> bool:
        return bool(self.rows.all() and self.columns.all())


def _read_columns(consumer: PackedLinear) -> Tensor:
    """Columns that are read, at least one, `(in,)` bool."""
    live = consumer.column_flags().clone()
    live[0] |= not live.any()
    return live


def drop_rows(link: Link, live: Tensor, keep: dict[str, Kept]) -> None:
    """Keep only the `live` `(rows,)` of a feed-forward link."""
    for block in link.blocks:
        keep[block.name].rows[block.start : block.start + block.count] &= live
    keep[link.consumer].columns &= live


def _gives_zero(layer: PackedLinear, block: RowBlock) -> Tensor:
    """Rows of a block that are pruned and have no bias left, `(count,)` bool."""
    layout = layer.stored.layout
    if layout.axis == 1:
        return torch.zeros(block.count, dtype=torch.bool, device=layer.device)
    silent = layout.expand(layer.group_bits()) == 0
    if layer.stored.bias is not None:
        silent &= ~layer.row_flags()
    return silent[block.start : block.start + block.count]


def _heads_to_drop(links: list[Link], layers: Mapping[str, PackedLinear]) -> dict[RowBlock, tuple[Link, Tensor]]:
    """For each value block, its scores link and which heads give nothing: query, key and value all zero."""
    scores = [link for link in links if link.kind == "scores"]
    found = {}
    for value in (link for link in links if link.kind == "value"):
        partner = scores_of(value, scores)
        if partner is None:
            continue
        blocks = (*partner.blocks, value.blocks[0])
        silent = torch.stack([_gives_zero(layers[b.name], b).view(value.heads, -1).all(1) for b in blocks]).all(0)
        silent &= ~layers[value.consumer].column_flags().view(value.heads, -1).any(1)
        silent[0] &= not silent.all()
        if silent.any():
            found[value.blocks[0]] = (partner, silent)
    return found


def drop_heads(value: Link, heads: dict, keep: dict[str, Kept]) -> None:
    """Take the heads of a value link out of its matrices; `heads` as of `_heads_to_drop`."""
    partner, silent = heads[value.blocks[0]]
    for block in (*partner.blocks, value.blocks[0]):
        rows = (~silent).repeat_interleave(block.count // value.heads)
        keep[block.name].rows[block.start : block.start + block.count] &= rows
    keep[value.consumer].columns &= (~silent).repeat_interleave(value.blocks[0].count // value.heads)


def replace_layers(model: nn.Module, layers: Mapping[str, PackedLinear], keep: Mapping[str, Kept]) -> None:
    names = {id(module): name for name, module in model.named_modules()}
    for name, layer in layers.items():
        if not keep[name].whole:
            model.set_submodule(names[id(layer)], CompactLinear.of(layer, keep[name].rows, keep[name].columns))


def tell_attention(model: nn.Module, family, heads: dict) -> None:
    """Attention modules count their heads themselves."""
    modules = dict(relative_modules(model))
    for block, (_, silent) in heads.items():
        prefix = block.name.removesuffix(f".{family.names.value}")
        attention = modules[f"{prefix}.{family.names.attention}"]
        if "num_attention_heads" in vars(attention):
            attention.num_attention_heads = int((~silent).sum())
            if "all_head_size" in vars(attention):  # which some reshape to
                attention.all_head_size = attention.num_attention_heads * attention.attention_head_size
