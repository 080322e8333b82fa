"""A model hub (Hugging Face or a mirror of it) as a source, over plain HTTPS.

The hub says which commit a revision is and which size and hash each file has: sha256 for large files, the hash of
the git blob for small ones. Both are checked; only files that cannot carry code are ever asked for.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from models.catalog import (
    MAX_FILE_BYTES,
    PART_OF_GGUF,
    SPLIT_ADVICE,
    CatalogFile,
    HubMirror,
    Mirror,
    is_model_file,
)
from models.sources.download import download
from models.sources.http import HttpClient
from models.sources.source import Cancellation, DownloadPlan, MirrorFailed, Piece, PlannedFile, Resource, Transfer

HUB_FILE_HOSTS = ("huggingface.co", "*.huggingface.co", "*.hf.co")
_MAX_LISTING = 16 << 20
_MAX_FILES = 500
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_FAVOURITE_QUANTISATION = "q4_k_m"


class HubSource:
    """Downloads the files of a hub's repository at one commit."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    @property
    def label(self) -> str:
        """See Source."""
        return f"hub {self._client.host}"

    def plan(self, mirror: Mirror, wanted: Sequence[CatalogFile], cancellation: Cancellation) -> DownloadPlan:
        """See Source."""
        if not isinstance(mirror, HubMirror):
            raise TypeError("a hub source plans hub mirrors only")
        path = f"api/models/{mirror.repository}/revision/{mirror.revision or 'main'}?blobs=true"
        page = self._client.read(self._client.url(path), "application/json", _MAX_LISTING, cancellation)
        try:
            listing = json.loads(page.body)
            commit = str(listing["sha"])
            siblings = {str(file["rfilename"]): file for file in listing["siblings"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MirrorFailed("the hub's list of files cannot be read") from error
        if not _SHA1.fullmatch(commit):
            raise MirrorFailed("the hub does not say which commit that is")
        names = [file.name for file in wanted] or select_files(list(siblings), mirror.file)
        expected = {file.name: file for file in wanted}
        files = tuple(self._planned(name, siblings, expected.get(name), mirror, commit) for name in names)
        return DownloadPlan(files, {"source": "hub", "repository": mirror.repository, "revision": commit})

    def _planned(
        self, name: str, siblings: Mapping[str, Any], pin: CatalogFile | None, mirror: HubMirror, commit: str
    ) -> PlannedFile:
        entry = siblings.get(name)
        if entry is None:
            raise MirrorFailed(f"{name} is not in the repository")
        size, sha256, git_sha1 = _promise(entry, name)
        if pin is not None and (size != pin.size or sha256 not in (None, pin.sha256)):
            raise MirrorFailed(f"{name} is another file than the catalogue's")
        location = self._client.url(f"{mirror.repository}/resolve/{commit}/{quote(name)}")
        resource = Resource(location, size, pin.sha256 if pin else sha256, git_sha1)
        vouched = "catalogue" if pin else "hub-lfs" if sha256 else "hub-git"
        return PlannedFile(name, size, resource.sha256, (Piece(resource),), vouched)

    def download(self, resource: Resource, target: Path, transfer: Transfer) -> None:
        """See Source."""
        download(self._client, resource, target, transfer)


def _promise(entry: Mapping[str, Any], name: str) -> tuple[int, str | None, str | None]:
    """(size, sha256, hash of the git blob) that the hub gives for a file; one of the hashes is there."""
    large = entry.get("lfs") if isinstance(entry.get("lfs"), dict) else None
    size = (large or entry).get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FILE_BYTES:
        raise MirrorFailed(f"the hub gives no usable size for {name}")
    if large is not None:
        sha256 = str(large.get("sha256", "")).lower()
        if not _SHA256.fullmatch(sha256):
            raise MirrorFailed(f"the hub gives no sha256 for {name}")
        return size, sha256, None
    git_sha1 = str(entry.get("blobId", "")).lower()
    if not _SHA1.fullmatch(git_sha1):
        raise MirrorFailed(f"the hub gives no hash for {name}")
    return size, None, git_sha1


def select_files(names: Sequence[str], choice: str | None) -> Sequence[str]:
    """Which of a repository's files make the model, weights first. Raises MirrorFailed where there are none.

    `choice` names one GGUF file or its quantisation. Without it: safetensors with their configuration,
    else CTranslate2's `model.bin` with its own, else the one GGUF file, or its usual quantisation.
    """
    safe = [name for name in names if is_model_file(name)]
    if len(safe) > _MAX_FILES:
        raise MirrorFailed(f"the repository has more than {_MAX_FILES} files")
    gguf = [name for name in safe if name.endswith(".gguf") and not PART_OF_GGUF.search(name)]
    if choice:
        if not _meant(gguf, choice) and _meant([PART_OF_GGUF.sub(".gguf", name) for name in safe], choice):
            raise MirrorFailed(
                f"'{choice}' is split into several GGUF files, which Ingle does not load: {SPLIT_ADVICE}"
            )
        return [_choose(gguf, choice)]
    weights = [n for n in safe if "/" not in n and n.endswith(".safetensors") and not n.startswith("consolidated")]
    if not weights and "model.bin" in safe and any(name.startswith("vocabulary.") for name in safe):
        weights = ["model.bin"]
    if weights:
        return weights + [n for n in safe if not n.endswith((".safetensors", ".gguf", "model.bin")) and _belongs(n)]
    if gguf:
        return [gguf[0] if len(gguf) == 1 else _choose(gguf, _FAVOURITE_QUANTISATION)]
    if any(PART_OF_GGUF.search(name) for name in safe):
        raise MirrorFailed(f"the repository has only split GGUF files, which Ingle does not load: {SPLIT_ADVICE}")
    raise MirrorFailed("the repository has no safetensors, GGUF or CTranslate2 weights")


def _belongs(name: str) -> bool:
    return "/" not in name or (name[0].isdigit() and name.endswith("/config.json"))


def _meant(files: Sequence[str], choice: str) -> Sequence[str]:
    wanted = choice.lower().removesuffix(".gguf")
    exact = [name for name in files if name.lower().removesuffix(".gguf") == wanted]
    return exact or [name for name in files if re.search(rf"(^|[-._]){re.escape(wanted)}\.gguf$", name.lower())]


def _choose(files: Sequence[str], choice: str) -> str:
    found = _meant(files, choice)
    if len(found) == 1:
        return found[0]
    raise MirrorFailed(f"no one GGUF file is meant by '{choice}': there are {', '.join(files[:10]) or 'none'}")
