"""A run as JSON and back, field by field. The settings of a method carry a "kind": the dotted name of their class."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tbps.config.methods.method import MethodConfig
from tbps.config.run import Run

Json = dict[str, Any]


def to_json(value: Any, *, place: bool = True) -> Json:
    """A config dataclass as plain dicts, lists and scalars.

    place: False leaves out fields marked `place`: where a run happens, not what it computes.
    """
    hints = _hints(type(value))  # type: ignore[arg-type]
    out: Json = {}
    for field in fields(value):
        if place or not field.metadata.get("place"):
            out[field.name] = _encode(getattr(value, field.name), hints[field.name], place)
    return out


def run_from_json(data: Mapping[str, Any]) -> Run:
    """The run that `to_json` wrote. ValueError names an unknown or missing field, or a value of another type."""
    run = _decode(Run, data, "run")
    assert isinstance(run, Run)
    return run


@cache
def _hints(kind: type) -> Json:
    return get_type_hints(kind)


def _encode(value: Any, hint: Any, place: bool) -> Any:
    if is_dataclass(value):
        kind = {"kind": _kind(type(value))} if hint is MethodConfig else {}
        return {**kind, **to_json(value, place=place)}
    if isinstance(value, tuple):
        items = get_args(hint)
        items = (items[0],) * len(value) if items[-1] is Ellipsis else items
        return [_encode(entry, item, place) for entry, item in zip(value, items, strict=True)]
    if value is not None and float in (hint, *get_args(hint)):
        return float(value)  # 4 and 4.0 must give one text, hence one hash
    return value


def _decode(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, UnionType):  # a value, or None
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
        return None if value is None else _decode(hint, value, path)
    if isinstance(hint, type) and is_dataclass(hint):
        return _decode_dataclass(hint, value, path)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{path} is {value!r}, expected one of {list(get_args(hint))}")
        return value
    if get_origin(hint) is tuple:
        return _decode_tuple(hint, value, path)
    # bool is an int in Python, and JSON writes 1.0 and 1 alike
    wanted = (int, float) if hint is float else (hint,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{path} is {value!r}, expected a value of type {hint.__name__}")
    return hint(value)


def _decode_dataclass(cls: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} is {value!r}, expected an object with fields")
    given = dict(value)
    if cls is MethodConfig:
        cls = _method_class(given.pop("kind", None), f"{path}.kind")
    names = [field.name for field in fields(cls)]
    unknown = sorted(set(given) - set(names))
    missing = [name for name in names if name not in given]
    if unknown or missing:
        raise ValueError(
            f"{path} has unknown fields {unknown} and lacks {missing}: it was written by another version;"
            " use that version, or start a new run"
        )
    hints = _hints(cls)
    return cls(**{name: _decode(hints[name], given[name], f"{path}.{name}") for name in names})


def _decode_tuple(hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    items = get_args(hint)
    if not isinstance(value, list):
        raise ValueError(f"{path} is {value!r}, expected a list")
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(value) != len(items):
        raise ValueError(f"{path} has {len(value)} values, expected {len(items)}")
    return tuple(_decode(item, entry, f"{path}[{i}]") for i, (item, entry) in enumerate(zip(items, value)))


def _method_class(kind: Any, path: str) -> type:
    """The settings class of that dotted name. ValueError: it cannot be found, or is none."""
    module, _, name = str(kind).rpartition(".")
    if not module:
        raise ValueError(
            f"{path} is {kind!r}, expected the dotted name of a class: it was written by another version; use that version,"
            " or start a new run"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path} is {kind!r}, which cannot be imported ({error}); put the folder that holds {module.partition('.')[0]}"
            " on PYTHONPATH, or install it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, MethodConfig)):
        raise ValueError(f"{path} is {kind!r}, which holds no settings of a method (a subclass of {_kind(MethodConfig)})")
    return found


def _kind(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
