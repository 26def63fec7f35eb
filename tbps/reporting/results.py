"""Results as JSON: every number with the rules and the weights it was made by, so that it can be made again."""

from __future__ import annotations

import datetime
import itertools
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tbps.evaluation.metric_names import METRICS
from tbps.reporting.published import published_for
from tbps.runs.atomic_file import write_json
from tbps.runs.versions import versions_of

if TYPE_CHECKING:
    import torch

    from tbps.evaluation.direction import Direction
    from tbps.evaluation.evaluate import Evaluated
    from tbps.evaluation.ranking_order import Rule

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "results"
"""Folder of results inside a run folder."""
LIBRARIES = ("tbps", "torch", "numpy", "tokenizers")
Purpose = Literal["final", "validation", "zero-shot", "cross-set", "trial"]
"""`zero-shot`: not trained on the benchmark at all; `cross-set`: fine-tuned on another benchmark; `trial`: by other rules
than the run's own, before its end, or once more."""
PURPOSES: tuple[Purpose, ...] = ("final", "validation", "zero-shot", "cross-set", "trial")
"""In the order in which a report shows them."""
_MEASURED = ("benchmark", "split", "recipe", "run", "config_hash", "weights_sha256", "precision", "size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What was evaluated, on what."""

    benchmark: str
    split: str
    purpose: Purpose
    recipe: str
    run: str
    """Name of the run."""
    config_hash: str
    weights: str
    """The checkpoint or weights file."""
    weights_sha256: str
    step: int
    """Optimiser steps behind the weights; 0 = not trained here."""
    precision: str
    device: str
    """The machine in words: see `device_name`."""
    chunker: str = ""
    """Who found the attribute chunks of training, with its version; empty where the method has none."""


def device_name(device: torch.device) -> str:
    """For example "NVIDIA H100" or "cpu (x86_64, 1 thread)"."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {threads} {'thread' if threads == 1 else 'threads'})"


def make_results(evaluated: Evaluated, provenance: Provenance, *, now: datetime.datetime | None = None) -> dict[str, Any]:
    """Everything as plain JSON values. `now`: the date to write, else the clock's (UTC)."""
    figures, no_figures_because = published_for(
        provenance.benchmark,
        provenance.split,
        num_captions=evaluated.num_captions,
        num_images=evaluated.num_images,
    )
    return {
        "format": FORMAT,
        **asdict(provenance),
        "size": {
            "captions": evaluated.num_captions,
            "images": evaluated.num_images,
            "identities": evaluated.num_identities,
            "cut_captions": evaluated.num_cut_captions,
        },
        "text_to_image": _direction(evaluated.text_to_image, evaluated.rule),
        "image_to_text": _direction(evaluated.image_to_text, evaluated.rule),
        "ties": "descending, equal values by ascending gallery index",
        "queries_without_match": "misses in rank_k, left out of mAP and mINP",
        "published": [asdict(figure) for figure in figures],
        "no_published_because": no_figures_because,
        "versions": versions_of(LIBRARIES),
        "processes": evaluated.num_processes,
        "seconds": {"embed": round(evaluated.embed_s, 2), "rank": round(evaluated.rank_s, 2)},
        "date": (now or datetime.datetime.now(datetime.UTC)).isoformat(timespec="seconds"),
    }


def _direction(direction: Direction, rule: Rule) -> dict[str, Any]:
    """Metrics of each ranking with the rule it was made by."""
    coarse_rule = {"rule": {"rerank_k": 0, "itc_weight": 1.0}}
    # With an itc_weight of 0 matching alone ranks the candidates: similarity chose them and orders what it left out.
    reranked_rule = {"rerank_k": direction.num_candidates, "tail": rule.tail, "itc_weight": rule.itc_weight}
    reranked_rule |= {"as_on_processes": rule.processes} if rule.processes > 1 else {}
    return {
        "coarse": {**asdict(direction.coarse), **coarse_rule},
        "reranked": None if direction.reranked is None else {**asdict(direction.reranked), "rule": reranked_rule},
        "chance": asdict(direction.chance),
    }


def final_metrics(results: Mapping[str, Any]) -> dict[str, Any]:
    """Text to image: re-ranked where that was done, else by similarity."""
    direction = results["text_to_image"]
    metrics: dict[str, Any] = direction["reranked"] or direction["coarse"]
    return metrics


def final_file(run_folder: Path, benchmark: str) -> Path:
    """Where the final result lies, once there is one."""
    return run_folder / FOLDER / f"final-{benchmark}-test.json"


def write_results(run_folder: Path, results: dict[str, Any]) -> Path:
    """Write `results/<purpose>-<benchmark>-<split>.json`; a trial's name also tells its rules and its checkpoint.

    The same evaluation again replaces what it wrote; nothing else is lost: another one gets the next free number. A final
    result of other weights, left by an earlier training in this folder, becomes a trial.
    """
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    stem = _stem(results)
    file = folder / f"{stem}.json"
    for number in itertools.count(2):
        found = _lying_there(file)
        if found is None or _what(found) == _what(results):
            break
        if results["purpose"] == "final":
            kept = write_results(run_folder, {**found, "purpose": "trial"})
            logger.warning("%s was of other weights (%s): it is kept as %s", file, found["weights"], kept.name)
            break
        file = folder / f"{stem}-{number}.json"
    write_json(file, results)
    return file


def _lying_there(file: Path) -> dict[str, Any] | None:
    """Earlier results; None where there are none, or none that can be read."""
    try:
        return read_file(file) if file.exists() else None
    except ValueError as error:
        logger.warning("replaced: %s", error)
        return None


def _stem(results: Mapping[str, Any]) -> str:
    stem = f"{results['purpose']}-{results['benchmark']}-{results['split']}"
    if results["purpose"] != "trial":
        return stem
    rule = final_metrics(results)["rule"]
    words = [f"k{rule['rerank_k']}", *([f"tail-{rule['tail']}"] if rule["rerank_k"] else [])]
    words += [f"similarity-{rule['itc_weight']:g}"] if rule["rerank_k"] and rule["itc_weight"] else []
    words += [f"as-on-{rule['as_on_processes']}"] if "as_on_processes" in rule else []
    words += ["image-to-text"] if results["image_to_text"]["reranked"] else []
    return "-".join([stem, *words, Path(results["weights"]).name])


def _what(results: Mapping[str, Any]) -> list[Any]:
    """What was measured by which rules: all that decides the numbers, but for the machine."""
    directions = (results["text_to_image"], results["image_to_text"])
    rules = [
        metrics and metrics["rule"] for direction in directions for metrics in (direction["coarse"], direction["reranked"])
    ]
    return [*(results[name] for name in _MEASURED), *rules]


def read_results(run_folder: Path) -> list[dict[str, Any]]:
    """All results of a run folder, the final ones first. ValueError names a file of another kind."""
    found = [read_file(file) for file in result_files(run_folder)]
    return sorted(found, key=lambda results: PURPOSES.index(results["purpose"]))


def result_files(run_folder: Path) -> list[Path]:
    """All files of results of a run folder."""
    return sorted((run_folder / FOLDER).glob("*.json"))


def read_file(file: Path) -> dict[str, Any]:
    """One file of results. ValueError: it cannot be read, is of another kind, or lacks what a table shows."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"results file {file} cannot be read: {error}; remove it or evaluate again") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        what = results.get("format") if isinstance(results, dict) else type(results).__name__
        raise ValueError(f"results file {file} has format {what}, expected {FORMAT}; remove it or evaluate again")
    try:
        _check_whole(results)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"results file {file} is not whole ({error!r}); remove it or evaluate again") from error
    return results


def _check_whole(results: Mapping[str, Any]) -> None:
    """KeyError, TypeError or ValueError where something is missing that tables show."""
    metrics = final_metrics(results)
    _ = rule_in_words(metrics), [float(metrics[name]) for name in METRICS], _what(results)
    _ = PURPOSES.index(results["purpose"]), dict(results["size"]), results["date"], results["no_published_because"]
    _ = [figure["system"] for figure in results["published"]]


def rule_in_words(metrics: dict[str, Any]) -> str:
    """How a ranking was made, in a few words."""
    rule = metrics["rule"]
    if not rule["rerank_k"]:
        return "similarity"
    added = f", matching + {rule['itc_weight']:g} similarity" if rule["itc_weight"] else ""
    added += f" as on {rule['as_on_processes']} processes" if "as_on_processes" in rule else ""
    return f"re-ranked k={rule['rerank_k']}{added}, tail by {rule['tail']}"


def notes(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the numbers, a clause each."""
    found = []
    missing, cut = results["text_to_image"]["coarse"]["num_without_match"], results["size"]["cut_captions"]
    if missing:
        counted = results["queries_without_match"]
        found.append(f"{missing} captions have no image of their identity in the gallery: {counted}")
    if cut:
        found.append(f"{cut} captions were cut at the cap of words or tokens")
    if results["no_published_because"]:
        found.append(f"no published figures beside these: {results['no_published_because']}")
    return found


def metric_rows(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What a table shows of one evaluation: label and metrics, both directions, each with chance."""
    rows: list[tuple[str, dict[str, Any]]] = []
    for name, words in (("text_to_image", "text to image"), ("image_to_text", "image to text")):
        direction = results[name]
        ways: Sequence[dict[str, Any] | None] = (direction["reranked"], direction["coarse"])
        rows += [(f"{words}, {rule_in_words(metrics)}", metrics) for metrics in ways if metrics]
        rows.append((f"{words}, chance", direction["chance"]))
    return rows
