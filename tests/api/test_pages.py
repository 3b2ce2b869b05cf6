"""The dashboard's files, as a browser gets them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from qqmem.api import pages
from qqmem.api.pages import HEADERS
from qqmem.errors import NotFound
from tests.api.conftest import Service, Stage, make_settings, running

FOLDER = Path(str(files("qqmem"))) / "dashboard"
OUTSIDE = re.compile(
    r"""(?:src|href)\s*=\s*["'](?:https?:)?//|from\s*["']https?:|@import|url\(\s*["']?(?:https?:)?//"""
)


def paths() -> Iterator[str]:
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            yield path.relative_to(FOLDER).as_posix()


async def test_the_page_comes_without_a_token_and_may_run_nothing_but_its_own_scripts(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path, token="the-right-secret"), Stage()) as service:
        answer = await service.http.get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert (policy["img-src"], policy["form-action"]) == ("'self' data:", "'self'")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


async def test_every_file_of_the_package_is_served_as_what_it_is(service: Service) -> None:
    types = {"js": "text/javascript", "mjs": "text/javascript", "css": "text/css", "html": "text/html"}
    given = list(paths())
    assert "index.html" in given
    for path in given:
        answer = await service.http.get(f"/dashboard/{path}")
        ending = path.rpartition(".")[2]
        if ending in ("md", "LICENSE") or "." not in path:
            continue  # carried along for people
        assert answer.status_code == 200, path
        assert answer.content == (FOLDER / path).read_bytes()
        assert answer.headers["content-type"].startswith(types.get(ending, ""))
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


async def test_what_has_not_changed_is_not_sent_again(service: Service) -> None:
    first = await service.http.get("/")
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["etag"] == f'"{hashlib.sha256(first.content).hexdigest()[:32]}"', (
        "another content, another tag"
    )
    again = await service.http.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"]
    other = await service.http.get("/", headers={"If-None-Match": '"another"'})
    assert other.content == first.content


NOTHING = [
    b"../app.py",
    b"%2e%2e/app.py",
    b"..%2fapp.py",
    b"vendor/../../app.py",
    b"./index.html",
    b"/etc/passwd",
    b"%2fetc%2fpasswd",
    b".hidden.js",
    b"index.html/",
    b"index.html%00.js",
    b"..\\app.py",
    b"no-such.js",
    b"index.py",
    b"vendor",
    b"",
]


async def test_nothing_else_is_given_away(service: Service) -> None:
    for path in NOTHING:
        answer = await service.http.get("/", extensions={"target": b"/dashboard/" + path})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path


@pytest.mark.parametrize("name", ["a b.js", "a\\b.js", "C:b.js", "a\n.js"])
def test_a_file_whose_name_may_mean_another_place_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(NotFound):
        pages._read(tmp_path, name)


@pytest.mark.parametrize("path", [path for path in paths() if path.endswith((".html", ".css", ".js"))])
def test_the_page_loads_nothing_from_elsewhere(path: str) -> None:
    assert OUTSIDE.search((FOLDER / path).read_text("utf-8")) is None


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert all(re.search(r"\ssrc=", tag) for tag in re.findall(r"<script[^>]*>", page))
