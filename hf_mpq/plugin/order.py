"""The order of names in a config, where it decides something: JSON files of transformers are sorted."""

from collections.abc import Mapping, Sequence


def lost_order(rules: Mapping, transforms: Mapping) -> dict[str, list[str]]:
    """Names of each mapping whose order is not the alphabetic one."""
    found = {name: list(mapping) for name, mapping in _ordered(rules, transforms).items()}
    return {name: names for name, names in found.items() if names != sorted(names)}


def put_in_order(rules: dict, transforms: dict, order: Mapping[str, Sequence[str]]) -> None:
    """Sort mappings as `lost_order` told of them, in place; one that has other names now stays as it is."""
    for name, mapping in _ordered(rules, transforms).items():
        names = order.get(name, ())
        if set(names) == set(mapping):
            content = {key: mapping[key] for key in names}
            mapping.clear()
            mapping.update(content)


def _ordered(rules: Mapping, transforms: Mapping) -> dict[str, Mapping]:
    """Where later names win or come later: rules, transforms, and the transforms of each rule."""
    of_rules = {f"rules.{name}": one["transforms"] for name, one in rules.items() if "transforms" in one}
    return {"rules": rules, "transforms": transforms, **of_rules}
