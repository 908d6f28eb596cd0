"""Counting of failures by address, in bounded memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearhash.service.security.attempts import FailedAttempts, address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:53124", "10.0.0.7"),
        ("ipv6:%5B::1%5D:53124", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:10.0.0.7]:1", "10.0.0.7"),
        ("ipv6:[fe80::1%25eth0]:1", "fe80::/64"),
        ("unix:", "unix"),
        ("unix:/run/x.sock", "unix"),
        ("", ""),
        ("ipv4:nonsense", "ipv4"),
    ],
)
def test_addresses(peer, address):
    assert address_of(peer) == address


@given(st.text())
def test_any_peer_has_an_address(peer):
    assert isinstance(address_of(peer), str)
    assert isinstance(address_of(f"ipv6:{peer}"), str)


def test_a_window_begins_with_the_first_failure_and_ends():
    now = [100.0]
    attempts = FailedAttempts(limit=2, window=60, clock=lambda: now[0])
    assert attempts.add("a") == (0, 60)
    now[0] = 130.0
    assert [attempts.add("a") for _ in range(3)] == [(0, 30), (1, 30), (2, 30)]
    assert attempts.add("b") == (0, 60)
    now[0] = 160.0
    assert attempts.add("a") == (0, 60)


def test_memory_is_bounded_and_the_oldest_window_goes_first():
    now = [0.0]
    attempts = FailedAttempts(limit=1, addresses=3, clock=lambda: now[0])
    for address in "abc":
        now[0] += 1
        attempts.add(address)
    assert attempts.add("c")[0] == 1
    attempts.add("d")  # "a" is forgotten
    assert attempts.add("b")[0] == 1
    assert attempts.add("a")[0] == 0  # and now "b" is
    assert [attempts.add(address)[0] for address in "cd"] == [2, 1]
    for number in range(1000):
        attempts.add(str(number))
    assert len(attempts._failures) == 3
