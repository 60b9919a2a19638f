"""Old names of what has moved: they answer for one release, and say where it is."""

import warnings
from pkgutil import resolve_name
from typing import Any


def moved(old: str, new: str) -> Any:
    """What `new` names, `"package.module:name"`, with a DeprecationWarning that says so."""
    words = new.replace(":", ".")
    warnings.warn(f"{old} is now {words}; its old name goes with the next release", DeprecationWarning, stacklevel=3)
    return resolve_name(new)
