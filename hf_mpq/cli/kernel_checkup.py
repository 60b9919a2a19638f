"""What of a packed model runs in one call of the native kernel, as `hf-mpq doctor` says it."""

from .findings import NOTE, OK, Finding

CHECK = "cpu-native"


def kernel_finding(model) -> Finding:
    """Whether the model's encoder runs whole, and if not, why; prepares the model for it."""
    from ..nn import body_of
    from ..runtime import prepare
    from ..runtime.backends import BACKENDS
    from ..runtime.native import NativeEncoder, built, make_native, paths

    reason = BACKENDS[CHECK].unavailable(model)
    if reason is not None:
        return Finding(CHECK, NOTE, f"no integer products here: {reason}")
    if not built():
        return Finding(CHECK, NOTE, "the kernel is not built: install a C++ compiler (g++), then hf_mpq again")
    body = body_of(prepare(model, CHECK))
    if isinstance(body, NativeEncoder):
        return Finding(CHECK, OK, f"{type(body).__name__} runs whole in one call, by {paths()[0]}")
    fallen = f"{type(body).__name__} runs a product at a time, all between them by torch: {make_native(model)}"
    return Finding(CHECK, NOTE, fallen)
