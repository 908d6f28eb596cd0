"""Remote collections of documents give what embedded ones give: both clients against a real server."""

import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import (
    CollectionExistsError,
    DuplicateIdError,
    InvalidArgumentError,
    ServiceError,
    SketchMismatchError,
    UnknownCollectionError,
)
from nearhash.hashing import MinHash, SimHash
from nearhash.protos.v1 import documents_pb2, points_pb2, search_pb2
from nearhash.service.background import running_server
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.engine.database import Database
from nearhash.service.wire import to_tensor


def text_of(number, more=""):
    return " ".join(f"{number}-{i}" for i in range(40)) + more


TEXTS = [text_of(number) for number in range(20)] + [text_of(number, " more") for number in range(5)]
IDS = [row if row % 3 else f"text {row}" for row in range(len(TEXTS))]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with Database(tmp_path_factory.mktemp("database")) as database, running_server(None, database=database) as bound:
        yield bound


@pytest.fixture
def client(make_client, address):
    return make_client(address)


@pytest.fixture
def documents(client):
    made = client.create_documents("texts", 0.7, seed=3)
    yield made
    client.drop_documents("texts")


@pytest.fixture
def embedded(tmp_path):
    with nh.DocumentCollection(tmp_path / "d", threshold=0.7, seed=3) as opened:
        yield opened


def equal(remote, local):
    assert remote.ids.tolist() == local.ids.tolist()
    assert remote.ids.dtype == local.ids.dtype
    assert np.array_equal(remote.indptr, local.indptr)
    assert np.array_equal(remote.similarities, local.similarities)


def test_what_is_found_and_added_is_as_embedded(documents, embedded):
    for both in (documents, embedded):
        assert both.upsert(IDS[:8], TEXTS[:8]) == (8, 0, 1)
    remote, local = documents.check_and_add(IDS[8:], TEXTS[8:]), embedded.check_and_add(IDS[8:], TEXTS[8:])
    assert np.array_equal(remote.added, local.added)
    assert remote.added.sum() == 12
    equal(remote.duplicates, local.duplicates)
    assert remote.sequence == local.sequence == 2
    equal(documents.find(TEXTS), embedded.find(TEXTS))
    equal(documents.find(TEXTS[0], threshold=0.99, limit=1), embedded.find(TEXTS[0], threshold=0.99, limit=1))
    assert documents.delete([*IDS[:3], "unknown"]) == embedded.delete([*IDS[:3], "unknown"]) == (3, 3)
    equal(documents.find(TEXTS), embedded.find(TEXTS))


def test_sketches_instead_of_texts(documents, embedded):
    sketches = embedded.sketch(TEXTS)
    assert documents.upsert(IDS, sketches=sketches).written == len(IDS)
    embedded.upsert(IDS, sketches=sketches)
    equal(documents.find(sketches=sketches), embedded.find(TEXTS))
    with pytest.raises(SketchMismatchError, match="seed"):
        documents.find(sketches=MinHash(seed=4).sketch_texts(TEXTS))
    assert documents.check_and_add(["x", "y"], sketches=sketches[:2]).added.tolist() == [False, False]


def test_requests_are_carried_out_once(documents):
    first = documents.check_and_add([1, 2], TEXTS[:2], request_id="a")
    again = documents.check_and_add([1, 2], TEXTS[:2], request_id="a")
    assert first.added.tolist() == again.added.tolist() == [True, True]
    assert first.sequence == again.sequence
    assert not documents.check_and_add([1, 2], TEXTS[:2]).added.any()


def test_collections_of_documents(client, documents):
    documents.upsert([1], [TEXTS[0]])
    facts = documents.describe()
    expected = {"name": "texts", "threshold": 0.7, "seed": 3, "k": 128, "unit": "word", "size": 1, "state": "ok"}
    assert expected.items() <= facts.items()
    assert facts["nbytes"] > 512
    assert client.document_collections() == {"texts": facts}
    assert client.collections() == {}, "they are no collections of points"
    with pytest.raises(CollectionExistsError):
        client.create_documents("texts", 0.7)
    client.create_documents("texts", 0.7, seed=3, if_missing=True)
    with pytest.raises(InvalidArgumentError, match=r"threshold: .* has 0\.7, got 0\.9"):
        client.create_documents("texts", 0.9, if_missing=True)
    for call in (
        lambda: client.documents("none").find(TEXTS),
        lambda: client.documents("none").describe(),
        lambda: client.drop_documents("none"),
    ):
        with pytest.raises(UnknownCollectionError):
            call()


def test_bad_arguments(client, documents):
    for call, error, message in (
        (lambda: documents.upsert([1], TEXTS[:2]), InvalidArgumentError, "ids: expected 2"),
        (lambda: documents.upsert([1, 1], TEXTS[:2]), DuplicateIdError, "ids"),
        (lambda: documents.upsert([1]), InvalidArgumentError, "expected one of them"),
        (lambda: documents.upsert([1], [3]), InvalidArgumentError, "got int as number 0"),
        (lambda: documents.upsert([1], ["\ud800"]), InvalidArgumentError, "lone surrogate"),
        (lambda: documents.upsert([1], [b"\xff"]), InvalidArgumentError, "UTF-8"),
        (lambda: documents.find(TEXTS, limit=0), InvalidArgumentError, "limit"),
        (lambda: documents.find(TEXTS, limit=10**6), InvalidArgumentError, "max_k"),
        (lambda: documents.find(TEXTS, threshold=1.5), InvalidArgumentError, "threshold"),
        (lambda: documents.find(sketches=np.zeros((1, 128))), InvalidArgumentError, "Sketches"),
        (lambda: client.create_documents("x", 2.0), InvalidArgumentError, "threshold"),
        (lambda: client.create_documents("x", None), InvalidArgumentError, "threshold"),
        (lambda: client.create_documents("x", 0.5, k="many"), InvalidArgumentError, "k"),
        (lambda: client.create_documents("x", 0.5, method="affine32"), InvalidArgumentError, "method"),
        (lambda: client.create_documents("../x", 0.5), InvalidArgumentError, "name"),
        (lambda: client.sketch(), InvalidArgumentError, "either texts"),
        (lambda: client.sketch(TEXTS, k=2**20), InvalidArgumentError, "k"),
        (lambda: client.sketch(indptr=[0, 5], tokens=[1]), InvalidArgumentError, "indptr"),
        (lambda: client.encode(np.ones((2, 3)), bits=12), InvalidArgumentError, "bits"),
        (lambda: client.encode([[np.nan]]), InvalidArgumentError, "nan|finite|NaN"),
        (lambda: client.encode(np.ones((2, 3)), bits=-1), InvalidArgumentError, "bits"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_hashes_are_those_of_the_library(client):
    sketches = client.sketch(TEXTS, k=64, bits=8, ngram=3)
    expected = MinHash(k=64, bits=8).sketch_texts(TEXTS, ngram=3)
    assert np.array_equal(sketches.values, expected.values)
    assert sketches.header == expected.header
    indptr, tokens = np.array([0, 3, 3, 7]), np.arange(7, dtype=np.uint64) << np.uint64(60)
    sets = client.sketch(indptr=indptr, tokens=tokens, seed=0, method="classic")
    assert np.array_equal(sets.values, MinHash(seed=0, method="classic").sketch(indptr, tokens).values)
    vectors = np.random.default_rng(0).standard_normal((5, 30))
    assert np.array_equal(client.encode(vectors), SimHash(30).encode(vectors))
    assert np.array_equal(client.encode(vectors[0], bits=64, seed=9), SimHash(30, 64, 9).encode(vectors[:1]))
    assert client.sketch([]).values.shape == (0, 128)


def test_large_batches_are_sent_in_several_requests(make_client, tmp_path, embedded):
    limits = Limits(max_texts=4, max_message_bytes=20_000)
    config = ServerConfig(limits=limits)
    with Database(tmp_path / "db") as database, running_server(None, config=config, database=database) as address:
        client = make_client(address)
        documents, seen = client.create_documents("texts", 0.7, seed=3), []
        checked = documents.check_and_add(IDS, TEXTS, progress=lambda done, total: seen.append((done, total)))
        local = embedded.check_and_add(IDS, TEXTS)
        assert np.array_equal(checked.added, local.added)
        equal(checked.duplicates, local.duplicates)
        assert seen == [(min(done, 25), 25) for done in range(4, 29, 4)]
        assert documents.find(TEXTS).indptr.shape == (26,)
        assert documents.find([]).indptr.tolist() == [0]
        with pytest.raises(InvalidArgumentError, match="one document of"):
            documents.find(["x" * 30_000])
        with pytest.raises(InvalidArgumentError, match="max_texts"):
            client.sketch(TEXTS)
        with pytest.raises(InvalidArgumentError, match="max_message_bytes"):
            client.sketch(TEXTS[:4], k=2000)
        with pytest.raises(InvalidArgumentError, match="UTF-8") as failure:
            documents.upsert(range(100, 110), [*TEXTS[:9], b"\xff"])
        assert failure.value.written == 8


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (documents_pb2.FindDuplicatesResponse(), "malformed"),
        (
            documents_pb2.FindDuplicatesResponse(
                duplicates=documents_pb2.Duplicates(
                    indptr=to_tensor(np.array([0, 2]), ""),
                    ids=points_pb2.Ids(numbers=np.array([1]).tobytes()),
                    similarities=to_tensor(np.ones(1, np.float32), ""),
                )
            ),
            "bounds",
        ),
        (
            documents_pb2.FindDuplicatesResponse(
                duplicates=documents_pb2.Duplicates(
                    indptr=to_tensor(np.array([0, 1, 1]), ""),
                    ids=points_pb2.Ids(numbers=np.array([1]).tobytes()),
                    similarities=to_tensor(np.ones(1, np.float32), ""),
                )
            ),
            "expected int64",
        ),
    ],
)
def test_malformed_answers(make_client, scripted_server, answer, message):
    with scripted_server(search_pb2.Limits(max_texts=10, max_message_bytes=10_000), FindDuplicates=[answer]) as server:
        with pytest.raises(ServiceError, match=message) as failure:
            make_client(server.address).documents("c").find(["a"])
        assert failure.value.code == "DATA_LOSS"
