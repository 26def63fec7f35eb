"""The answer to a query as one HTML file: thumbnails inside of it, no script, everything escaped."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tbps.runs.atomic_file import write_text
from tbps.search.index import Index
from tbps.search.preparing import in_words
from tbps.search.query import Query
from tbps.search.searcher import Found


def write_page(path: Path, index: Index, query: Query, found: Found) -> None:
    """Write the page. OSError: it cannot be written."""
    environment = Environment(
        loader=PackageLoader("tbps", "search"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    parts = [
        {
            "weight": part.weight,
            "size": abs(part.weight),
            "text": part.sentence or (f"picture {part.row}" if part.row is not None else "a picture"),
        }
        for part in query.parts
    ]
    hits = [
        {
            "thumbnail": base64.b64encode(index.thumbnail(hit.picture.row)).decode("ascii"),
            "name": hit.picture.name,
            "similarity": hit.similarity,
            "score": hit.score,
            "taken": in_words(hit.picture.taken_s),
            "camera": hit.picture.camera,
        }
        for hit in found.hits
    ]
    text = environment.get_template("page.html").render(
        title=", ".join(str(part["text"]) for part in parts),
        parts=parts,
        hits=hits,
        remarks=found.remarks,
        num_allowed=f"{found.num_allowed:,}",
    )
    write_text(path, text.encode(errors="replace").decode())
