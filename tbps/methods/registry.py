"""From the settings of a method to the method.

A config class names the module of its method in `MODULE` and imports nothing of it; that module holds `build`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tbps.config.methods.method import MethodConfig
from tbps.data.fields import FIELDS, Field
from tbps.methods.method import Method


def build_method(config: MethodConfig, *, image_px: tuple[int, int], num_identities: int = 0) -> Method:
    """The method with random weights. ValueError: its module cannot be imported, or has no `build` that makes a
    method.

    num_identities: of the training pairs; a method that does not ask for it is not told.
    """
    build = getattr(module_of(config), "build", None)
    if build is None:
        raise ValueError(f"{config.MODULE} has no function build(config, *, image_px), which makes the method; add it")
    told = {"num_identities": num_identities} if config.needs(image_px).identities else {}
    method = build(config, image_px=image_px, **told)
    if not isinstance(method, Method):
        raise ValueError(
            f"{config.MODULE}.build returned a {type(method).__name__}, expected a subclass of tbps.methods.method.Method,"
            " whose members the loop and the evaluation call; derive it from that class"
        )
    return method


def fields_for(config: MethodConfig) -> Mapping[str, Field]:
    """The further fields of a pair that the method may ask for: those that every one may, and those of its own module."""
    return {**FIELDS, **getattr(module_of(config), "FIELDS", {})}


def module_of(config: MethodConfig) -> Any:
    """The module that makes the method."""
    try:
        return importlib.import_module(config.MODULE)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{config.MODULE}.".startswith(f"{error.name}."):
            raise
        kind = type(config)
        raise ValueError(
            f"{kind.__module__}.{kind.__qualname__}.MODULE is {config.MODULE!r}, which cannot be found ({error}); expected"
            " the dotted name of the module that holds its build function"
        ) from error
