"""The command line of a recipe: `python recipes/mars.py cuhk-pedes --data.root DIR`. Nothing heavy is imported early."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from tbps.config.run import Run

Variants = Mapping[str, Callable[[], Run]]


def recipe_command(variants: Variants, *, about: str, arguments: list[str] | None = None) -> None:
    """Read a variant and overrides, then train. `about` is the recipe's label, printed by --help."""
    program = Path(sys.argv[0]).name
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(f"{about.strip()}\n\nusage: {program} {{{','.join(variants)}}} [--help] [overrides]\n")
        raise SystemExit(0 if given else 2)
    if given[0] not in variants:
        raise SystemExit(f"{program}: found variant {given[0]!r}, expected one of {', '.join(variants)}")
    if "-h" in given or "--help" in given:
        from tbps.config.help import help_text

        sys.stdout.write(help_text(variants[given[0]](), program=f"{program} {given[0]}"))
        raise SystemExit(0)
    run = read_overrides(variants[given[0]], given[1:], program=f"{program} {given[0]}")
    from tbps.run import train_run

    raise SystemExit(train_run(run))


def read_overrides(variant: Callable[[], Run], arguments: list[str], *, program: str) -> Run:
    """The variant's run with `--a.b value` overrides applied; errors of the configuration become one sentence."""
    import tyro

    try:
        default = variant()
        return tyro.cli(
            Annotated[Run, tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff],
            default=default,
            args=arguments,
            prog=program,
        )
    except ValueError as error:
        raise SystemExit(f"{program}: {error}") from error
