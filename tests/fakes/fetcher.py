"""An internet of the test's own."""

from dataclasses import dataclass, field
from pathlib import Path

from domain.errors import DownloadTooLarge, UrlNotAllowed
from tests.fakes.gate import Gate


@dataclass
class FakeFetcher:
    """A Fetcher over `pages`: bytes, or the error that comes instead; nothing else may be reached.

    `gate` holds every fetch; `targets` are the files that were to be written.
    """

    pages: dict[str, bytes | Exception] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    targets: list[Path] = field(default_factory=list)

    async def fetch(self, url: str, target: Path, *, max_bytes: int) -> int:
        """Write the page; see the contract."""
        await self.check(url)
        self.targets.append(target)
        await self.gate.pass_through()
        page = self.pages[url]
        if isinstance(page, Exception):
            raise page
        if len(page) > max_bytes:
            raise DownloadTooLarge(f"larger than {max_bytes} bytes", max_bytes=max_bytes)
        with target.open("xb") as file:
            file.write(page)
        return len(page)

    async def check(self, url: str) -> None:
        """Raise UrlNotAllowed for what is not among the pages."""
        if url not in self.pages:
            raise UrlNotAllowed()
