"""Print the docstrings of the standard library as JSON; run as a script, in an interpreter of its own.

Importing some standard modules has side effects (signal handlers, codecs, deprecation warnings), so `docstrings.py`
starts this file as ``python -I docstring_walker.py MODULE ...`` and reads ``[[module, qualified name, text], ...]``
from its output. It must import nothing but the standard library.
"""

import contextlib
import importlib
import inspect
import io
import json
import pkgutil
import sys
import types
import warnings

UNSAFE = {"__main__", "test", "tests", "idlelib", "turtledemo", "antigravity", "this", "pydoc_data", "lib2to3"}
MEMBERS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    property,
)


def import_quietly(name):
    """The module called `name`, or None where this interpreter does not have it or cannot import it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(name)
    except (Exception, SystemExit):
        return None


def modules_of(name):
    """The module called `name` and, for a package, its submodules, in alphabetical order."""
    module = import_quietly(name)
    if module is None:
        return
    yield module
    if not inspect.ismodule(module) or "__path__" not in vars(module):
        return
    for info in sorted(pkgutil.iter_modules(module.__path__), key=lambda info: info.name):
        if info.name not in UNSAFE:
            yield from modules_of(f"{name}.{info.name}")


def members_of(owner, prefix):
    """``(qualified name, text)`` of each documented member defined by the class `owner` itself."""
    for name, member in sorted(vars(owner).items()):
        if isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        if inspect.isclass(member):
            if member.__qualname__ == f"{owner.__qualname__}.{name}":
                yield f"{prefix}.{name}", own_docstring(member)
                yield from members_of(member, f"{prefix}.{name}")
        elif isinstance(member, MEMBERS):
            yield f"{prefix}.{name}", member.__doc__


def own_docstring(owner):
    """The docstring written in the class itself, not one inherited from a base."""
    return vars(owner).get("__doc__")


def docstrings_of(module):
    """``(qualified name, text)`` of the module and of everything that it defines; the text may be no string."""
    yield "", module.__doc__
    for name, value in sorted(vars(module).items()):
        if inspect.isclass(value) and value.__module__ == module.__name__:
            yield name, own_docstring(value)
            yield from members_of(value, name)
        elif isinstance(value, MEMBERS[:2]) and value.__module__ == module.__name__:
            yield name, value.__doc__


def main(names):
    warnings.simplefilter("ignore")
    found = [
        [module.__name__, name, text]
        for root in names
        for module in modules_of(root)
        for name, text in docstrings_of(module)
        if isinstance(text, str) and text.strip()
    ]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
