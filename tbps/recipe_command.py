"""The command line of a recipe: `python recipes/mars.py cuhk-pedes --data.root DIR`. Nothing heavy is imported early."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, NoReturn

from tbps.config.run import Run
from tbps.training.importing import importing

Variants = Mapping[str, Callable[[], Run]]


def recipe_command(variants: Variants, *, about: str, arguments: list[str] | None = None) -> None:
    """Read a variant and overrides, then train. `about` is the recipe's label, printed by --help."""
    program = Path(sys.argv[0]).name
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(f"{about.strip()}\n\nusage: {program} {{{','.join(variants)}}} [--help] [overrides]\n")
        raise SystemExit(0 if given else 2)
    if given[0] not in variants:
        _refuse(program, f"found variant {given[0]!r}, expected one of {', '.join(variants)}")
    if "-h" in given or "--help" in given:
        from tbps.config.help import help_text

        sys.stdout.write(help_text(variants[given[0]](), program=f"{program} {given[0]}"))
        raise SystemExit(0)
    run = read_overrides(variants[given[0]], given[1:], program=f"{program} {given[0]}")
    with importing(first=arguments is None):
        from tbps.run import train_run
    if arguments is not None:  # whoever calls this goes on
        raise SystemExit(train_run(run))
    from tbps.training.process_end import end_process

    try:
        status = train_run(run)
    except SystemExit as end:  # stopped as asked
        status = end.code if isinstance(end.code, int) else 1
    end_process(status)


def read_variants(recipe: str) -> Variants:
    """VARIANTS of a recipe file."""
    path = Path(recipe)
    if path.suffix != ".py" or not path.is_file():
        beside = ", ".join(sorted(str(file) for file in path.parent.glob("*.py") if "VARIANTS" in file.read_text("utf-8")))
        raise ValueError(f"recipe {recipe!r} is not there" + (f", expected one of {beside}" if beside else ""))
    spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    variants: Variants | None = getattr(module, "VARIANTS", None)
    if not variants:
        raise ValueError(f"{recipe} is no recipe: it has no VARIANTS")
    return variants


def read_overrides(variant: Callable[[], Run], arguments: list[str], *, program: str) -> Run:
    """The variant's run with `--a.b value` overrides applied; whatever is wrong with them is one sentence and status 2."""
    import tyro

    drawn = io.StringIO()
    try:
        default = variant()
        with redirect_stderr(drawn):
            return tyro.cli(
                Annotated[Run, tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff],
                default=default,
                args=arguments,
                prog=program,
            )
    except ValueError as error:
        _refuse(program, str(error))
    except SystemExit as end:
        if end.code != 2:  # help, or a signal that came meanwhile
            raise
        _refuse(program, _sentence(drawn.getvalue()) + f"; {program} --help lists every setting")


def _refuse(program: str, sentence: str) -> NoReturn:
    sys.stderr.write(f"{program}: {sentence}\n")
    raise SystemExit(2)


_WHERE = re.compile(r"^Error parsing \w[\w.]*: ")  # before a sentence that names the setting itself
_RULE = re.compile(r"[\u2500-]{8,}")
_FRAME = "\u2502\u256d\u256e\u2570\u256f|+ "


def _sentence(box: str) -> str:
    """What tyro says in a box: its first section, and of "Perhaps you meant" the names."""
    sections = [" ".join(line.strip(_FRAME) for line in part) for part in _sections(box)]
    named = [re.findall(r"--[\w.-]+", part) for part in sections[1:] if part.startswith("Perhaps you meant")]
    hint = f" (perhaps {' or '.join(dict.fromkeys(named[0]))})" if named and named[0] else ""
    return _WHERE.sub("", " ".join(sections[0].split())).rstrip(".") + hint


def _sections(box: str) -> list[list[str]]:
    """The lines between the rules; the first rule is the box's lid, which holds a title."""
    sections: list[list[str]] = []
    for line in box.splitlines():
        if _RULE.search(line) or not sections:
            sections.append([])
        else:
            sections[-1].append(line)
    return [section for section in sections if section] or [["the settings cannot be read"]]
