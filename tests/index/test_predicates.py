"""Predicates as values, as JSON, and as programs, against what NumPy makes of them."""

import json
from operator import and_, inv, or_

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash import where
from nearhash.errors import InvalidArgumentError
from nearhash.index.predicates import MAX_DEPTH, MAX_TERMS, And, AnyBits, Eq, IsIn, Not, Or, Range
from nearhash.index.programs import compiled
from nearhash.kernels.predicate import FEW, RANGE, SORTED, STACK, TABLE, evaluate_mask

LEAST, MOST = -(2**63), 2**63 - 1
NAMES = ("a", "b.2", "c_c")

numbers = st.one_of(st.integers(-3, 80), st.sampled_from([LEAST, LEAST + 1, MOST - 1, MOST]), st.integers(LEAST, MOST))
bounds = st.one_of(st.none(), numbers, st.just(MOST + 1))
columns = st.sampled_from(NAMES)
single = st.one_of(
    st.builds(where.eq, columns, numbers),
    st.builds(where.isin, columns, st.lists(numbers, max_size=40)),
    st.builds(where.isin, columns, st.lists(st.integers(0, 10**6), min_size=17, max_size=30)),
    st.builds(where.any_bits, columns, numbers),
    st.builds(
        lambda column, a, b: where.range(column, *((a, b) if a is None or b is None or a <= b else (b, a))),
        columns, bounds, bounds,
    ),
)  # fmt: skip
predicates = st.recursive(
    single,
    lambda parts: st.one_of(st.builds(inv, parts), st.builds(and_, parts, parts), st.builds(or_, parts, parts)),
    max_leaves=8,
)  # fmt: skip


def holds(predicate, row):
    """What a predicate says of one row, a dict of Python integers."""
    match predicate:
        case And(parts=parts):
            return all(holds(part, row) for part in parts)
        case Or(parts=parts):
            return any(holds(part, row) for part in parts)
        case Not(part=part):
            return not holds(part, row)
        case Eq(column=column, value=value):
            return row[column] == value
        case IsIn(column=column, values=values):
            return row[column] in values
        case AnyBits(column=column, mask=mask):
            return row[column] & mask != 0
        case Range(column=column, lo=lo, hi=hi):
            return (lo is None or lo <= row[column]) and (hi is None or row[column] < hi)
    raise AssertionError(predicate)


def constants(document):
    """All integers in a document."""
    if isinstance(document, dict | list):
        for item in document.values() if isinstance(document, dict) else document:
            yield from constants(item)
    elif isinstance(document, int):
        yield document


def passing(predicate, table):
    mask = np.full(table.shape[1], 9, np.uint8)
    evaluate_mask(*compiled(predicate, NAMES), table, np.empty(0, np.uint8), mask)
    return mask


@settings(max_examples=300, deadline=None)
@given(predicate=predicates, seed=st.integers(0, 99), more=st.lists(numbers, min_size=1, max_size=5))
def test_programs_say_what_predicates_say(predicate, seed, more):
    near = [c + step for c in constants(predicate.document()) for step in (-1, 0, 1) if LEAST <= c + step <= MOST]
    pool = np.array(near + more, np.int64)
    table = pool[np.random.default_rng(seed).integers(0, len(pool), (3, 70))]
    rows = [dict(zip(NAMES, row, strict=True)) for row in table.T.tolist()]
    assert passing(predicate, table).tolist() == [holds(predicate, row) for row in rows]


@settings(max_examples=200, deadline=None)
@given(predicate=predicates)
def test_json_and_code_give_the_same_predicate(predicate):
    for again in (
        where.from_json(predicate.to_json()),
        where.from_json(predicate.to_json().encode()),
        eval(repr(predicate), {"where": where}),
    ):
        assert again == predicate
        assert hash(again) == hash(predicate)
        assert again.to_json() == predicate.to_json()


def test_predicates_are_values():
    a, b, c = where.eq("a", 1), where.isin("b", [3, 2, 2]), where.range("c", 1, None)
    assert repr(a & ~b | c) == "((where.eq('a', 1) & ~where.isin('b', [2, 3])) | where.range('c', 1, None))"
    assert (a & b) & c == a & (b & c)
    assert ~~a == a
    assert a != where.eq("a", 2) != where.eq("b", 2)
    assert len({a, where.eq("a", True), where.eq("a", np.int8(1)), b, where.isin("b", np.array([2, 3], np.uint8))}) == 2
    assert nh.where is where
    with pytest.raises(AttributeError):
        a.value = 2
    for wrong in (lambda: a and b, lambda: not a, lambda: 1 if a else 2):
        with pytest.raises(TypeError, match=r"& \| ~"):
            wrong()
    for wrong in (lambda: a & 1, lambda: a | None, lambda: True & a):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: where.eq("a", np.nan), "where.eq: expected a finite number, got nan"),
        (lambda: where.eq("a", "x" * 5000), "where.eq: expected a text of at most 4,096 characters"),
        (lambda: where.eq("a", None), "where.eq: expected a number or a text, got None"),
        (lambda: where.eq("a", 2**63), "where.eq: expected an integer from"),
        (lambda: where.eq("", 1), "names of 1 to 256 bytes"),
        (lambda: where.eq("é" * 129, 1), "names of 1 to 256 bytes"),
        (lambda: where.eq("a\n", 1), "names"),
        (lambda: where.eq(3, 1), "got 3"),
        (lambda: where.isin("a\0", [1]), "names"),
        (lambda: where.isin("a", 3), "where.isin: expected values of one dimension"),
        (lambda: where.isin("a", [[3]]), "where.isin"),
        (lambda: where.isin("a", [0.5, np.inf]), "where.isin: expected a finite number"),
        (lambda: where.isin("a", "xyz"), "where.isin: expected values of one dimension"),
        (lambda: where.isin("a", ["x", None]), "where.isin"),
        (lambda: where.isin("a", [1, 2**63]), "where.isin: expected integers that fit int64"),
        (lambda: where.isin("a", range(2**20 + 1)), "at most 1,048,576"),
        (lambda: where.range("a", 3, 2), r"lo <= hi, got \[3, 2\)"),
        (lambda: where.range("a", "b", 2), "two numbers or two texts"),
        (lambda: where.range("a", "b", "a"), "lo <= hi"),
        (lambda: where.range("a", 0, 2**63 + 1), "where.range hi"),
        (lambda: where.any_bits("a", 2**63), "where.any_bits"),
        (lambda: where.any_bits("a", "1"), "where.any_bits"),
    ],
)
def test_refused_predicates(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def nested(depth):
    """Nested `depth` deep, in a way that needs the stack each time."""
    predicate = where.eq("a", 0)
    for i in range(depth):
        other = where.eq("a", i + 1)
        predicate = other & predicate if i % 2 else other | predicate
    return predicate


def test_predicates_of_payloads_are_refused_by_indexes():
    index = nh.FlatIndex(2, metric="l2")
    index.add(np.zeros((3, 2)), attributes={"a": [1, 2, 3]})
    for predicate in (where.eq("a", "x"), where.eq("a", 0.5), where.isin("a", [1, "x"]), where.range("a", 0.5, None)):
        with pytest.raises(InvalidArgumentError, match="attributes of an index are integers"):
            index.search(np.zeros(2), where=predicate)
    with pytest.raises(InvalidArgumentError, match="exists is for payloads"):
        index.search(np.zeros(2), where=where.exists("a"))
    assert index.search(np.zeros(2), k=3, where=where.isin("a", [2.0, 3])).ids.tolist() == [[1, 2, -1]]
    for predicate in (where.eq("a", True), where.isin("a", [True, False]), where.isin("a", [True, *range(10, 40)])):
        assert index.search(np.zeros(2), k=3, where=predicate).ids.tolist() == [[0, -1, -1]]


def test_limits_of_size():
    many = where.eq("a", 0)
    for i in range(1, MAX_TERMS):
        many = many | where.eq("a", i)
    assert where.from_json(many.to_json()) == many
    assert passing(many, np.array([[0, 1023, 1024]] * 3)).tolist() == [1, 1, 0]
    with pytest.raises(InvalidArgumentError, match="1,024 tests"):
        many | where.eq("a", 5)
    deep = nested(MAX_DEPTH)
    assert where.from_json(deep.to_json()) == deep
    assert MAX_DEPTH + 1 <= STACK
    rows = np.arange(-1, 20)
    expected = [holds(deep, {"a": row}) for row in rows.tolist()]
    assert passing(deep, np.array([rows] * 3)).tolist() == expected
    with pytest.raises(InvalidArgumentError, match="16 deep"):
        nested(MAX_DEPTH + 1)
    with pytest.raises(InvalidArgumentError, match="16 deep"):
        inv(deep)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", "3", '"eq"', "{", "[" * 100_000, '{"not":' * 100_000, '{"eq":["a",NaN]}',
        '{"eq":["a",1],"in":["a",[1]]}', '{"eq":["a",1],"eq":["a",1]}', '{"eq":{"a":1}}', '{"eq":"ab"}', '{"eq":["a"]}',
        '{"eq":["a",1,2]}', '{"eq":["a",null]}', '{"eq":["a",1e999]}', '{"exists":["a"]}', '{"exists":1}',
        '{"eq":["a",[1]]}', '{"eq":[1,1]}', '{"eq":["",1]}', '{"eq":["a",9223372036854775808]}',
        '{"eq":["a",' + "9" * 5000 + "]}", '{"EQ":["a",1]}', '{"in":["a",1]}',
        '{"range":["a","b",2]}', '{"any_bits":["a",1.5]}',
        '{"in":["a",[[1]]]}', '{"in":["a",[9223372036854775808]]}', '{"in":["a",{"1":1}]}', '{"range":["a",2,1]}',
        '{"range":["a",1]}', '{"any_bits":["a",null]}',
        '{"and":[]}',
        '{"or":{}}', '{"and":{"eq":["a",1]}}', '{"and":[1]}', '{"not":[{"eq":["a",1]}]}', '{"not":null}',
        '{"not":{"and":' * 20 + '{"eq":["a",1]}' + "}}" * 20, '{"or":[' + ",".join(['{"eq":["a",1]}'] * 1025) + "]}",
        '{"in":["a",[' + "1," * 600_000 + "1]]}", b"\xff\xfe", '{"eq":["a",1]} x', '{"eq":["\\ud800",1]}',
    ],
)  # fmt: skip
def test_refused_json(text):
    with pytest.raises(InvalidArgumentError, match="where"):
        where.from_json(text)


def test_json_that_people_write():
    assert where.from_json('{"and": [{"eq": ["a", 1]}]}') == where.eq("a", 1)
    assert where.from_json('{"in": ["a", [2, 1, 2]]}') == where.isin("a", [1, 2])
    assert where.from_json('{"range": ["a", null, 9223372036854775808]}') == where.range("a", None, 2**63)
    assert json.loads((where.eq("a", 1) & ~where.isin("b", [])).to_json()) == {
        "and": [{"eq": ["a", 1]}, {"not": {"in": ["b", []]}}]
    }
    with pytest.raises(InvalidArgumentError, match="got dict"):
        where.from_json({"eq": ["a", 1]})


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "eq", ""]),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            st.sampled_from(["eq", "in", "range", "exists", "any_bits", "and", "or", "not", "x"]), parts, max_size=2
        )
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(document=documents)
@example({"and": [{"range": ["a", None, None]}]})
def test_any_json_is_a_predicate_or_refused(document):
    try:
        predicate = where.from_json(json.dumps(document))
    except InvalidArgumentError:
        return
    assert where.from_json(predicate.to_json()) == predicate


def test_members_are_looked_for_in_the_way_that_suits_their_number():
    def operation(values):
        return int(compiled(where.isin("a", values), NAMES).steps[0])

    assert operation([]) == operation([5]) == operation([1, 10, 100, 10**9]) == FEW
    assert operation(range(7, 1000)) == operation([LEAST, LEAST + 1]) == RANGE
    assert operation(range(0, 1000, 3)) == operation(range(0, 64 * 10**4, 50)) == TABLE
    assert operation(range(0, 10**6, 10**5)) == FEW
    assert operation(range(0, 10**8, 10**5)) == operation([LEAST, *range(30), MOST]) == SORTED


@pytest.mark.parametrize(
    "values",
    [
        [], [5], [1, 10, 100], range(7, 200), range(0, 1000, 3), range(-64, 64, 2), range(0, 63 * 9, 9),
        range(0, 10**6, 10**5), range(0, 10**8, 10**6), [LEAST, *range(30), MOST], range(LEAST, LEAST + 500, 3),
        range(MOST - 640, MOST + 1, 4), [LEAST, LEAST + 1, MOST - 1, MOST],
    ],
)  # fmt: skip
def test_every_member_is_found_and_no_other(values):
    near = sorted({v + step for v in values for step in (-1, 0, 1) if LEAST <= v + step <= MOST} | {LEAST, 0, MOST})
    table = np.array([near] * 3, np.int64)
    assert passing(where.isin("a", list(values)), table).tolist() == [value in values for value in near]


def test_unknown_attributes_are_named():
    with pytest.raises(InvalidArgumentError, match=r"has 'a', 'b.2', 'c_c'; got 'z'"):
        compiled(where.eq("a", 1) & ~where.eq("z", 1), NAMES)
    with pytest.raises(InvalidArgumentError, match="has none; got 'z'"):
        compiled(where.eq("z", 1), ())
