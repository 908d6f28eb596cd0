"""Logs of a server."""

import json
import logging

import numpy as np
import pytest

from nearhash.service.background import running_server
from nearhash.service.engine.database import Database
from nearhash.service.logs import configure_logs


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
