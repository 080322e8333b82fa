"""Keys: what they open, how they are stored, the file of them, `ingle keys`."""

import asyncio
import contextlib
import hashlib
import hmac
import os
import signal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.access import EVERYBODY, NOBODY, Caller, Scope
from domain.key_ring import BadKey, KeyRing, digest_of, line_of, parse_file, parse_keys, parse_line
from infrastructure.key_file import KeptKeys, change_keys, read_keys
from ingle.exposure import is_loopback
from ingle.keys import keys_of, watch
from ingle.settings import Settings
from ingle.settings_sources import BadSettings, read_settings
from tests.fakes.keys import key_of, stored
from tests.unit.command_line import run

Captured = pytest.CaptureFixture[str]
DIGEST = digest_of("secret")


def test_admin_opens_everything_and_is_never_bound() -> None:
    admin = Caller("a", frozenset({Scope.ADMIN}), owners=frozenset({"x"}), profiles=frozenset({"y"}))
    assert all(admin.may(scope) for scope in Scope)
    assert admin.acts_for("z")
    assert admin.runs("z")
    assert (admin.bound_owners, admin.bound_profiles) == (None, None)
    assert all(EVERYBODY.may(scope) and not NOBODY.may(scope) for scope in Scope)


def test_a_key_is_bound_to_its_owners_and_profiles_or_to_none() -> None:
    bound = parse_line(f"k:jobs+worker:{DIGEST}:a:b|c|profile=qwen:1b").caller
    assert (set(bound.owners), set(bound.profiles)) == ({"a:b", "c"}, {"qwen:1b"})
    assert [bound.acts_for(one) for one in ("a:b", "c", "d")] == [True, True, False]
    assert [bound.runs(one) for one in ("qwen:1b", "c")] == [True, False]
    assert bound.sole_owner is None
    assert parse_line(f"k:jobs:{DIGEST}:c").caller.sole_owner == "c"
    free = parse_line(f"k:jobs:{DIGEST}").caller
    assert free.acts_for("anybody")
    assert (free.sole_owner, free.may(Scope.JOBS), free.may(Scope.INFER, Scope.WORKER)) == (None, True, False)


@pytest.mark.parametrize(
    "line",
    [
        "k", "k:infer", "k:infer:abc", f"k:boss:{DIGEST}", f"k::{DIGEST}", f":infer:{DIGEST}", f"k k:infer:{DIGEST}",
        f"k:infer:{DIGEST.upper()}", f"k:infer:{DIGEST}:a b", f"k:infer:{DIGEST}:profile=", "my-secret-key:x:y",
    ],
)  # fmt: skip
def test_what_is_no_stored_key_is_refused_and_not_repeated(line: str) -> None:
    with pytest.raises(BadKey) as refused:
        parse_line(line)
    assert "secret" not in str(refused.value)
    assert DIGEST not in str(refused.value)


names = st.from_regex(r"[a-z][a-z0-9_.:/@-]{0,12}", fullmatch=True)


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", fullmatch=True),
    st.frozensets(st.sampled_from(Scope), min_size=1),
    st.frozensets(names, max_size=3),
    st.frozensets(names, max_size=3),
)
def test_a_stored_line_is_read_as_it_was_written(
    name: str, scopes: frozenset[Scope], owners: frozenset[str], profiles: frozenset[str]
) -> None:
    caller = Caller(name, scopes, owners, profiles)
    assert parse_line(line_of(caller, DIGEST)).caller == caller


@given(st.text(max_size=80))
@example("\x00")
def test_no_text_is_more_than_refused(text: str) -> None:
    for read in (parse_file, lambda given: parse_keys([given])):
        with contextlib.suppress(BadKey):
            assert all(key.caller.name for key in read(text).keys)


def test_a_key_is_compared_with_every_stored_one_even_after_it_was_found() -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    ring = KeyRing(tuple(stored(name, Scope.INFER) for name in ("a", "b", "c")))
    for shown, found in ((key_of("a"), "a"), (key_of("c"), "c"), ("wrong", None)):
        compared.clear()
        caller = ring.find(shown.encode(), spy)
        assert (caller and caller.name) == found
        digest = hashlib.sha256(shown.encode()).digest()
        assert compared == [(key.digest, digest) for key in ring.keys]


def test_only_digests_are_kept_of_what_the_settings_say() -> None:
    found = read_settings({"INGLE_API_KEYS": f"bare-secret, k:infer:{DIGEST}"})
    ring = found.settings.api_keys
    assert [key.caller.name for key in ring.keys] == ["key-1", "k"]
    caller = ring.find(b"bare-secret")
    assert caller is not None
    assert caller.is_admin
    told = repr(found.settings) + str(found.settings.model_dump()) + str(found.settings.model_dump(mode="json"))
    assert "bare-secret" not in told
    assert DIGEST not in told
    with pytest.raises(BadSettings) as refused:
        read_settings({"INGLE_API_KEYS": "my-secret:oops"})
    assert "my-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, "127.0.0.1"),
        ({"INGLE_API_KEYS": "x"}, "0.0.0.0"),
        ({"INGLE_API_KEYS_FILE": "/k"}, "0.0.0.0"),
        ({"INGLE_API_KEYS": "x", "HTTP_HOST": "127.0.0.1"}, "127.0.0.1"),
        ({"HTTP_HOST": "0.0.0.0"}, "0.0.0.0"),
    ],
)
def test_n7_the_server_listens_to_the_network_by_itself_only_with_keys(environ: dict[str, str], host: str) -> None:
    assert read_settings(environ).settings.http_host == host


def test_which_addresses_are_this_machine_only() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1")] == [
        True, True, True, False, False, False
    ]  # fmt: skip


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nk:infer:{DIGEST}  # his\n")
    for mode in (0o600, 0o640, 0o644):
        path.chmod(mode)
        assert len(read_keys(path).keys) == 1
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        with pytest.raises(BadKey, match="others may write"):
            read_keys(path)


def test_a_file_that_cannot_be_used_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(f"k:infer:{DIGEST}\nnonsense\n".encode())
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "cannot be read|not a file"), (bad, "line 2")):
        with pytest.raises(BadSettings, match=reason):
            keys_of(Settings(api_keys_file=path))
    bad.write_bytes(b"\xff")
    with pytest.raises(BadSettings, match="UTF-8"):
        keys_of(Settings(api_keys_file=bad))
    assert keys_of(Settings()) is None


def test_config_check_reads_the_keys_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv("INGLE_API_KEYS_FILE", str(path))
    assert run("config", "check") == 78
    assert "No such file" in capsys.readouterr().err
    path.write_text(f"k:admin:{DIGEST}\n")
    path.chmod(0o602)
    assert run("config", "check") == 78
    assert "chmod go-w" in capsys.readouterr().err
    path.chmod(0o600)
    assert run("config", "check") == 0


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    keys = keys_of(Settings(api_keys_file=path))
    assert keys is not None
    assert keys.ring == KeyRing()


def test_a_file_that_went_bad_changes_nothing_until_it_is_good_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    change_keys(path, lambda _: [f"a:infer:{DIGEST}"])
    keys = KeptKeys(KeyRing((stored("given", Scope.ADMIN),)), path)
    for spoil in (lambda: path.chmod(0o666), lambda: path.write_text("nonsense"), path.unlink):
        before = keys.ring
        spoil()
        keys.refresh()
        assert keys.ring is before
    change_keys(path, lambda _: [f"b:infer:{DIGEST}"])
    keys.refresh()
    assert [key.caller.name for key in keys.ring.keys] == ["given", "b"]


async def test_a_changed_file_is_known_within_moments_and_on_sighup_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    change_keys(path, lambda _: [f"a:infer:{DIGEST}"])
    keys = KeptKeys(KeyRing(), path)
    watching = asyncio.create_task(watch(keys))
    try:
        await asyncio.sleep(0)
        change_keys(path, lambda lines: [*lines, f"b:infer:{DIGEST}"])
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(5):
            while len(keys.ring.keys) < 2:  # noqa: ASYNC110 (the ring tells nobody when it changes)
                await asyncio.sleep(0.001)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def test_keys_are_made_listed_and_revoked(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "keys"
    file = ["--file", str(path)]
    assert run("keys", "new", "telephony", "--scope", "infer,jobs", "--owner", "telephony", *file) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("ingle_")
    assert len(key) == len("ingle_") + 43
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text()
    caller = read_keys(path).find(key.encode())
    assert caller == Caller("telephony", frozenset({Scope.INFER, Scope.JOBS}), frozenset({"telephony"}))
    path.write_text(f"# by hand\n{path.read_text()}")
    assert run("keys", "new", "gpu", "--scope", "worker", "--profile", "whisper:base", *file) == 0
    capsys.readouterr()
    assert run("keys", "list", *file) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == ["name", "telephony", "gpu"]
    assert DIGEST not in listed
    assert run("keys", "new", "gpu", "--scope", "worker", *file) == 1
    assert "two keys named gpu" in capsys.readouterr().err
    assert run("keys", "revoke", "telephony", *file) == 0
    assert [key.caller.name for key in read_keys(path).keys] == ["gpu"]
    assert path.read_text().startswith("# by hand\n")
    assert run("keys", "revoke", "telephony", *file) == 1
    assert "ingle keys list" in capsys.readouterr().err


def test_without_a_file_the_line_to_store_is_printed_beside_the_key(capsys: Captured) -> None:
    assert run("keys", "new", "me", "--scope", "infer") == 0
    told = capsys.readouterr()
    line = told.err.strip().splitlines()[-1]
    assert parse_line(line).digest.hex() == digest_of(told.out.strip())
    assert run("keys", "revoke", "me") == 2
