"""The file of keys and what a server makes of it."""

import hashlib
import hmac
import json
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearhash.errors import InvalidArgumentError
from nearhash.service.security import secret_files
from nearhash.service.security.access import Principal
from nearhash.service.security.key_file import add_key, digest_of, read_keys, remove_key
from nearhash.service.security.keys import KeyRing


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def write(path, *entries):
    path.write_text(json.dumps({"keys": list(entries)}))
    path.chmod(0o600)


def entry(**changes):
    complete = {"name": "app", "hash": f"sha256:{'0' * 64}", "role": "read", "collections": ["*"]}
    return {**complete, **changes}


def test_keys_are_made_known_and_removed(path):
    tokens = {name: add_key(path, name, "read") for name in ("a", "b", "c")}
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(set(tokens.values())) == 3
    assert all(re.fullmatch(r"nhk_[A-Za-z0-9_-]{43}", token) for token in tokens.values())  # 256 bits
    ring = KeyRing(path)
    for name, token in tokens.items():
        assert ring.authenticate(token) == Principal(name, "read", ("*",))
    remove_key(path, "b")
    assert ring.reload()
    assert [ring.authenticate(token) is not None for token in tokens.values()] == [True, False, True]


def test_neither_keys_nor_what_opens_as_one_are_stored(path):
    token = add_key(path, "app", "admin")
    text = path.read_text()
    assert token not in text
    assert token.removeprefix("nhk_") not in text
    (stored,) = json.loads(text)["keys"]
    assert stored["hash"] == f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"
    assert KeyRing(path).authenticate(stored["hash"]) is None


@pytest.mark.parametrize("wrong", ["", "nhk_", "x" * 100_000, "ключ", "\udcff", "nhk_" + "A" * 43])
def test_wrong_keys_of_any_form_are_nobody(path, wrong):
    add_key(path, "app", "read")
    assert KeyRing(path).authenticate(wrong) is None


def test_every_entry_is_compared_and_in_constant_time(path, monkeypatch):
    """No early exit, and no comparison but hmac's: time tells nothing about what is stored."""
    tokens = [add_key(path, f"app-{number}", "read") for number in range(5)]
    ring = KeyRing(path)
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    stored = [digest_of(token) for token in tokens]
    for token in (*tokens, "nhk_wrong"):
        compared.clear()
        ring.authenticate(token)
        assert sorted(pair[0] for pair in compared) == sorted(stored)
        assert {pair[1] for pair in compared} == {digest_of(token)}
        assert all(isinstance(value, bytes) for pair in compared for value in pair)


@pytest.mark.parametrize(
    ("expires", "valid"),
    [
        (None, True),
        ("2999-01-01", True),
        ("2999-01-01T12:00:00Z", True),
        ("2999-01-01T12:00:00+05:30", True),
        ("2020-01-01", False),
        ("2020-01-01T00:00:00z", False),
    ],
)
def test_expiry(path, expires, valid):
    write(path, entry(hash=f"sha256:{digest_of('token').hex()}", expires=expires))
    assert (KeyRing(path).authenticate("token") is not None) == valid


def test_a_date_is_its_beginning_in_utc(path):
    add_key(path, "app", "read", expires="2999-01-31")
    (one,) = read_keys(path)
    assert one.expires == datetime(2999, 1, 31, tzinfo=timezone.utc)
    assert not one.expired(one.expires - timedelta(microseconds=1))
    assert one.expired(one.expires)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("app", "read"), "name: .* holds a key 'app' already"),
        (("../x", "read"), "name: expected"),
        (("", "read"), "name: expected"),
        (("b", "root"), "role: expected read, write, admin, got 'root'"),
        (("b", "read", []), "collections: expected"),
        (("b", "read", ["a b"]), "collections: expected"),
        (("b", "read", ["**"]), "collections: expected"),
        (("b", "read", ["*", "/"]), "collections: expected"),
        (("b", "read", ["*"], "soon"), "expires: expected a date"),
        (("b", "read", ["*"], "2020-01-01"), "expires: expected a time to come"),
    ],
)
def test_adding_what_is_wrong_changes_nothing(path, arguments, complaint):
    add_key(path, "app", "read")
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError, match=complaint):
        add_key(path, *arguments)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["keys.json"]


def test_removing_an_unknown_name_says_which_there_are(path):
    add_key(path, "app", "read")
    with pytest.raises(InvalidArgumentError, match=r"no key 'other' .*; there are: app"):
        remove_key(path, "other")


def test_changes_at_the_same_time_are_all_kept(path):
    with ThreadPoolExecutor(8) as threads:
        tokens = list(threads.map(lambda number: add_key(path, f"app-{number}", "read"), range(24)))
    ring = KeyRing(path)
    assert {ring.authenticate(token).name for token in tokens} == {f"app-{number}" for number in range(24)}


def test_a_change_that_fails_leaves_the_old_file(path, monkeypatch):
    add_key(path, "app", "read")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        add_key(path, "other", "read")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["keys.json"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", 'expected {"keys"'),
        ('{"keys": {}}', 'expected {"keys"'),
        ('{"keys": [], "other": 1}', 'expected {"keys"'),
        ('{"keys": [1]}', r"keys\[0\]: expected an object"),
        ('{"keys": [{}]}', r"keys\[0\]: collections is missing"),
        (json.dumps({"keys": [entry(rolle="x")]}), r"keys\[0\]: unknown 'rolle'"),
        (json.dumps({"keys": [entry(name=7)]}), r"keys\[0\].name: expected"),
        (json.dumps({"keys": [entry(role=["read"])]}), r"keys\[0\].role: expected"),
        (json.dumps({"keys": [entry(hash="nhk_unhashed")]}), r"keys\[0\].hash: expected 'sha256:'"),
        (json.dumps({"keys": [entry(hash=None)]}), r"keys\[0\].hash: expected 'sha256:'"),
        (json.dumps({"keys": [entry(collections="*")]}), r"keys\[0\].collections: expected"),
        (json.dumps({"keys": [entry(collections=[7])]}), r"keys\[0\].collections: expected"),
        (json.dumps({"keys": [entry(expires=7)]}), r"keys\[0\].expires: expected a date"),
        (json.dumps({"keys": [entry(), entry()]}), "the same name"),
        (json.dumps({"keys": [entry(), entry(name="b")]}), "the same hash"),
    ],
)
def test_broken_files_are_refused_and_secrets_not_shown(path, text, complaint):
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidArgumentError, match=complaint) as refused:
        KeyRing(path)
    assert "nhk_unhashed" not in str(refused.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(f"sha256:{'1' * 64}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.binary(max_size=40)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.lists(st.fixed_dictionaries(dict.fromkeys((*entry(), "expires"), json_values)), max_size=2).map(
        lambda keys: json.dumps({"keys": keys}).encode()
    )
    | st.tuples(st.sampled_from((*entry(), "expires")), json_values).map(
        lambda change: json.dumps({"keys": [entry(**dict([change]))]}).encode()
    )
)
def test_any_content_is_either_keys_or_one_kind_of_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        entries = read_keys(path)
    except InvalidArgumentError:
        return
    assert all(found.principal.role in ("read", "write", "admin") and len(found.digest) == 32 for found in entries)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused(path, mode):
    token = add_key(path, "app", "read")
    path.chmod(mode)
    with pytest.raises(InvalidArgumentError, match=rf"keys: others .* \(mode {mode:03o}\); chmod 600"):
        KeyRing(path)
    assert KeyRing(path, check_permissions=False).authenticate(token) is not None


def test_a_missing_file_is_refused(path):
    with pytest.raises(InvalidArgumentError, match=r"keys: cannot read .*: No such file"):
        KeyRing(path)


def test_a_broken_change_keeps_the_old_keys_and_is_logged_once(path, caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(secret_files.time, "monotonic", lambda: now[0])
    token = add_key(path, "app", "read")
    ring = KeyRing(path)

    def after_a_second():
        now[0] += 1.01
        return ring.authenticate(token)

    with caplog.at_level(logging.ERROR):
        path.write_text("{")
        assert all(after_a_second() for _ in range(3))
        assert len(caplog.records) == 1
        path.unlink()
        assert all(after_a_second() for _ in range(3))
        assert len(caplog.records) == 2
        assert not ring.reload()
        assert len(caplog.records) == 2
    other = add_key(path, "other", "read")
    assert after_a_second() is None
    assert ring.authenticate(other) is not None


def test_changes_are_looked_for_once_a_second(path, monkeypatch):
    now, looks = [1000.0], []
    monkeypatch.setattr(secret_files.time, "monotonic", lambda: now[0])
    signature = secret_files._file_signature
    monkeypatch.setattr(secret_files, "_file_signature", lambda path: looks.append(path) or signature(path))
    token = add_key(path, "app", "read")
    ring = KeyRing(path)
    looks.clear()
    for _ in range(10):
        ring.authenticate(token)
    assert looks == []
    now[0] += 1.01
    for _ in range(10):
        ring.authenticate(token)
    assert len(looks) == 1


def test_versions_of_a_file_are_told_apart(path):
    """Time and size alone would not do: a change within one tick of the clock leaves them as they are."""
    path.write_text("one")
    assert secret_files._file_signature(path) is None  # so new that it might change again without a trace
    os.utime(path, (10**9, 10**9))
    old = secret_files._file_signature(path)
    assert old == secret_files._file_signature(path)
    other = path.with_name("other")
    other.write_text("two")
    os.utime(other, (10**9, 10**9))
    other.replace(path)
    assert secret_files._file_signature(path) not in (old, None)
