"""What is answered to which address. Pictures are asked for by the numbers that the index gives them, never by paths.

/                      the page; /page.css, /page.js and what else lies beside it
/api/search?q=...      JSON; see asking.py
/api/picture           JSON of a picture that is sent (POST, its bytes): what stands for it in /api/search; sent_picture.py
/api/about             JSON: number of pictures, cameras, whether the method re-ranks
/api/why?id=17&sentence=...   JSON: what each word adds to the score, and where the picture answers it
/thumbnail/ID          JPEG
/picture/ID            the file, if it still is what was indexed; of a person in a frame, the box alone
/frame/ID              JPEG of the frame in which the person was found, with the box
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tbps.serving.asking import asked, number
from tbps.serving.desk import BusyError, Desk
from tbps.serving.sent_picture import TooLargeError

MEDIA = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
KEPT = {"cache-control": "private, max-age=3600"}
"""Of thumbnails: a row's picture never changes."""
NOT_KEPT = {"cache-control": "no-store"}
_AS_A_PICTURE = {"content-security-policy": "default-src 'none'; sandbox; frame-ancestors 'none'", **NOT_KEPT}

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(desk: Desk) -> Starlette:
    """The application, which knows of no token: `Guard` stands before it."""

    async def search(request: Request) -> Response:
        return JSONResponse(await desk.search(asked(request.query_params.multi_items(), desk.index)), headers=NOT_KEPT)

    async def sent(request: Request) -> Response:
        return JSONResponse(await desk.read_sent(request), headers=NOT_KEPT)

    async def about(_: Request) -> Response:
        return JSONResponse(await desk.about(), headers=NOT_KEPT)

    async def why(request: Request) -> Response:
        given = dict(request.query_params.multi_items())
        if set(given) != {"id", "sentence"}:
            raise ValueError("expected id, the number of a picture, and sentence")
        row = number(given["id"], name="id")
        if not desk.is_live(row):
            raise HTTPException(404, "there is no such picture")
        return JSONResponse(await desk.why(row, given["sentence"]), headers=NOT_KEPT)

    async def thumbnail(request: Request) -> Response:
        try:
            return Response(await desk.thumbnail(_listed(desk, request)), media_type="image/jpeg", headers=KEPT)
        except OSError as error:
            raise HTTPException(404, "the thumbnail cannot be read") from error

    async def picture(request: Request) -> Response:
        try:
            content, media_type = await desk.picture(_listed(desk, request))
        except ValueError as error:
            raise HTTPException(404, f"the picture cannot be shown: {error}") from error
        return Response(content, media_type=media_type, headers=_AS_A_PICTURE)

    async def frame(request: Request) -> Response:
        try:
            content = await desk.frame(_listed(desk, request))
        except ValueError as error:
            raise HTTPException(404, f"the frame cannot be shown: {error}") from error
        return Response(content, media_type="image/jpeg", headers=_AS_A_PICTURE)

    return Starlette(
        routes=[
            *page_routes(),
            Route("/api/search", _said(search)),
            Route("/api/picture", _said(sent), methods=["POST"]),
            Route("/api/about", _said(about)),
            Route("/api/why", _said(why)),
            Route("/thumbnail/{id}", thumbnail),
            Route("/picture/{id}", picture),
            Route("/frame/{id}", frame),
        ],
        exception_handlers={HTTPException: _as_json},
    )


def page_routes() -> list[Route]:
    """Of the files that lie beside this one. They are read once."""
    routes = []
    for file in sorted(files("tbps.serving").iterdir(), key=lambda file: file.name):
        kind = MEDIA.get(file.name.rpartition(".")[2])
        if kind is not None:
            address = "/" if file.name == "page.html" else f"/{file.name}"
            routes.append(Route(address, _constant(file.read_bytes(), kind)))
    return routes


def _constant(content: bytes, media_type: str) -> Endpoint:
    async def endpoint(_: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return endpoint


def _listed(desk: Desk, request: Request) -> int:
    """Number of the picture that the address names, if the index lists it."""
    try:
        row = number(request.path_params["id"], name="the picture")
    except ValueError as error:
        raise HTTPException(404, "there is no such picture") from error
    if not desk.is_live(row):
        raise HTTPException(404, "there is no such picture")
    return row


def _said(endpoint: Endpoint) -> Endpoint:
    """What an asker did wrong becomes a sentence and status 400; too many at once, 503."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooLargeError) else 400, NOT_KEPT)
        except BusyError:
            busy = {"error": "too many searches are waiting; ask again in a moment"}
            return JSONResponse(busy, 503, {"retry-after": "2", **NOT_KEPT})

    return answered


async def _as_json(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, {**(error.headers or {}), **NOT_KEPT})
