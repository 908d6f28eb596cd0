"""Sessions on a server, in any order of calls, hold what a dictionary of arrays holds."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import nearhash as nh
from nearhash.errors import InvalidArgumentError, UnknownSessionError
from nearhash.service.background import running_server
from nearhash.service.engine.database import Database

LAYERS, HEADS, DIM = 2, 2, 8
layers = st.integers(0, LAYERS - 1)
lengths = st.integers(0, 40)
QUERIES = np.random.default_rng(1).standard_normal((2 * HEADS, DIM)).astype(np.float32)


def tokens(seed, count):
    return np.random.default_rng(seed).standard_normal((2, HEADS, count, DIM)).astype(np.float32)


def dense(held):
    """Attention by definition: output and log-sum-exp."""
    keys, values = held.astype(np.float64)
    logits = np.einsum("hgd,hnd->hgn", QUERIES.reshape(HEADS, 2, DIM) / np.sqrt(DIM), keys)
    with np.errstate(divide="ignore"):
        lse = np.log(np.exp(logits).sum(axis=2, keepdims=True))
    output = np.exp(logits - lse) @ values if held.shape[2] else np.zeros((HEADS, 2, DIM))
    return output.reshape(-1, DIM), lse.reshape(-1)


def machine(client):
    class Machine(RuleBasedStateMachine):
        sessions = Bundle("sessions")

        def __init__(self):
            super().__init__()
            self.held = {}  # by id: keys and values (2, heads, tokens, dim) of each layer

        @initialize(target=sessions)
        def first(self):
            session = self.create()
            for layer in range(LAYERS):
                self.append(session, layer, seed=layer, count=20)
            return session

        @rule(target=sessions)
        def create(self):
            session = client.create_session(HEADS, DIM, LAYERS)
            self.held[session.id] = [tokens(0, 0) for _ in range(LAYERS)]
            return session

        @rule(session=sessions, layer=layers, seed=st.integers(0, 3), count=lengths)
        def append(self, session, layer, seed, count):
            new = tokens(seed, count)
            before = self.held[session.id][layer]
            assert session.append(layer, *new, start=before.shape[2]) == before.shape[2] + count
            self.held[session.id][layer] = np.concatenate([before, new], axis=2)

        @rule(session=sessions, layer=layers, start=lengths, count=lengths, change=st.booleans())
        def append_again(self, session, layer, start, count, change):
            there = self.held[session.id][layer]
            again = there[:, :, start : start + count].copy()
            if change and again.size:
                again[1, -1, -1, -1] += 1
            if start > there.shape[2] or (change and again.size):
                with pytest.raises(InvalidArgumentError, match="start: "):
                    session.append(layer, *again, start=start)
            else:
                assert session.append(layer, *again, start=start) == there.shape[2]

        @rule(target=sessions, session=sessions, length=st.none() | lengths)
        def fork(self, session, length):
            other = session.fork(length)
            self.held[other.id] = [layer[:, :, :length] for layer in self.held[session.id]]
            return other

        @rule(session=sessions, length=lengths, layer=st.none() | layers)
        def truncate(self, session, length, layer):
            held = self.held[session.id]
            chosen = range(LAYERS) if layer is None else [layer]
            if length > max(held[one].shape[2] for one in chosen):
                with pytest.raises(InvalidArgumentError, match="length: "):
                    session.truncate(length, layer)
                return
            session.truncate(length, layer)
            for one in chosen:
                held[one] = held[one][:, :, :length]

        @rule(session=consumes(sessions))
        def free(self, session):
            session.free()
            del self.held[session.id]
            for call in (session.fork, session.stats, lambda: session.attend(0, QUERIES)):
                with pytest.raises(UnknownSessionError, match="was freed"):
                    call()

        @rule(session=sessions, layer=layers)
        def attend(self, session, layer):
            found = session.attend(layer, QUERIES, "dense")
            output, lse = dense(self.held[session.id][layer])
            np.testing.assert_allclose(found.output, output, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.lse, lse, rtol=1e-4, atol=1e-5)
            assert found.reads.tolist() == [self.held[session.id][layer].shape[2]] * HEADS

        @invariant()
        def all_are_there(self):
            told = client.sessions()["sessions"]
            assert {id: facts["tokens"] for id, facts in told.items()} == {
                id: [layer.shape[2] for layer in held] for id, held in self.held.items()
            }

        def teardown(self):
            for id in self.held:
                client.session(id).free()
            assert client.sessions()["held_bytes"] == 0

    return Machine


def test_sessions_hold_what_arrays_hold(tmp_path):
    with (
        Database(tmp_path) as database,
        running_server(None, database=database) as address,
        nh.Client(address) as client,
    ):
        chosen = settings(max_examples=25, stateful_step_count=20, deadline=None)
        run_state_machine_as_test(machine(client), settings=chosen)
