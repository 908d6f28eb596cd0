"""Filters over payloads: columns agree with a plain evaluation of the JSON."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash import where
from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.index import predicates
from nearhash.service.engine import columns as columns_module
from nearhash.service.engine.columns import PayloadColumns, field_of
from nearhash.service.engine.payloads import MAX_DEPTH, as_payloads


def kind(value):
    """Values of different kinds are never equal; Python would have True == 1."""
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def value_passes(test, value):
    """What a test says to one scalar."""
    if isinstance(test, predicates.Eq | predicates.IsIn):
        own = (test.value,) if isinstance(test, predicates.Eq) else test.values
        return any(kind(value) is kind(one) and value == one for one in own)
    if isinstance(test, predicates.AnyBits):
        return kind(value) is float and int(value) == value and bool(int(value) & test.mask)
    if kind(value) is not (str if isinstance(test.lo, str) or isinstance(test.hi, str) else float):
        return False
    return (test.lo is None or value >= test.lo) and (test.hi is None or value < test.hi)


def passes(predicate, document):
    """The specification: one payload at a time."""
    if isinstance(predicate, predicates.And):
        return all(passes(part, document) for part in predicate.parts)
    if isinstance(predicate, predicates.Or):
        return any(passes(part, document) for part in predicate.parts)
    if isinstance(predicate, predicates.Not):
        return not passes(predicate.part, document)
    value = None if document is None else field_of(document, predicate.column)
    if isinstance(predicate, predicates.Exists):
        return value is not None
    scalars = value if isinstance(value, list) else [value]
    return any(value_passes(predicate, one) for one in scalars if isinstance(one, str | int | float))


numbers = st.sampled_from([0, 1, -1, 3, 2**53, 2**53 + 1, -(2**63), 2**63 - 1, 0.5, -0.0, 1.5, 1e300, 2.0**53, 9e15])
texts = st.sampled_from(["", "1", "a", "b", "ab", "é", "\U0001f600", "true"])
scalars = numbers | texts | st.booleans()
fields = st.sampled_from(["a", "b", "a.b", "c"])
values = st.recursive(
    scalars | st.none() | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=4,
)
payloads = st.none() | st.dictionaries(fields, values, max_size=3)


def ranges(bounds):
    both = st.tuples(st.none() | bounds, st.none() | bounds)
    ordered = both.filter(lambda ends: None in ends or ends[0] <= ends[1])
    return st.builds(lambda field, ends: where.range(field, *ends), fields, ordered)


tests = (
    st.builds(where.eq, fields, scalars)
    | st.builds(where.isin, fields, st.lists(scalars, max_size=4))
    | st.builds(where.any_bits, fields, st.sampled_from([0, 1, 6, -1]))
    | st.builds(where.exists, fields)
    | ranges(numbers)
    | ranges(texts)
)
conditions = st.recursive(
    tests,
    lambda inner: (
        st.builds(lambda a, b: a & b, inner, inner)
        | st.builds(lambda a, b: a | b, inner, inner)
        | inner.map(lambda one: ~one)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(documents=st.lists(payloads, max_size=12), predicate=conditions, cut=st.integers(0, 12), other=conditions)
@example([{"a": 2**53 + 1}, {"a": 2.0**53}], where.range("a", 2**53 + 1, None), 1, where.exists("a"))
@example([{"a": [1, "x"]}, {"a": []}, {"a": {"b": 3}}, {"a.b": 3}], where.eq("a.b", 3), 2, where.eq("a", 1))
def test_columns_say_what_the_payloads_say(documents, predicate, cut, other):
    encoded = as_payloads(documents, len(documents))
    expected = [passes(predicate, document) for document in documents]
    whole = PayloadColumns(encoded)
    assert whole.matches(predicate, len(encoded)).tolist() == expected
    grown = PayloadColumns(encoded[:cut])
    grown.matches(other, len(grown))
    grown.matches(predicate, len(grown))
    grown.append(encoded[cut:])
    assert grown.matches(predicate, len(encoded)).tolist() == expected
    assert grown.matches(predicate, min(cut, len(encoded))).tolist() == expected[:cut]
    sealed = PayloadColumns.from_source(len(encoded), lambda: iter(encoded))
    for _ in range(2):  # computed, and kept
        assert sealed.matches(predicate, len(encoded)).tolist() == expected
    assert where.from_json(predicate.to_json()) == predicate


def test_each_payload_is_read_once_for_all_fields_of_a_filter():
    reads = []

    def read():
        reads.append(1)
        return iter([b'{"a":1,"b":2}'] * 5)

    columns = PayloadColumns.from_source(5, read)
    assert columns.matches(where.eq("a", 1) & where.eq("b", 2), 5).all()
    assert columns.matches(where.eq("b", 3), 5).sum() == 0
    assert len(reads) == 1


def test_kept_verdicts_have_a_limit(monkeypatch):
    monkeypatch.setattr(columns_module, "_KEPT_BYTES", 400)
    columns = PayloadColumns.from_source(50, lambda: [json.dumps({"a": one}).encode() for one in range(50)])
    favourite = where.eq("a", 7)
    first = columns.matches(favourite, 50)
    for turn in range(100):
        assert columns.matches(where.eq("a", turn), 50).sum() == (turn < 50)
        assert columns.matches(favourite, 50).base is first.base  # in use, so kept
        kept = columns._verdicts
        assert columns._kept_bytes == sum(len(key) + len(verdict) for key, verdict in kept.items()) <= 400
    assert len(columns._verdicts) > 1
    assert columns.matches(where.isin("a", range(0, 500, 2)), 50).sum() == 25  # too long to be kept
    assert columns.matches(favourite, 50).base is first.base
    with pytest.raises(ValueError, match="read-only"):
        first[0] = True


def test_true_is_not_one():
    columns = PayloadColumns(as_payloads([{"a": one} for one in (1, True, 1.0, "1", [True], 0, False)], 7))

    def rows(predicate):
        return np.flatnonzero(columns.matches(predicate, 7)).tolist()

    for _ in range(2):  # computed, and kept: the predicates are equal, as they are the same to an index
        assert rows(where.eq("a", 1)) == rows(where.range("a", 1, 2)) == [0, 2]
        assert rows(where.eq("a", True)) == [1, 4]
        assert rows(where.isin("a", [1, True])) == [0, 1, 2, 4]
        assert rows(where.isin("a", [True, False])) == [1, 4, 6]
        assert rows(where.range("a", None, None)) == [0, 2, 5]
        assert rows(where.range("a", True, 2)) == [0, 2]  # ends are numbers
        assert rows(where.any_bits("a", 1)) == [0, 2]
    assert rows(where.from_json('{"eq":["a",true]}')) == [1, 4]
    whole = PayloadColumns([b'{"a":3.0}', b'{"a":3}', b'{"a":3.5}'])  # whichever comes first
    assert whole.matches(where.any_bits("a", 1), 3).tolist() == [True, True, False]


def test_filters_while_rows_are_added():
    columns, stop = PayloadColumns(), threading.Event()

    def ask():
        while not stop.is_set():
            size = len(columns)
            found = columns.matches(where.eq("a", 3) | where.eq("b", 3), size)
            assert np.flatnonzero(found).tolist() == list(range(3, size, 10))
            assert columns.nbytes > 0 or not size

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
        for first in range(0, 3000, 30):
            columns.append([json.dumps({"a": row % 10}).encode() for row in range(first, first + 30)])
        stop.set()
        for one in asked:
            one.result()


def test_lists_in_later_rows_are_found_where_they_are():
    columns = PayloadColumns([b'{"a":[1]}', b"{}"])
    for predicate in (where.eq("a", 1), where.isin("a", [1, 2])):
        assert columns.matches(predicate, 2).tolist() == [True, False]
    columns.append([b'{"a":[2]}', b'{"a":[3,1]}'])
    assert columns.matches(where.eq("a", 1), 4).tolist() == [True, False, False, True]
    assert columns.matches(where.isin("a", [1, 2]), 4).tolist() == [True, False, True, True]


def test_payloads_are_parsed_in_pieces(monkeypatch):
    monkeypatch.setattr(columns_module, "_AT_ONCE", 20)
    columns = PayloadColumns([b'{"a":%d}' % one if one % 3 else None for one in range(40)])
    assert columns.matches(where.range("a", 10, None), 40).sum() == 20
    short = PayloadColumns.from_source(5, lambda: [b"{}"] * 4)
    with pytest.raises(ValueError, match="expected 5, the source had 4"):
        short.matches(where.exists("a"), 5)


@pytest.mark.parametrize(
    ("payload", "error", "message"),
    [
        (3, DtypeError, r"payloads\[1\]: expected a dict or a JSON object, got int"),
        ("[1]", DtypeError, "got list"),
        ("{", InvalidArgumentError, "not valid JSON"),
        (b"\xff{}", InvalidArgumentError, "not valid JSON"),
        ('{"a":1}'.encode("utf-16"), InvalidArgumentError, "not valid JSON"),
        ('{"a":"' + "\\" * 9 + '"' + "[" * 40, InvalidArgumentError, "not valid JSON"),
        ('{"a\\"":' + "[" * 40, InvalidArgumentError, "nested at most 32 deep"),
        ({"a": float("nan")}, InvalidArgumentError, "JSON can hold"),
        ('{"a":NaN}', InvalidArgumentError, "NaN is not JSON"),
        ('{"a":Infinity}', InvalidArgumentError, "Infinity is not JSON"),
        ('{"a":1,"a":2}', InvalidArgumentError, "stands twice"),
        ({"a": {1, 2}}, InvalidArgumentError, "JSON can hold"),
        ({1: 2}, InvalidArgumentError, "texts as keys"),
        ({"a": {"b": {1: 2}}}, InvalidArgumentError, "texts as keys"),
        ({"a": "\ud800"}, InvalidArgumentError, "UTF-8"),
        ({"a": "x" * (1 << 20)}, InvalidArgumentError, "at most 1,048,576 bytes"),
        (" " * (1 << 21), InvalidArgumentError, "at most 1,048,576 bytes"),
        ('{"a":' * 100 + "1" + "}" * 100, InvalidArgumentError, "nested at most 32 deep"),
        (b"[" * 1_000_000, InvalidArgumentError, "nested at most 32 deep"),
        ('{"a":' + "9" * 5000 + "}", InvalidArgumentError, "digits"),
    ],
)
def test_refused_payloads(payload, error, message):
    with pytest.raises(error, match=message):
        as_payloads([None, payload], 2)


def test_depth_is_found_in_linear_time():
    """In quadratic time, it would take hours."""
    for text in ('{"a":"' + '\\"' * 500_000, "[" + "[],[]," * 150_000 + "]", '{"a":["' + "[" * 1_000_000):
        with pytest.raises((InvalidArgumentError, DtypeError)):
            as_payloads([text], 1)
    with pytest.raises(InvalidArgumentError, match="at most 2 deep"):
        as_payloads([{"a": {"b": {}}}], 1, deepest=2)


def test_payloads_take_one_form():
    nested = {"a": 1}
    for _ in range(MAX_DEPTH - 1):
        nested = {"a": nested}
    given = [None, "", b"", {}, {"b": "é", "a": [1, 2]}, ' {"a" : 1.50} ', b'{"x":"[[[[{{{{\\"["}', nested]
    assert as_payloads(given, 8)[:7] == [
        None, None, None, b"{}", '{"b":"é","a":[1,2]}'.encode(), b'{"a":1.5}', b'{"x":"[[[[{{{{\\"["}',
    ]  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="nested"):
        as_payloads([{"a": nested}], 1)
    for wrong in ([{}], {"a": 1}, "{}{}"):
        with pytest.raises(InvalidArgumentError, match="expected 2, one for each point"):
            as_payloads(wrong, 2)


def test_filters_find_exactly_the_matches(tmp_path):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((3000, 8)).astype(np.float32)
    documents = [{"n": int(one), "tags": ["even"] if one % 2 == 0 else ["odd", "all"]} for one in range(3000)]
    with nh.Collection(tmp_path / "c", dim=8, metric="l2", seal_at=100_000) as collection:
        collection.upsert(range(2500), vectors[:2500], payloads=documents[:2500])
        collection.seal()
        collection.upsert(range(2500, 3000), vectors[2500:], payloads=documents[2500:])
        for predicate in (where.range("n", 2480, 2520), where.eq("tags", "all") & where.range("n", 7, 20)):
            matches = {one for one, document in enumerate(documents) if passes(predicate, document)}
            found = collection.search(vectors[:3], k=100, filter=predicate)
            for row in found.ids.tolist():
                assert set(row) - {-1} == matches
            assert collection.count(filter=predicate) == len(matches)
            assert collection.count(filter=predicate.to_json()) == len(matches)
            assert collection.count(filter=json.loads(predicate.to_json())) == len(matches)
        assert collection.search(vectors[0], k=3, filter=where.exists("none")).ids.tolist() == [[-1, -1, -1]]
        pages = list(islice(collection.scroll(where.eq("tags", "even"), page_size=700), 10))
        assert [point.id for page in pages for point in page.points] == list(range(0, 3000, 2))
