"""Read a JSON file as people pass it around: in any Unicode encoding, or not JSON at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tbps.data.impostor import impostor


def read_json(file: Path) -> Any:
    """What `file` holds. UTF-8, UTF-16 and UTF-32 are told apart by their first bytes, with or without a mark (BOM).

    ValueError says what is wrong with the file and what to do: another encoding, cut short, two lists in one file, a web
    page or a git-lfs pointer in its place.
    """
    content = file.read_bytes()
    if what := impostor(content):
        raise ValueError(f"{file} is not JSON: it is {what}")
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(f"{file} is not valid JSON: {where}; {_advice(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not {error.encoding.upper()} text: byte {error.start} is 0x{error.object[error.start]:02x};"
            " save it as UTF-8 or download it again"
        ) from error
    except (RecursionError, ValueError) as error:  # nested without end; a number of thousands of digits
        raise ValueError(f"{file} is not JSON that can be read: {error}; download it again") from error


def _advice(error: json.JSONDecodeError) -> str:
    if error.msg == "Extra data":
        return "the file goes on after its list has ended: keep one list of all rows, each of them once"
    text = error.doc.rstrip()
    # Inside a string, after a whole part of the list, or inside a word such as "true".
    if error.msg.startswith("Unterminated string") or error.pos >= len(text) or text[-1] not in "]}":
        return "the file ends in the middle: download it again"
    return "correct it there, or download it again"
