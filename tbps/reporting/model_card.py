"""The model card of an exported model: what it is, what it was trained on, its scores as found in results, its use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tbps.config.run import Run
from tbps.evaluation.metric_names import METRICS
from tbps.reporting.published import PUBLISHED_METRICS
from tbps.reporting.results import final_metrics, notes, rule_in_words

CODE_LICENCE = "Apache-2.0"
INTENDED_USE = """\
For research on retrieving pictures of people by descriptions, and for searching collections that you may lawfully search.
It ranks pictures by likeness to words: a high score says nothing about who somebody is. Do not decide about a person by it,
and do not use it to watch, identify or follow people without a legal basis and their knowledge; in many countries both are
regulated or forbidden. It has the blind spots of its training data, in whom they show and in how people are described;
nothing here has measured how well it does for different groups of people."""
TERMS = """\
The code is Apache-2.0. The weights are a derivative of what they were trained on and started from: CUHK-PEDES, ICFG-PEDES,
RSTPReid and other sets are given for research alone, on terms that you must have agreed to yourself, and some forbid passing
on what is made of them. Whoever hands this model on, or uses it, has to keep to them."""


def model_card(
    run: Run,
    *,
    step: int,
    num_parameters: int,
    heads: Sequence[str],
    left_out: Sequence[str],
    results: Sequence[dict[str, Any]],
    files: Mapping[str, str],
    licence: str,
    git: Mapping[str, Any] | None,
) -> str:
    """Markdown with the head that the Hugging Face hub reads.

    step: optimiser steps behind the weights; heads: what the weights hold beside the encoders, and left_out: what of the
    run they do not hold, a phrase each; results: as the run has them; files: a phrase on each file of the folder; licence:
    empty where nobody has said one.
    """
    parts = [
        _head(licence),
        f"# {run.recipe}/{run.name}\n",
        "Finds pictures of a person by a sentence: an image encoder and a caption encoder give unit vectors, whose dot"
        " product ranks the pictures. Trained and exported by `tbps`.\n",
        _model(run, num_parameters, heads, left_out),
        _training(run, step, git),
        _metrics(run, results),
        _use("search.py" in files),
        "## Files\n\n" + _bullets(f"`{name}`: {phrase}" for name, phrase in files.items()),
        f"## Intended use\n\n{INTENDED_USE}\n",
        f"## Licence\n\n{licence + chr(10) * 2 if licence else ''}{TERMS}\n",
    ]
    return "\n".join(parts)


def _head(licence: str) -> str:
    """`license: other` unless it is a name that the hub knows."""
    name = licence.lower() if licence.lower() in ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0") else "other"
    tags = ("text-based-person-search", "person-retrieval", "text-to-image-retrieval")
    return "\n".join(["---", f"license: {name}", "library_name: tbps", "tags:", *(f"- {tag}" for tag in tags), "---", ""])


def _model(run: Run, num_parameters: int, heads: Sequence[str], left_out: Sequence[str]) -> str:
    captioning, (height, width) = run.data.captioning, run.data.image_px
    words = f"{captioning.max_words} words and " if captioning.max_words else ""
    lines = [
        f"Method: {type(run.method).__name__}; {num_parameters / 1e6:.1f} million parameters in the file",
        f"Images: {height} x {width}, resized ({run.data.evaluation_pixels.interpolation}, antialiased), not cropped",
        f"Captions: at most {words}{captioning.max_tokens} tokens, cleaned by the rule `{captioning.cleaning}`",
        f"Beside the encoders the file holds: {'; '.join(heads) or 'nothing'}",
        f"Left out, as only training reads it: {'; '.join(left_out) or 'nothing'}",
    ]
    lines += [f"Low-rank adapters (rank {run.lora.rank}, on {run.lora.targets}) are merged into the weights"] * run.lora.on
    return "## Model\n\n" + _bullets(lines)


def _training(run: Run, step: int, git: Mapping[str, Any] | None) -> str:
    start = ", ".join(f"{name} `{value}`" for name, value in asdict(run.start).items() if value) or "random weights"
    lines = [
        f"Data: {', '.join(run.data.sources or (run.data.benchmark,))}"
        + (f", its first {run.data.limit_pairs} pairs alone" if run.data.limit_pairs else ""),
        f"Start: {start}",
        f"Steps: {step} of {run.data.batch_pairs} pairs; {run.schedule.epochs:g} epochs planned",
        f"Learning rate: {run.optim.lr:g} at its highest, weight decay {run.optim.weight_decay:g}",
        f"Seed: {run.loop.seed}; precision: {run.loop.precision}",
        "Every other setting: `config.json`",
    ]
    if git:
        lines.append(f"Code: commit `{git['commit']}`{', with changes' if git['dirty'] else ''}")
    return "## Training\n\n" + _bullets(lines)


def _metrics(run: Run, results: Sequence[dict[str, Any]]) -> str:
    if not results:
        return "## Metrics\n\nNot scored: the run has no results.\n"
    names = [*METRICS]
    rows = [
        [one["benchmark"], one["split"], one["purpose"], rule_in_words(metrics), *(f"{metrics[name]:.2f}" for name in names)]
        for one in results
        for metrics in [final_metrics(one)]
    ]
    text = "## Metrics\n\nText to image, 0 to 100. One training with one seed"
    text += f" ({run.loop.seed}): no mean over seeds. Equal similarities rank by gallery order.\n\n"
    text += _table(["data", "split", "what", "ranking", *names], rows)
    for one in results:
        size = one["size"]
        said = [f"{size['captions']} captions, {size['images']} images, {size['identities']} people", *notes(one)]
        text += f"\n{one['benchmark']} {one['split']} ({one['purpose']}): {'; '.join(said)}.\n"
    return text + _published(results)


def _published(results: Sequence[dict[str, Any]]) -> str:
    """Published figures of the splits that were scored, where these are whole and the same."""
    figures = {
        (figure["system"], figure["benchmark"], figure["source"]): figure for one in results for figure in one["published"]
    }
    if not figures:
        return ""
    rows = [[*key[:2], *(f"{figure[name]:.2f}" for name in PUBLISHED_METRICS), key[2]] for key, figure in figures.items()]
    return "\nPublished on the same test splits:\n\n" + _table(["system", "data", *PUBLISHED_METRICS, "source"], rows)


def _use(with_search: bool) -> str:
    text = """## Use

    import tbps

    model = tbps.load("THIS_FOLDER")  # or hf:NAMESPACE/NAME
    model.embed_text(["a woman in a red coat"]) @ model.embed_images(["a.jpg", "b.jpg"]).T
"""
    if with_search:
        text += "\nWithout `tbps` and torch, with numpy, onnxruntime and pillow alone:\n\n"
        text += '    python search.py PICTURES "a woman in a red coat"\n'
    return text


def _bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is no border."""
    cells = [list(head), ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
