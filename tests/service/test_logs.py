"""Logs of a server."""

import json
import logging

import numpy as np
import pytest

import nearhash as nh
from nearhash.service.background import running_server
from nearhash.service.calls import Answered, Call
from nearhash.service.config_file import OperationsConfig
from nearhash.service.engine.database import Database
from nearhash.service.logs import configure_logs
from nearhash.service.security.access import ANYONE
from nearhash.service.slow import SlowLog


@pytest.fixture
def own_logger():
    logger = logging.getLogger("nearhash")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_lines_of_json_say_what_collections_do(own_logger, capsys, tmp_path):
    configure_logs("json", "info")
    with Database(tmp_path) as database, running_server(None, database=database):
        collection = database.create("a", dim=2)
        collection.upsert(range(5), np.zeros((5, 2)))
        collection.seal()
        logging.getLogger("nearhash.service").debug("not shown")
        try:
            raise ValueError("wrong")
        except ValueError:
            logging.getLogger("nearhash.service").exception("failed", extra={"request": "r1"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    sealed = next(line for line in lines if line.get("event") == "sealing")
    assert (sealed["collection"], sealed["rows"], sealed["level"]) == ("a", 5, "info")
    assert sealed["time"].endswith("Z")
    failed = next(line for line in lines if line["message"] == "failed")
    assert failed["request"] == "r1"
    assert "ValueError: wrong" in failed["exception"]
    assert not any(line["message"] == "not shown" for line in lines)


def test_text_is_for_people(own_logger, capsys):
    configure_logs("text", "warning")
    logging.getLogger("nearhash.engine").warning("a %s", "b")
    logging.getLogger("nearhash.engine").info("not shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING a b")


def slow_lines(text):
    return [line["slow"] for line in map(json.loads, text.splitlines()) if "slow" in line]


def test_slow_requests_are_logged_without_data(own_logger, capsys, tmp_path):
    configure_logs("json", "info")
    operations = OperationsConfig(slow_seconds=0)  # every request is slow
    vector, secret = np.full((1, 2), 0.123456), {"name": "payload-secret"}
    with (
        Database(tmp_path) as database,
        running_server(None, database=database, operations=operations) as address,
        nh.Client(address) as client,
    ):
        database.create("a", dim=2)
        own = client.collection("a")
        own.upsert(["id-secret"], vector, payloads=[secret])
        own.search(vector, k=3, filter={"eq": ["name", "payload-secret"]})
        list(own.scroll())
    text = capsys.readouterr().err
    assert "secret" not in text
    assert "0.123456" not in text
    lines = {line["method"]: line for line in slow_lines(text)}
    search = lines["Search"]
    assert {name: search[name] for name in ("code", "collection", "rows", "k", "filtered")} == {
        "code": "OK",
        "collection": "a",
        "rows": 1,
        "k": 3,
        "filtered": True,
    }
    assert 0 <= search["waited"] + search["ran"] <= search["seconds"]
    assert search["ran"] > 0
    assert lines["Upsert"]["rows"] == 1
    assert lines["Scroll"]["seconds"] == pytest.approx(lines["Scroll"]["waited"] + lines["Scroll"]["ran"], abs=2e-6)


def test_only_what_is_slow_is_logged_and_not_more_than_some_lines_a_second(caplog):
    now = [100.0]
    slow = SlowLog(0.5, lambda: now[0])
    call = Call(ANYONE, None, 10, collection="evil\nname" + "x" * 500)

    def answered(seconds, stream=False):
        slow.observe(Answered("/s/Search", "OK", seconds, stream, call, None))

    answered(0.4)
    answered(60.0, stream=True)  # its reader took long
    assert not caplog.records
    for _ in range(25):
        answered(0.5)
    assert len(caplog.records) == 10
    assert "\n" not in caplog.records[0].getMessage()
    assert len(caplog.records[0].slow["collection"]) == 80
    now[0] += 1
    answered(0.5)
    answered(0.5)
    assert [record.slow.get("more") for record in caplog.records[10:]] == [15, None]
