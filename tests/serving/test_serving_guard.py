"""Who is let in: tokens, names of this server, other sites' pages; what the access log says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from asker import ADDRESS, NAMES, client_of
from hostile import HOSTILE
from small_world import assert_one_sentence
from starlette.testclient import TestClient

import tbps.serve_command
from tbps.command import main
from tbps.serving.desk import Desk
from tbps.serving.listening import is_loopback, open_door

pytestmark = pytest.mark.xdist_group("serving")  # trained once
TOKEN = "correct-horse-battery"
EVERY = ("/", "/page.js", "/api/about", "/api/search?q=a", "/thumbnail/0", "/picture/0", "/nowhere", "/picture/../x")


def test_every_answer_lets_a_browser_do_nothing_else(client: TestClient) -> None:
    for address in EVERY:
        headers = client.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin" and "server" not in headers
    assert "script-src 'self'" in client.get("/").headers["content-security-policy"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost", "localhost:8765", "127.0.0.1", "127.0.0.1:1", "[::1]:8765", "LOCALHOST.")),
        *(
            (host, 421)
            for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost:x")
        ),
        *((host, 421) for host in ("localhost@evil.example", "evil.example/localhost", "[::2]", "::1", "localhost\u00e9")),
    ],
)
def test_only_own_names_are_answered(client: TestClient, host: str, status: int) -> None:
    answer = client.get("/api/about", headers={"host": host.encode()})
    assert answer.status_code == status, answer.text
    assert status == 200 or "this server is not" in answer.text


def test_with_a_token_any_address_is_a_name_of_the_server(desk: Desk) -> None:
    client = client_of(desk, token=TOKEN, address="http://10.0.0.1:8765")
    assert client.get("/api/about").status_code == 401
    assert client.get("/api/about", headers={"host": "evil.example"}).status_code == 421


def test_pages_of_other_sites_may_not_ask(client: TestClient) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert client.get("/api/about", headers={"sec-fetch-site": site}).status_code == status
    assert client.get("/?q=a", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link in a letter


def test_nothing_is_answered_without_the_token(desk: Desk) -> None:
    client = client_of(desk, token=TOKEN)
    for address in EVERY:
        for headers in (
            {},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": TOKEN},
            {"cookie": "tbps_token=\u00e9"},
        ):
            sent = {name: value.encode() for name, value in headers.items()}
            answer = client.get(address, headers=sent)
            assert answer.status_code == 401 and TOKEN not in answer.text and answer.headers["www-authenticate"] == "Bearer"
        assert client.get(address, params={"token": TOKEN[:-1]}).status_code == 401
    assert client.get("/api/about", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_in_the_address_becomes_a_cookie_once(desk: Desk) -> None:
    client = client_of(desk, token=TOKEN)
    answer = client.get(f"/?q=a+red+coat&token={TOKEN}&plus=b")
    assert answer.status_code == 303 and answer.headers["location"] == "/?q=a+red+coat&plus=b"
    kept = answer.headers["set-cookie"]
    assert f"tbps_token={TOKEN}" in kept and "HttpOnly" in kept and "SameSite=strict" in kept
    assert client.get("/api/about").status_code == 200  # the client keeps cookies
    for address in ("//evil.example/", "/\\evil.example", "/%2f%2fevil.example"):
        location = client.get(f"{ADDRESS}{address}?token={TOKEN}").headers["location"]
        assert re.match(r"/[^/\\]", location), location


def test_the_log_has_a_line_for_each_request_and_no_token(desk: Desk, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    client = client_of(desk, token=TOKEN, log=log)
    client.get(f"/?token={TOKEN}")
    client.get(f"/api/search?q=a&token={TOKEN}x&top=1")
    for text in HOSTILE:
        client.get("/api/search", params={"q": text, "top": 1})
    client.get("/thumbnail/0", headers={"host": "evil.example"})
    lines = log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 + len(HOSTILE) and TOKEN not in log.read_text()
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \S+ (GET|HEAD) \S+ \d{3} \d+ \d+\.\d ms"
    assert all(re.fullmatch(form, line) for line in lines), lines
    assert "GET /?token=... 303 0" in lines[0] and "?q=a&token=...&top=1 " in lines[1] and " 421 " in lines[-1]
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_costs_lines_and_no_answers(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    client = client_of(desk, log=Path("/dev/full"))
    assert [client.get("/api/about").status_code for _ in range(3)] == [200, 200, 200]
    assert_one_sentence(capsys.readouterr().err, "the access log cannot be written", "answered all the same")


def test_a_door_beyond_this_machine_has_a_token() -> None:
    for host, given, has in (("127.0.0.1", None, False), ("127.0.0.1", "", True), ("0.0.0.0", None, True)):
        door = open_door(host, 0, given)
        with door.listening:
            assert bool(door.token) == has and len(door.token) in (0, 32)
            assert door.address.endswith(f"?token={door.token}" if has else "/") and door.names >= NAMES
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "example.org")] == [
        *(True, True, True, True, False, False)
    ]


def test_bad_options_are_one_sentence(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    used = open_door("127.0.0.1", 0, None)
    port = str(used.port)
    try:
        for words, *parts in (
            ((str(index), "--port", port), f"port {port} of 127.0.0.1 is in use; give another one by --port"),
            ((str(index), "--port", "70000"), "--port is 70000, expected 0 to 65535"),
            ((str(index), "--port", "0", "--token", "short"), "the token has 5 characters, expected 16 to 200"),
            ((str(index), "--host", "no such host"), "--host is 'no such host', which is no address of a machine"),
            ((str(index), "--port", "0", "--run", "nowhere"), "nowhere holds no config.json"),
            ((str(index), "--port", "0", "--log", str(tmp_path / "none" / "log")), "No such file or directory"),
            ((str(tmp_path),), "is no index (it has no manifest.json)"),
        ):
            assert main(["serve", *words]) == 2
            assert_one_sentence(capsys.readouterr().err, *parts)
    finally:
        used.listening.close()
    assert os.environ.get("TBPS_SERVE_TOKEN") is None


def test_a_package_that_is_missing_is_named(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tbps.serve_command, "_PACKAGES", ("no_such_package", "uvicorn"))
    assert main(["serve", str(index)]) == 2
    assert_one_sentence(capsys.readouterr().err, "no_such_package is not installed", "pip install 'tbps[search]'")
