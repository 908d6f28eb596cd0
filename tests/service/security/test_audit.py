"""The audit log: complete, without secrets, and never in the way of a request."""

import json
import logging
import os
import threading
import time
from datetime import datetime, timedelta, timezone

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.errors import InvalidArgumentError
from nearhash.protos.v1 import points_pb2, points_pb2_grpc
from nearhash.service.security import audit as audit_module
from nearhash.service.security.audit import AuditLog
from nearhash.service.security.key_file import add_key
from nearhash.service.security.keys import KeyRing

OK = grpc.StatusCode.OK
FIELDS = ["time", "principal", "peer", "method", "collection", "code", "written", "deleted", "request_id", "reason"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_all_fields(tmp_path):
    path = tmp_path / "audit.log"
    audit = AuditLog(path)
    audit.record(
        "/nearhash.v1.PointService/Upsert",
        OK,
        principal="app",
        peer="ipv4:10.0.0.7:4",
        collection="words",
        written=1000,
        request_id="r-1",
    )
    audit.record("/nearhash.v1.PointService/Delete", grpc.StatusCode.NOT_FOUND, deleted=0, reason="none there")
    audit.close()
    first, second = lines(path)
    assert list(first) == list(second) == FIELDS
    when = datetime.fromisoformat(first.pop("time"))
    assert abs(when - datetime.now(timezone.utc)) < timedelta(seconds=10)
    assert when.utcoffset() == timedelta(0)
    assert first == {
        "principal": "app",
        "peer": "ipv4:10.0.0.7:4",
        "method": "/nearhash.v1.PointService/Upsert",
        "collection": "words",
        "code": "OK",
        "written": 1000,
        "deleted": None,
        "request_id": "r-1",
        "reason": "",
    }
    assert (second["code"], second["deleted"], second["reason"]) == ("NOT_FOUND", 0, "none there")
    assert path.stat().st_mode & 0o777 == 0o600


def test_lines_come_soon_and_in_order(tmp_path):
    path = tmp_path / "audit.log"
    audit = AuditLog(path)
    for number in range(3):
        audit.record("/m", OK, written=number)
        until(lambda number=number: len(lines(path)) == number + 1)
    for number in range(3, 2000):
        audit.record("/m", OK, written=number)
    audit.close()
    assert [line["written"] for line in lines(path)] == list(range(2000))


def test_a_new_log_goes_on_after_the_old_one(tmp_path):
    path = tmp_path / "audit.log"
    for number in range(2):
        audit = AuditLog(path)
        audit.record("/m", OK, written=number)
        audit.close()
    assert [line["written"] for line in lines(path)] == [0, 1]


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.005)


@settings(max_examples=50)
@given(st.text(), st.text(), st.text())
def test_what_callers_choose_cannot_make_lines(tmp_path_factory, collection, request_id, reason):
    path = tmp_path_factory.getbasetemp() / "chosen.log"
    path.unlink(missing_ok=True)
    audit = AuditLog(path)
    forged = f'{collection}\n{{"code": "OK"}}\r\u2028'
    audit.record("/m", OK, collection=forged, request_id=request_id * 100, reason=reason)
    audit.close()
    (line,) = lines(path)
    assert line["collection"] == forged[:200]
    assert line["request_id"] == (request_id * 100)[:200]


def test_refusals_are_recorded_and_nothing_secret_is(tmp_path, keys, outcome, serving, plain):
    path = tmp_path / "audit.log"
    audit = AuditLog(path)
    expired = tmp_path / "keys.json"
    token = add_key(expired, "visitor", "admin")
    document = json.loads(expired.read_text())
    document["keys"][0]["expires"] = "2020-01-01"
    document["keys"] += json.loads(keys.path.read_text())["keys"]
    expired.write_text(json.dumps(document))
    channel = plain(serving(KeyRing(expired), audit=audit))
    upsert = points_pb2_grpc.PointServiceStub(channel).Upsert
    request = points_pb2.UpsertRequest(collection="c", payloads=[b'{"password": "hunter2"}'], request_id=token)
    for key in (None, "nhk_guessedguessed", token, keys.read):
        outcome(upsert, request, key)
    assert outcome(upsert, request, keys.write).written == 1  # recorded by handlers, of which this server has none
    audit.record("/m", OK, collection=keys.admin, request_id=token, reason=f"bad key {token}")
    audit.close()
    method = "/nearhash.v1.PointService/Upsert"
    found = [(line["method"], line["code"], line["principal"]) for line in lines(path)]
    assert found == [
        (method, "UNAUTHENTICATED", ""),
        (method, "UNAUTHENTICATED", ""),
        (method, "UNAUTHENTICATED", "visitor"),
        (method, "PERMISSION_DENIED", "the-read-key"),
        ("/m", "OK", ""),
    ]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") and line["reason"] for line in lines(path)[:4])
    text = path.read_text()
    for secret in (token, *keys[1:], "guessed", "hunter2"):
        assert secret not in text
    assert lines(path)[4]["request_id"] == "nhk_..."


def test_rotation(tmp_path):
    path, moved = tmp_path / "audit.log", tmp_path / "audit.log.1"
    audit = AuditLog(path)
    audit.record("/m", OK, written=0)
    until(lambda: len(lines(path)) == 1)
    path.rename(moved)
    audit.record("/m", OK, written=1)
    until(lambda: len(lines(moved)) == 2)
    audit.reopen()
    until(path.exists)
    audit.record("/m", OK, written=2)
    audit.close()
    assert [line["written"] for line in lines(moved)] == [0, 1]
    assert [line["written"] for line in lines(path)] == [2]


def test_where_no_new_file_can_be_opened_the_old_one_goes_on(tmp_path, caplog):
    folder, gone = tmp_path / "logs", tmp_path / "gone"
    folder.mkdir()
    audit = AuditLog(folder / "audit.log")
    folder.rename(gone)
    audit.reopen()
    until(lambda: "cannot open it anew" in caplog.text)
    audit.record("/m", OK)
    audit.close()
    assert len(lines(gone / "audit.log")) == 1


class Disk:
    """Stands in for os.write of the audit log: full, slow, or taking less than it was given."""

    def __init__(self, monkeypatch):
        self.free = 10**9
        self.open = threading.Event()
        self.open.set()
        write = os.write

        def limited(file, data):
            assert self.open.wait(20)
            part = data[: self.free]
            if not part:
                raise OSError(28, "No space left on device")
            self.free -= len(part)
            return write(file, part)

        monkeypatch.setattr(audit_module.os, "write", limited)


def test_a_full_disk_loses_lines_but_no_request_and_says_so(tmp_path, monkeypatch, caplog):
    disk = Disk(monkeypatch)
    path = tmp_path / "audit.log"
    audit = AuditLog(path)
    audit.record("/m", OK, written=0)
    until(lambda: len(lines(path)) == 1)
    disk.free = 20  # the next line is torn
    audit.record("/m", OK, written=1)
    until(lambda: "No space left on device" in caplog.text)
    for number in (2, 3):
        audit.record("/m", OK, written=number)
        until(lambda number=number: audit._missed == number)  # the notice fails, too
    disk.free = 10**9
    audit.record("/m", OK, written=4)
    audit.close()
    text = path.read_text().splitlines()
    assert len(text[1]) == 20
    whole = [json.loads(line) for line in (text[0], *text[2:])]
    assert [line.get("written") for line in whole] == [0, None, 4]
    assert whole[1]["lost"] == 3
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_a_slow_disk_holds_up_nobody_and_memory_is_bounded(tmp_path, monkeypatch, caplog):
    disk = Disk(monkeypatch)
    path = tmp_path / "audit.log"
    audit = AuditLog(path, capacity=5)
    disk.open.clear()
    audit.record("/m", OK, written=0)
    until(lambda: not audit._waiting)  # the thread has it and waits for the disk
    for number in range(1, 10):
        audit.record("/m", OK, written=number)  # returns, though the disk does not
    assert len(audit._waiting) == 5
    assert "lines come faster than the disk takes them" in caplog.text
    disk.open.set()
    audit.close()
    assert [line.get("written", line.get("lost")) for line in lines(path)] == [0, 1, 2, 3, 4, 5, 4]
    assert lines(path)[-1]["lost"] == 4


def test_after_closing_lines_are_lost_with_an_error(tmp_path, caplog):
    audit = AuditLog(tmp_path / "audit.log")
    audit.close()
    audit.record("/m", OK)
    assert "the log is closed" in caplog.text
    audit.close()


def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"audit: cannot open .*: No such file"):
        AuditLog(tmp_path / "missing" / "audit.log")
    with pytest.raises(InvalidArgumentError, match=r"audit: cannot open .*: Is a directory"):
        AuditLog(tmp_path)
