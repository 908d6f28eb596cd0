"""The examples of the guide run, one after the other."""

import re
from pathlib import Path

import trustme

from nearhash.service.background import running_server
from nearhash.service.engine.database import Database

DOCS = Path(__file__).parents[3] / "docs"


def blocks_of(name):
    """The Python in a guide, block by block."""
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    authority = trustme.CA()
    issued = authority.issue_cert("me")
    authority.cert_pem.write_to_path("ca.pem")
    issued.cert_chain_pems[0].write_to_path("client.pem")
    issued.private_key_pem.write_to_path("client.key")
    blocks = blocks_of("client.md")
    assert len(blocks) == 7
    names = {}
    with Database("data") as database, running_server(None, database=database) as address:
        for block in blocks:
            exec(block.replace("localhost:50051", address), names)
        assert names["articles"].count() == 100_002
        names["client"].close()
    assert names["rest"] == []
    printed = capsys.readouterr().out
    assert "collection: no collection 'nothing'" in printed
    assert printed.endswith("65536 of 100000\n100000 of 100000\n")


def test_the_examples_of_the_guide_to_sessions_run(tmp_path):
    blocks = blocks_of("attention-service.md")
    assert len(blocks) == 3
    names = {}
    with Database(tmp_path) as database, running_server(None, database=database) as address:
        for block in blocks:
            exec(block.replace("localhost:50051", address), names)
        assert names["client"].sessions()["sessions"] == {}
        names["client"].close()
    assert names["both"][1].reads.max() <= 2005
    assert names["step"].reads.tolist() == [195, 195]


def test_the_examples_of_the_guide_to_documents_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedded, served = blocks_of("documents.md")
    names = {}
    exec(embedded, names)
    assert names["checked"].added.tolist() == [True, True]
    with Database("data") as database, running_server(None, database=database) as address:
        exec(served.replace("localhost:50051", address), names)
        names["client"].close()
        assert database.documents.names() == []
