"""A whole encoder in one call."""

import inspect
import os
from collections.abc import Mapping
from ctypes import byref

import torch
from torch import Tensor, nn

from ...nn import body_of
from ...nn.packed import active_backend
from ..swapped import Swapped, swap_in, swap_out
from ..watch import Watch
from .fit import Unfit, unfit
from .library import library
from .lowering import Plan
from .structures import Request

NAME = "cpu-native"
READ = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
IGNORED = ("return_dict", "use_cache", "special_tokens_mask", "length")
"""Said about the input, by tokenizers too, and read by no encoder."""
EVERY_TOKEN = ("ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")
"""Ends of the names of models whose heads read no token more than another."""
INSTRUCTIONS = "HF_MPQ_INSTRUCTIONS"
"""Environment variable that names the set of instructions to use; see `paths`."""


class NativeEncoder(Swapped):
    """Mixin that gives an encoder one call for all of it but its pooler. What is masked is not computed: hidden states
    there are 0, and those of the other tokens do not depend on the batch, its padding, or the number of threads, bit
    for bit.

    Where the call cannot give what is asked for (attention weights, hidden states of all layers, gradients, masks of
    their own kind, embeddings instead of ids, the first token for a head where it is padding), or one of the modules
    inside has changed (see `Watch`), the original forward runs.
    """

    kept = ("native",)

    def forward(self, *args, **kwargs):
        """As the original encoder."""
        if not torch.compiler.is_compiling():
            found = self.native.answer(dict(zip(self.native.names, args)) | kwargs)
            if found is not None:
                return found
        return super().forward(*args, **kwargs)


class Native:
    """What a native encoder answers with.

    Args:
        model: prepared for `NAME`.
        body: its encoder.
        attention_dtype: of what attention multiplies, where the machine does.

    Raises:
        Unfit: the kernel cannot run it.
    """

    def __init__(self, model: nn.Module, body: nn.Module, attention_dtype: torch.dtype):
        self.model, self.body = (model,), (body,)  # in tuples: the body keeps this one
        self.bfloat16 = attention_dtype == torch.bfloat16
        self.plan = self._planned()
        pooler = None if self.plan.pooled else getattr(body, "pooler", None)
        apart = set() if pooler is None else set(pooler.modules())
        hooked = [module for module in body.modules() if module is not body and module not in apart]
        self.watch = Watch(body, self.plan.modules, NAME, hooked)
        self._reads_first = model is not body and not type(model).__name__.endswith(EVERY_TOKEN)
        self.names = list(inspect.signature(body.forward).parameters)
        self._run = library().hf_mpq_run

    def _planned(self) -> Plan:
        return Plan(self.model[0], self.body[0], NAME, os.environ.get(INSTRUCTIONS) or None, self.bfloat16)

    def answer(self, given: Mapping[str, object]):
        """What the encoder's forward gives; None where it has to give it itself."""
        body = self.body[0]
        if self._must_not(body, given):
            return None
        mask = given.get("attention_mask")
        if self._reads_first and mask is not None and not mask[:, 0].all():  # padded on the left
            return None
        found = self._run_encoder(body, *(given.get(name) for name in READ))
        if found is None:
            return None
        hidden, pooled = found
        form = self.plan.form
        if form.pool is None:
            return form.output(last_hidden_state=hidden)
        return form.output(
            last_hidden_state=hidden, pooler_output=form.pool(body, hidden) if pooled is None else pooled
        )

    def _must_not(self, body: nn.Module, given: Mapping[str, object]) -> bool:
        ids, config = given.get("input_ids"), body.config
        return (
            active_backend() not in (None, NAME)
            or body.training
            or not isinstance(ids, Tensor)
            or ids.dim() != 2
            or not ids.numel()
            or ids.is_floating_point()
            or any(not _fits(given.get(name), ids) for name in READ)
            or any(_says(value) for name, value in given.items() if name not in (*READ, *IGNORED))
            or given.get("return_dict") is False
            or bool(config.output_attentions or config.output_hidden_states or not config.return_dict)
            or self.watch.changed()
            or (torch.is_grad_enabled() and self.watch.trained())
        )

    def _run_encoder(
        self, body: nn.Module, ids: Tensor, mask: Tensor | None, types: Tensor | None, positions: Tensor | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """`(batch, tokens, hidden)`, and what the pooler makes of them where the kernel has it; None where a row has no
        token, ids are outside of a table, and the like, for which the original forward has its own answers."""
        if positions is None and self.plan.form.after_padding:
            positions = _after_padding(ids, body.embeddings.padding_idx)
        kept = [_whole(ids), None if mask is None else mask.ne(0).expand(ids.shape).contiguous()]
        kept += [None if one is None else _whole(one.expand(ids.shape)) for one in (positions, types)]
        out = torch.empty(*ids.shape, self.plan.hidden)
        pooled = torch.empty(len(ids), self.plan.pooled) if self.plan.pooled else None
        ids, mask, positions, types = (None if one is None else one.data_ptr() for one in kept)
        plan = self.plan
        if plan.moved():
            plan = self.plan = self._planned()
        places = out.data_ptr(), None if pooled is None else pooled.data_ptr()
        request = Request(*out.shape[:2], ids, None, mask, positions, types, *places, torch.get_num_threads())
        return None if self._run(plan.handle, byref(request)) else (out, pooled)


def _says(value: object) -> bool:
    """Whether an argument is given at all; it may be a tensor."""
    return value is not None and value is not False


def _fits(value: object, ids: Tensor) -> bool:
    """Whether something is none, or says one thing for each token."""
    if value is None:
        return True
    return (
        isinstance(value, Tensor)
        and value.device.type == "cpu"
        and value.dim() == 2
        and value.shape[1] == ids.shape[1]
        and value.shape[0] in (1, ids.shape[0])
    )


def _whole(values: Tensor) -> Tensor:
    return values.to(torch.int64).contiguous()


def _after_padding(ids: Tensor, padding: int) -> Tensor:
    real = ids.ne(padding)
    return real.cumsum(1) * real + padding


def make_native(model: nn.Module, attention_dtype: torch.dtype = torch.float32) -> str | None:
    """Give the encoder of a model that is prepared for `NAME` its one call, in place; returns why it cannot have one,
    or None."""
    if library() is None:
        return "the kernel is not built, or of another version: install hf_mpq again"
    body = body_of(model)
    reason = unfit(model, body)
    if reason is None:
        try:
            swap_in(body, NativeEncoder, native=Native(model, body, attention_dtype))
        except Unfit as error:
            reason = str(error)
    return reason


def runs_natively(model: nn.Module) -> bool:
    """Whether the encoder of a prepared model has its one call."""
    return isinstance(body_of(model), NativeEncoder)


def restore_encoders(model: nn.Module) -> None:
    """Make encoders what they were, in place."""
    for module in model.modules():
        swap_out(module, NativeEncoder)
