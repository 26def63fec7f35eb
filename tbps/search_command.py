"""`tbps search`: the pictures of an index that fit a sentence best, as a table, JSON, paths or an HTML page."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps.search.query import Filters, Query
    from tbps.search.searcher import Found, Hit, Searcher


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbps search`."""
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder that tbps index wrote")
    parser.add_argument("sentence", nargs="?", default="", help="whom to find; may end in a weight: 'a red coat:0.5'")
    parser.add_argument("--plus", action="append", default=[], metavar="SENTENCE", help="also this (repeat for more)")
    parser.add_argument("--minus", action="append", default=[], metavar="SENTENCE", help="not this (repeat for more)")
    parser.add_argument("--image", action="append", default=[], type=Path, metavar="PICTURE", help="who looks like this")
    parser.add_argument("--top", type=int, default=20, help="pictures to show (default: 20)")
    parser.add_argument("--path", default="", metavar="GLOB", help="only pictures whose path fits: 'cam_a/*'")
    parser.add_argument("--camera", action="append", default=[], help="only pictures of this camera (repeat for more)")
    parser.add_argument("--after", metavar="TIME", help="only pictures taken then or later: 2026-11-26, 2026-11-26T12:00")
    parser.add_argument("--before", metavar="TIME", help="only pictures taken before")
    parser.add_argument("--rerank", type=int, default=0, metavar="K", help="order the best K by the method's matcher")
    parser.add_argument("--exact", action="store_true", help="make no use of faiss where the index has it")
    add_model_argument(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="all that is known of the pictures")
    shown.add_argument("--paths", action="store_true", help="the files alone, one a line")
    shown.add_argument("--html", type=Path, metavar="PAGE", help="write a page with the pictures")
    parser.add_argument("-0", "--null", action="store_true", help="with --paths: end each with a zero byte, for xargs -0")
    parser.set_defaults(run=run)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """`--run`, of a command that reads an index: `weights`, None for the index's own model."""
    parser.add_argument(
        "--run",
        "--weights",
        type=Path,
        metavar="MODEL",
        dest="weights",
        help="a run folder, what tbps export wrote, or hf:NAMESPACE/NAME (default: the index's own)",
    )


def run(given: argparse.Namespace) -> None:
    """Search and show. ValueError: the query, the index or an option cannot be used."""
    from tbps.finished import load_model
    from tbps.search.index import Index
    from tbps.search.searcher import Searcher

    if given.null and not given.paths:
        raise ValueError("-0 ends paths with zero bytes, and --paths is not given; add it, or leave -0 out")
    query, filters = _query(given), _filters(given)
    index = Index.open(given.index)
    model = load_model(given.weights or index.manifest.source)
    searcher = Searcher(index, model, exact=given.exact)
    found = searcher.search(query, top=given.top, filters=filters, rerank=given.rerank)
    for remark in found.remarks:
        sys.stderr.write(f"tbps: {remark}\n")
    if given.paths:
        ending = b"\0" if given.null else b"\n"
        sys.stdout.buffer.write(b"".join(_file(searcher, hit) + ending for hit in found.hits))
    elif given.json:
        sys.stdout.write(json.dumps(_as_json(searcher, query, found), indent=2) + "\n")
    elif given.html:
        from tbps.search.page import write_page

        write_page(given.html, index, query, found)
        sys.stdout.write(f"{given.html}: {len(found.hits)} pictures\n")
    else:
        sys.stdout.write(_table(found, searcher))


def _query(given: argparse.Namespace) -> Query:
    from tbps.search.query import Part, Query

    sentences = Query.of(given.sentence, plus=tuple(given.plus), minus=tuple(given.minus)).parts if _says(given) else ()
    pictures = []
    for path in given.image:
        try:
            pictures.append(Part(picture=path.read_bytes()))
        except OSError as error:
            raise ValueError(f"--image {path} cannot be read ({error.strerror}); give a picture's file") from error
    return Query(parts=(*sentences, *pictures))


def _says(given: argparse.Namespace) -> bool:
    return bool(given.sentence or given.plus or given.minus or not given.image)


def _filters(given: argparse.Namespace) -> Filters:
    from tbps.search.query import Filters, moment

    return Filters(
        path=given.path,
        camera=tuple(given.camera),
        after_s=None if given.after is None else moment(given.after, name="--after"),
        before_s=None if given.before is None else moment(given.before, name="--before"),
    )


def _file(searcher: Searcher, hit: Hit) -> bytes:
    return os.path.join(os.fsencode(searcher.index.manifest.root), hit.picture.path)


def _table(found: Found, searcher: Searcher) -> str:
    from tbps.search.preparing import in_words

    rows = [("", "similarity", "matching", "taken", "camera", "path")]
    for rank, hit in enumerate(found.hits, start=1):
        score = "" if hit.score is None else f"{hit.score:.4f}"
        taken = in_words(hit.picture.taken_s)
        rows.append((str(rank), f"{hit.similarity:.4f}", score, taken, hit.picture.camera, hit.picture.name))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [place for place in range(len(widths)) if any(row[place] for row in rows[1:])]
    lines = ["  ".join(f"{row[place]:<{widths[place]}}" for place in shown).rstrip() for row in rows]
    said = f"{found.num_allowed:,} of {searcher.index.num_pictures:,} pictures compared in {1000 * found.seconds:.0f} ms"
    return "\n".join([*lines, said]) + "\n"


def _as_json(searcher: Searcher, query: Query, found: Found) -> dict[str, object]:
    from tbps.search.preparing import in_words

    hits = [
        {
            "rank": rank,
            "row": hit.picture.row,
            "path": hit.picture.name,
            "file": os.fsdecode(_file(searcher, hit)),
            "similarity": hit.similarity,
            "score": hit.score,
            "camera": hit.picture.camera,
            "taken": in_words(hit.picture.taken_s),
            "width_px": hit.picture.width_px,
            "height_px": hit.picture.height_px,
            "box": hit.picture.box,
            "offset_s": None if hit.picture.offset_ms is None else hit.picture.offset_ms / 1000,
            "bytes": hit.picture.size,
            "sha256": hit.picture.sha256,
        }
        for rank, hit in enumerate(found.hits, start=1)
    ]
    parts = [{"weight": part.weight, "sentence": part.sentence or None} for part in query.parts]
    return {"query": parts, "hits": hits, "remarks": found.remarks, "pictures": found.num_allowed}
