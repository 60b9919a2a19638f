"""What a user says: the config that goes into `from_pretrained` and into `config.json`."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn
from transformers.quantizers import register_quantization_config
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..core import PrecisionSpace
from ..format import FORMAT_VERSION, check_finished, check_version
from .fields import OPTIONAL, ConfigFields
from .order import lost_order
from .resolve import resolve
from .written import check_fields, reading

logger = logging.get_logger(__name__)


@dataclass
class MPQConfig(ConfigFields, QuantizationConfigMixin):
    """Mixed-precision quantization of an encoder.

    Args:
        method: a published system; it fills every field that is not given.
        bits: one fixed precision for every encoder weight (1 to 8; 0 prunes), or the candidates of a search.
        groups: sub-groups per matrix: a count, `"channel"` (one row each), `"head"`, `"matrix"` or `"columns:<count>"`.
        activation_bits: of the inputs of quantized linear layers: one number, the candidates of a search, `"weights"`
            for those of the matrix (the highest of its sub-groups, at least 2), or None for float. Projections have
            the highest candidate.
        embedding_bits: of embedding tables, one scale per row: one precision, candidates of a search, or None for
            float. `"auto"` is 8, except that `compress` opens the word table to 2 to 8 bits where the budget counts it.
        projection_bits: of linear layers around the encoder (mapping-in, pooler, head transforms); None: float.
        attention_bits: of query, key, value and probabilities in the attention products; None leaves them float.
        assignment: bits per sub-group from an `Assignment`, a file that it wrote, or its dictionary; wins over `bits`.
        budget: what open gates are projected into when they are decided, such as `"12MB"` or `"2.5bits"`; several,
            `["encoder:20MiB", "activations:2500kB"]` or `"encoder:20MiB + activations:2500kB"`, are met at once.
        quantizer: weight quantizer, a part: a registered name (`"symmetric"`, `"lsq"`, `"minmax"`), or a name with
            options, `{"name": "lsq", "two_bits": "ternary"}` or `Part("lsq", two_bits="ternary")`. What is kept is the
            name, and the options as `quantizer_options`; so they stand in `config.json`, and can be given.
        gate: part; None is `"fixed"` for one precision, `"switch"` when nested, else `"softmax"`.
        source: of the float weight, a part.
        mask: part (`"element"`, `{"name": "n:m", "kept": 2, "block": 4}`) or None.
        patterns: of N:M sparsity to choose from for each encoder matrix, such as `("dense", "2:4", "1:4")`, where
            `"2:4"` keeps two of every four inputs of a row; in place of `mask`. The allocator `"schemes"` chooses.
        quantizer_options, gate_options, source_options, mask_options, activation_options: options of the part, where it
            is given by its name alone.
        transforms: registered transforms of the float weight to their options, such as `{"unit-rows": {}}`, or a list
            of parts, in the order in which they are applied.
        nested: the candidates share one set of codes, and `set_precision` switches between them.
        switchable_norms: with `nested`, each precision has its own normalisation parameters.
        activation: activation quantizer of linear inputs and attention operands, a part.
        modules_to_not_convert: names, or parts of names between dots, that stay float.
        rules: pattern (a regular expression searched in the relative name) to options that win over the fields above;
            `{"bits": None}` leaves a matrix float. `{"tie": r"\\1"}` gives matrices with the same word (a template of
            the match) the same bits. Later rules win over earlier ones.
        scale_dtype: stored type of scales, `"float16"` or `"float32"`.
        float_dtype: stored type of biases and norms.
        storage: `"trainable"` or `"packed"`; set by `pack`, not by hand.
        resolved: the resolved table in words; written when a model is quantized, for people to read.
        low_rank: rank of a correction that is added to each encoder weight, 0 for none; it is zero until
            `hf_mpq.nn.correct_low_rank` fits it, and counts in every budget.
        input_affine: pattern of whole relative names to what is stored for each input channel of those linear layers:
            `["scale"]` or `["scale", "shift"]` (a layer without a bias only scales). Set by `suppress_outliers`; given
            before, it makes room for them in a budget.
        order: of the names in `rules` and `transforms`, where a file would lose it; written when saving.
        shapes: weights whose shape differs from what the model's config gives; set when saving.
        precision: relative name to bits of the nested matrices that are used below what is stored; set by
            `set_precision`.
        packed: what the shapes of the packed tensors depend on; set by `pack`.
        shape: what the float model is reduced to before anything else: `"layers:4"`, `"layers:0+2+5"`, or several of
            `"layers:4,hidden:192,heads:6,rows:768"`; a mapping says the same. Layers that are only counted are chosen
            by a rule, `"choose:even"` (the default), `"first"`, or `"influence"`, which looks at examples and so
            belongs to `hf_mpq.compress`. Of rows, heads and hidden dimensions those of largest weights stay. Without
            `heads` their size stays, and there are fewer where `hidden` is smaller. A model that has these sizes
            already stays as it is. Budgets that are ratios are of the reduced model; the default teacher is the whole
            one.
        origin: the Hub name of the float model, the command that packed it and the versions of the libraries, for the
            model card; set by `from_pretrained`, `quantize` and `pack`.
        inside: name of the model inside the saved one that was quantized alone, `encoder` say; set when saving.
        format_version: of the packed layout.

    Raises:
        ValueError: for a field that is out of range, naming what is allowed.
    """

    def resolve(self, model: nn.Module) -> PrecisionSpace:
        """The table of what applies to each weight of `model`, trainable or a meta skeleton."""
        return resolve(self, model)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, with every field that decides anything: it reads back as the same config whatever the method
        and the defaults become later, and where the method is not registered."""
        content = {one.name: _copied(getattr(self, one.name)) for one in fields(self)}
        content |= {"order": lost_order(self.rules, self.transforms)}
        kept = {key: value for key, value in content.items() if value or key not in OPTIONAL}
        for name in ("bits", "embedding_bits", "patterns"):
            if isinstance(kept.get(name), tuple):
                kept[name] = list(kept[name])
        if self.storage == "packed":
            kept["note"] = "run `import hf_mpq` before loading this model, or its weights will be random"
        return kept

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as `to_dict`."""
        return self.to_dict()

    @classmethod
    def from_dict(cls, config_dict: Mapping, return_unused_kwargs: bool = False, **kwargs):
        """Read `to_dict`'s form, with `kwargs` over it. Fields that a newer version wrote and this one does not know
        are left out; earlier versions did not write what equals the defaults, or the method's fields.

        Raises:
            PackedFormatError: a field has another type, or holds what a config cannot; no path in it is opened.
        """
        check_finished(config_dict)
        check_version(config_dict.get("format_version", FORMAT_VERSION))
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(config_dict) - known - {"note"})
        if unknown:
            logger.warning(f"this version of hf_mpq does not know {unknown} in quantization_config; left out")
        used = {key: value for key, value in kwargs.items() if key in known}
        with reading("quantization_config"):
            content = {key: value for key, value in config_dict.items() if key in known}
            check_fields(content)
            config = cls(**content | used)
        if return_unused_kwargs:
            return config, {key: value for key, value in kwargs.items() if key not in used}
        return config


def _copied(value: Any) -> Any:
    """As `dataclasses.asdict` copies plain data, in a third of its time."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value if value is None or isinstance(value, str | int | float) else copy.deepcopy(value)


if "mpq" not in AUTO_QUANTIZATION_CONFIG_MAPPING:
    register_quantization_config("mpq")(MPQConfig)
