"""Classes that stand in for a module's own while it is prepared."""

from functools import cache

from torch import nn


class Swapped:
    """Base of mixins that a module's class is given in front, so that it stays the same object with the same modules.
    Copies are of the original class, without what the mixins keep.

    Attributes:
        kept: names of attributes that only such a mixin reads.
    """

    kept: tuple[str, ...] = ()

    def __reduce_ex__(self, protocol):
        kept = {name for one in type(self).__mro__ for name in vars(one).get("kept", ())}
        state = {name: value for name, value in self.__dict__.items() if name not in kept}
        return _blank, (original_class(type(self)),), state


def original_class(module_class: type[nn.Module]) -> type[nn.Module]:
    """What the class was before any mixin."""
    return next(one for one in module_class.__mro__ if not issubclass(one, Swapped))


def swap_in(module: nn.Module, mixin: type[Swapped], **kept: object) -> None:
    """Give a module a mixin and the attributes that it keeps, in place."""
    vars(module).update(kept)
    module.__class__ = _with(mixin, type(module))


def swap_out(module: nn.Module, mixin: type[Swapped]) -> None:
    """Take a mixin from a module that has it in front, in place."""
    if isinstance(module, mixin):
        module.__class__ = type(module).__bases__[1]
        for name in mixin.kept:
            vars(module).pop(name, None)


@cache
def _with(mixin: type[Swapped], module_class: type[nn.Module]) -> type[nn.Module]:
    """By the same name, which files have."""
    same = {name: getattr(module_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(module_class.__name__, (mixin, module_class), same)


def _blank(module_class: type[nn.Module]) -> nn.Module:
    return module_class.__new__(module_class)
