"""`tbps serve`: a page in the browser that searches an index of pictures."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
from pathlib import Path

from tbps.search_command import add_model_argument
from tbps.training.stop_signals import StoppedBySignal

TOKEN_VARIABLE = "TBPS_SERVE_TOKEN"
_PACKAGES = ("starlette", "uvicorn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbps serve`."""
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder that tbps index wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, default=8765, help="default: 8765; 0 = any that is free")
    parser.add_argument(
        "--token",
        nargs="?",
        const="",
        help=f"whoever asks must know it; made and printed where none is given; also read from {TOKEN_VARIABLE}, which"
        " others on this machine do not see. Beyond 127.0.0.1 there always is one",
    )
    parser.add_argument(
        "--blur-faces",
        action="store_true",
        help="blur the upper part of each person in all pictures, where an upright person's head is; no face is looked for",
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="write the access log there (default: on stderr)")
    add_model_argument(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Serve until a signal. ValueError: the index, the address or a package cannot be used."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"{missing[0]} is not installed, expected it for tbps serve; install it: pip install 'tbps[search]'"
        )
    from tbps.finished import load_model
    from tbps.search.index import Index
    from tbps.search.searcher import Searcher
    from tbps.serving.access_log import AccessLog
    from tbps.serving.app import make_app
    from tbps.serving.desk import Desk
    from tbps.serving.guard import Guard
    from tbps.serving.listening import is_loopback, open_door, serve

    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    index = Index.open(given.index)
    token = given.token if given.token is not None else os.environ.get(TOKEN_VARIABLE) or None
    door = open_door(given.host, given.port, token)
    log, desk = AccessLog(given.log), None
    try:
        desk = Desk(Searcher(index, load_model(given.weights or index.manifest.source)), blurs=given.blur_faces)
        app = Guard(make_app(desk), token=door.token, names=door.names, any_address=not is_loopback(door.host), log=log)
        sys.stdout.write(f"{index.num_pictures:,} pictures at {door.address}\n")
        sys.stdout.flush()
        serve(app, door)
    except StoppedBySignal as stop:
        if desk is not None and desk.is_computing:
            # Nobody waits for that answer any more, and it may take a minute: the interpreter would wait for its thread.
            sys.stderr.write("tbps: stopped as asked\n")
            sys.stderr.flush()
            os._exit(int(stop.code or 0))
        raise
    finally:
        door.listening.close()
        log.close()
        if desk is not None:
            desk.close()
