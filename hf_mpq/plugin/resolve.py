"""From a user's config to the table of what applies to each weight."""

import re
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers.utils import logging

from ..core import (
    ActivationSpec,
    Assignment,
    AttentionSpec,
    MatrixAssignment,
    Pattern,
    PrecisionSpace,
    SubgroupLayout,
    WeightSpec,
    pattern_of,
    pattern_word,
    search,
)
from ..nn import Family, body_of, family_of, relative_names
from ..nn.construction import class_from_config
from ..nn.embedding import can_be_quantized
from ..nn.fitting import check_shape
from ..nn.naming import part_name, part_of
from ..weights import ACTIVATIONS, ENCODINGS, GATES, MASKS, QUANTIZERS
from .counts import counted
from .fields import ConfigFields
from .inputs import input_spec
from .layer_options import layer_options
from .summary import resolved_lines
from .unknown_families import warn_unknown
from .widths import check_widths, with_widths

logger = logging.get_logger(__name__)


def resolve(config: ConfigFields, model: nn.Module) -> PrecisionSpace:
    """The `PrecisionSpace` of a model; neither the config nor the model is changed.

    Raises:
        ValueError: when nothing in the model is in scope, or an assignment does not fit its sub-groups.
    """
    family = family_of(model)
    modules = _modules(model)
    roles = _roles(model, family, modules)
    assignment = Assignment.from_dict(config.assignment) if config.assignment else None
    _check_known(assignment, model, {*modules, *(family.projections if family is not None else ())})
    weights = {}
    for name, role in roles.items():
        if not _excluded(config, name):
            spec = _spec(config, model, family, name, role, modules[name], assignment)
            if spec is not None:
                weights[name] = spec
    if not weights:
        raise ValueError(f"nothing to quantize in this {type(model).__name__}: no layer is in scope")
    if family is None:
        warn_unknown(model, set(weights))
    check_widths(weights, model, family)
    _warn_unused(config, set(modules), type(model).__name__)
    norms = _norms(config, model, modules) if family is not None else ()
    space = PrecisionSpace(
        weights=weights,
        norms=norms,
        links=tuple(family.links(model)) if family is not None else (),
        attention=_attention(config),
        norm_dtype=config.float_dtype,
        norm_precisions=config.bits if config.nested and config.switchable_norms else (),
        architecture=_architecture(model),
    )
    space = replace(space, **counted(model, family, modules, space))
    logger.info("resolved precision space:\n%s", "\n".join(resolved_lines(space)))
    return space


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Relative name to module, of the model inside where that alone is quantized."""
    part = part_name(model)
    inside = ((name, m) for name, m in model.named_modules() if not part or f"{name}.".startswith(f"{part}."))
    relative = relative_names(model)
    return {relative(name): module for name, module in inside}


def check_applied(config: ConfigFields, space: PrecisionSpace) -> None:
    """Raise ValueError when activation bits of the config's assignment are not those of its space."""
    given = config.assignment.get("activation_bits", {}) if config.assignment else {}
    for name, bits in given.items():
        spec = space.weights.get(name)
        if spec is not None and (spec.activation is None or spec.activation.bits != bits):
            raise ValueError(
                f"{name}: the assignment has {bits} bits for its input, and activation_bits leaves it "
                "float: leave out one of them"
            )


def check_activation(config: ConfigFields) -> None:
    """Raise ValueError when a config for a float model names what only packed models have."""
    if ACTIVATIONS[config.activation].packed_form:
        others = sorted(name for name in ACTIVATIONS if not ACTIVATIONS[name].packed_form)
        raise ValueError(
            f"activation={config.activation!r} is what learned ranges and bases are packed as; choose one of "
            f"{', '.join(map(repr, others))}"
        )


def _architecture(model: nn.Module) -> dict[str, Any]:
    """Where a class is found that makes the model, or its encoder, from a config, and the config without its
    quantization."""
    part = part_of(model)
    kind = class_from_config(part) or type(part)
    config = {key: value for key, value in part.config.to_dict().items() if key != "quantization_config"}
    return {"module": kind.__module__, "class": kind.__qualname__, "config": config}


def _roles(model: nn.Module, family: Family | None, modules: dict[str, nn.Module]) -> dict[str, str]:
    """Role of each matrix in the default scope."""
    if family is None:
        inside = (n for n, m in modules.items() if isinstance(m, nn.Linear) and re.search(r"\.\d+\.", n))
        return dict.fromkeys(inside, "encoder")
    roles = dict.fromkeys((n for n in family.embeddings if can_be_quantized(modules.get(n))), "embedding")
    roles |= dict.fromkeys((n for n in family.projections if isinstance(modules.get(n), nn.Linear)), "projection")
    return roles | dict.fromkeys(family.encoder_names(model), "encoder")


def _check_known(assignment: Assignment | None, model: nn.Module, names: set[str]) -> None:
    """Raise ValueError when an assignment names a matrix that no head of this model has."""
    unknown = [name for name in assignment.matrices if name not in names] if assignment is not None else []
    if unknown:
        raise ValueError(
            f"the assignment names {len(unknown)} matrices that this {type(model).__name__} does not have, first "
            f"{unknown[0]!r}; use one that was made for this architecture and number of layers"
        )
    if assignment is not None:
        check_shape(assignment)


def _warn_unused(config: ConfigFields, names: set[str], kind: str) -> None:
    """Say once which patterns match nothing: a misspelt one would go unnoticed."""
    unused = [pattern for pattern in config.rules if not any(search(pattern, name) for name in names)]
    unused += [word for word in config.modules_to_not_convert or () if not any(_is_part(word, name) for name in names)]
    if unused:
        logger.warning_once(f"these patterns match no layer in scope of this {kind}: {unused}")


def _excluded(config: ConfigFields, name: str) -> bool:
    return any(_is_part(word, name) for word in config.modules_to_not_convert or ())


def _is_part(word: str, name: str) -> bool:
    """Whether `word` is the name or some of its parts between dots."""
    return f".{word}." in f".{name}."


def _spec(config, model, family, name, role, module, assignment) -> WeightSpec | None:
    """What applies to one matrix; None leaves it float."""
    chosen = with_widths(layer_options(config, name, role), name, role, family)
    given = assignment.matrices.get(name) if assignment is not None else None
    if assignment is not None and given is None:
        logger.warning_once(f"{name} is in scope but not in the assignment; it stays float")
        return None
    if chosen["bits"] is None and given is None:
        return None
    layout = SubgroupLayout.of(
        _word(chosen["groups"]),
        module.weight.shape,
        family.shards(name) if family and role == "encoder" else 1,
        family.heads(name, body_of(model).config) if family and role == "encoder" else None,
    )
    candidates, bits = _candidates(name, chosen, given, layout)
    nested = candidates if chosen["quantizer"] == "nested" else ()
    encoding = _encoding(chosen, candidates, bits is None)
    spec = WeightSpec(
        layout=layout,
        candidates=candidates,
        bits=None if nested else bits,
        kind="embedding" if role == "embedding" else "linear",
        role=role,
        quantizer=chosen["quantizer"],
        quantizer_options=chosen["quantizer_options"],
        gate="fixed" if given is not None and not nested else chosen["gate"],
        gate_options={} if given is not None else chosen["gate_options"],
        **_source(config, chosen, bits is not None),
        mask=chosen["mask"],
        mask_options=_mask_options(chosen, module.weight) if chosen["mask"] else {},
        transforms=chosen["transforms"],
        activation=input_spec(config, name, chosen, assignment, candidates, bits),
        nested=nested,
        calls=family.calls(body_of(model).config) if family and role == "encoder" else 1,
        bias=getattr(module, "bias", None) is not None,
        floats={b: ENCODINGS[encoding].floats(b, nested) for b in range(1, 9)},
        scale_dtype=config.scale_dtype,
        float_dtype=config.float_dtype,
        tie=chosen["tie"],
        affine=_affine(config, name, role, module),
        rank=0 if role == "embedding" else min(chosen["low_rank"], *layout.shape),
    )
    return _with_pattern(name, spec, tuple(map(pattern_of, chosen["patterns"] or ())), given and given.keep_of)


def _with_pattern(name: str, spec: WeightSpec, patterns: tuple[Pattern, ...], given: Pattern | None) -> WeightSpec:
    """The spec with its choice of N:M patterns, decided where an assignment gives one; without a mask and a choice in
    the config that of the assignment is taken as it is."""
    if given is not None and given not in (patterns or (spec.keep_of if spec.mask else given,)):
        wanted = f"patterns {', '.join(map(pattern_word, patterns))}" if patterns else f"{spec.keep_of or 'all'}"
        raise ValueError(
            f"{name}: the assignment keeps {given} weights of every block, the config {wanted}; use mask='n:m' with "
            "those mask_options, or patterns with it among them"
        )
    patterns = patterns or ((given,) if given is not None and spec.mask is None else ())
    uneven = next((pattern_word(one) for one in patterns if spec.layout.shape[1] % one[1]), None)
    if uneven is not None:
        raise ValueError(
            f"{name} has rows of {spec.layout.shape[1]} inputs, which blocks of {uneven!r} do not fill: leave that "
            "pattern out for it by a rule"
        )
    spec = spec.with_patterns(patterns) if patterns else spec
    return spec if given is None or not patterns else spec.with_pattern(given)


def _source(config: ConfigFields, chosen: dict, decided: bool) -> dict:
    """Bit planes that a gate selects are a float weight once it is decided which."""
    if decided and (GATES[config.gate_name].selects_planes or GATES[chosen["gate"]].selects_planes):
        return {"source": "float-master", "source_options": {}}
    return {"source": chosen["source"], "source_options": chosen["source_options"]}


def _mask_options(chosen: dict, weight: Tensor) -> dict:
    """Those of the config; where only the weight says how much is kept, and it is there, with that."""
    options = chosen["mask_options"]
    if not MASKS[chosen["mask"]].measured or weight.is_meta:
        return options
    return {"density": int(weight.count_nonzero()) / max(weight.numel(), 1), **options}


def _affine(config: ConfigFields, name: str, role: str, module: nn.Module) -> tuple[str, ...]:
    """What is stored for each input channel of a linear layer; without a bias nothing can make up for a shift."""
    matching = (parts for pattern, parts in config.input_affine.items() if search(pattern, name, whole=True))
    named = {part for parts in matching for part in parts}
    if role == "embedding":
        return ()
    return tuple(sorted(named if module.bias is not None else named - {"shift"}))


def _word(groups: int | str) -> int | str:
    return int(groups) if isinstance(groups, str) and groups.isdigit() else groups


def _candidates(
    name: str, chosen: dict, given: MatrixAssignment | None, layout: SubgroupLayout
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Precisions to choose from, and the bits of each sub-group where they are decided."""
    if given is not None:
        if len(given.bits) != layout.count:
            raise ValueError(
                f"{name}: the assignment has {len(given.bits)} sub-groups, groups={chosen['groups']!r} "
                f"gives {layout.count}; use the groups that the assignment was made with"
            )
        open_to = chosen["bits"] if isinstance(chosen["bits"], tuple | list) else ()
        return given.nested or tuple(sorted({*given.bits, *open_to})), given.bits
    if isinstance(chosen["bits"], int):
        return (chosen["bits"],), (chosen["bits"],) * layout.count
    return tuple(sorted(set(chosen["bits"]))), None


def _encoding(chosen: dict, candidates: tuple[int, ...], searched: bool) -> str:
    """The encoding that the chosen quantizer writes; raises ValueError when the gate cannot choose for it."""
    small = SubgroupLayout((1, 1))
    quantizer = QUANTIZERS.make(chosen["quantizer"], small, candidates, options=chosen["quantizer_options"])
    if searched:
        GATES.make(chosen["gate"], 1, candidates, options=chosen["gate_options"]).decide_for(quantizer)
    return quantizer.encoding


def _norms(config: ConfigFields, model: nn.Module, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """Normalisation layers of the body."""
    body = {id(module) for module in body_of(model).modules()}
    found = (n for n, module in modules.items() if isinstance(module, nn.LayerNorm) and id(module) in body)
    return tuple(name for name in found if not _excluded(config, name))


def _attention(config: ConfigFields) -> AttentionSpec | None:
    if config.attention_bits is None:
        return None
    operands = ActivationSpec(config.activation, config.attention_bits, config.activation_options)
    return AttentionSpec(operands, ActivationSpec("probabilities", config.attention_bits))
