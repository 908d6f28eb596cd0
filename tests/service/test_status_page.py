"""Metrics, health and the status page, by HTTP; the page also in a browser."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

import nearhash as nh
from nearhash.service import recall_probe
from nearhash.service.background import running_server
from nearhash.service.config import ServerConfig
from nearhash.service.config_file import OperationsConfig
from nearhash.service.engine.database import Database
from nearhash.service.security.key_file import add_key
from nearhash.service.security.transport import TransportConfig

DIM = 4
XSS = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"


def free_pages():
    """Addresses that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return OperationsConfig(metrics=addresses[0], status_page=addresses[1])


def other_address():
    """An address of this machine that is not loopback; empty without one. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return asking.getsockname()[0]


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(2).standard_normal((300, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def watched(tmp_path_factory, rows):
    """Client and addresses of a server with a collection: metrics, status page."""
    share, recall_probe.PROBED = recall_probe.PROBED, 1.0
    with Database(tmp_path_factory.mktemp("data")) as database:
        collection = database.create("things", dim=DIM, metric="l2")
        collection.upsert(range(250), rows[:250], payloads=[{"n": own} for own in range(250)])
        collection.seal()
        collection.upsert(["text", *range(251, 300)], rows[250:], payloads=[{"name": XSS}, *[None] * 49])
        operations = free_pages()
        with (
            running_server(None, database=database, operations=operations) as address,
            nh.Client(address) as client,
        ):
            recall_probe.PROBED = share
            yield client, operations.metrics, operations.status_page


def get(address, path, **headers):
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def post(address, path, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"http://{address}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def refusal(call):
    with pytest.raises(urllib.error.HTTPError) as caught:
        call()
    return caught.value.code, json.loads(caught.value.read())["error"]


def samples(address):
    families = text_string_to_metric_families(get(address, "/metrics"))
    return {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}


def test_requests_and_collections_are_counted(watched, rows):
    client, metrics_address, page = watched
    before = samples(metrics_address).get(("nearhash_requests_total", "OK", "Search"), 0)
    for row in rows[:5]:
        client.collection("things").search(row, k=3)
    with pytest.raises(nh.errors.InvalidArgumentError):
        client.collection("things").search(rows[0], k=0 + 10**6)
    seen = samples(metrics_address)
    assert seen["nearhash_requests_total", "OK", "Search"] == before + 5
    assert seen["nearhash_requests_total", "INVALID_ARGUMENT", "Search"] >= 1
    assert seen["nearhash_request_seconds_count", "Search"] >= before + 6
    assert seen["nearhash_collection_points", "things"] == 300
    assert seen["nearhash_collection_buffer_points", "things"] == 50
    assert seen["nearhash_collection_segments", "flat", "things"] == 1
    assert seen["nearhash_collection_ok", "things"] == 1
    assert seen["nearhash_pending_requests",] == 0
    assert seen["nearhash_collection_requests_total", "OK", "Search", "things"] == before + 5
    assert seen["nearhash_collection_requests_total", "INVALID_ARGUMENT", "Search", "things"] >= 1
    assert seen["nearhash_collection_request_seconds_count", "read", "things"] >= before + 6
    assert seen["nearhash_queue_seconds_count", "search"] >= before + 5
    assert seen["nearhash_batch_rows_count",] >= 1
    assert seen["nearhash_refusals_total", "limits"] >= 1
    assert seen["nearhash_process_requests_total", "writer"] >= before + 6
    assert samples(page).keys() >= seen.keys()


def test_names_that_callers_make_up_get_no_series(watched, rows):
    client, address, _ = watched
    for number in range(3):
        with pytest.raises(nh.errors.UnknownCollectionError):
            client.collection(f"made-up-{number}").search(rows[0])
    seen = samples(address)
    made_up = [key for key in seen if "_other" in key and key[0] == "nearhash_collection_requests_total"]
    assert sum(seen[key] for key in made_up) >= 3
    assert "made-up" not in get(address, "/metrics")


def test_recall_is_probed(watched, rows):
    client, address, _ = watched
    client.collection("things").search(rows[7], k=10)
    end = time.monotonic() + 20
    while ("nearhash_recall_count", "things") not in samples(address):
        assert time.monotonic() < end
        time.sleep(0.05)
    seen = samples(address)
    assert seen["nearhash_recall_sum", "things"] == seen["nearhash_recall_count", "things"]  # small parts are exact


def test_health(watched):
    _, address, page = watched
    for one in (address, page):
        assert get(one, "/healthz") == "ok\n"
        assert get(one, "/readyz") == "ready\n"
    assert refusal(lambda: get(address, "/status.json"))[0] == 404
    assert refusal(lambda: get(page, "/../etc/passwd"))[0] == 404


def test_status_and_search(watched, rows):
    client, _, page = watched
    status = json.loads(get(page, "/status.json"))
    assert status["ready"]
    assert [one["name"] for one in status["collections"]] == ["things"]
    assert status["latencies"].keys() >= {"Search"} or client.collection("things").search(rows[0]) is not None
    found = post(page, "/search", {"collection": "things", "id": 3, "k": 4})["points"]
    assert found[0] == {"id": 3, "distance": 0.0, "payload": {"n": 3}}
    assert len(found) == 4
    found = post(page, "/search", {"collection": "things", "vector": rows[250].tolist()})["points"]
    assert found[0]["id"] == "text"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"collection": "things", "id": 9999}, 404, "no point 9999"),
        ({"collection": "none", "id": 1}, 404, "no collection"),
        ({"collection": "../x", "id": 1}, 404, "no collection"),
        ({"collection": 3}, 400, "collection"),
        ({"collection": "things", "id": 1, "k": 101}, 400, "k: expected"),
        ({"collection": "things", "id": [1]}, 400, "ids"),
        ({"collection": "things", "vector": [1, 2]}, 400, "queries"),
        ({"collection": "things", "vector": ["x"] * 4}, 400, ""),
        ({"collection": "things", "vector": [float("nan")] * 4}, 400, "finite"),
        ([], 400, "collection"),
        (b"{", 400, ""),
        (b"[" * 100_000, 400, ""),
    ],
)
def test_refused_searches(watched, body, code, message):
    got, error = refusal(lambda: post(watched[2], "/search", body))
    assert got == code
    assert message in error
    assert "Traceback" not in error


def test_bodies_are_bounded_and_of_one_type(watched):
    page = watched[2]
    assert refusal(lambda: post(page, "/search", b" " * (2 << 20)))[0] == 413
    assert refusal(lambda: post(page, "/search", {}, **{"Content-Type": "text/plain"}))[0] == 415
    assert refusal(lambda: post(page, "/status.json", {}))[0] == 404


def test_a_foreign_name_that_leads_here_is_refused(watched):
    for address in watched[1:]:
        port = address.rpartition(":")[2]
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
            assert refusal(lambda name=name, address=address: get(address, "/metrics", Host=name))[0] == 421
        for name in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert "nearhash" in get(address, "/metrics", Host=name)


def test_with_keys_everything_but_health_needs_one(tmp_path, rows):
    keys = tmp_path / "keys.json"
    reader, other = (add_key(keys, name, "read", [name]) for name in ("things", "others"))
    with Database(tmp_path / "data") as database:
        database.create("things", dim=DIM).upsert([1], rows[:1])
        config = ServerConfig(keys=keys)
        operations = free_pages()
        address, page = operations.metrics, operations.status_page
        with running_server(None, config=config, database=database, operations=operations) as server:
            for key in ("nonsense", other):
                with nh.Client(server, api_key=key) as client, pytest.raises(nh.errors.ServiceError):
                    client.collection("things").search(rows[0])
            assert get(page, "/healthz") == "ok\n"
            for call in (
                lambda: get(address, "/metrics"),
                lambda: get(page, "/status.json"),
                lambda: get(page, "/status.json", Authorization="Bearer nonsense"),
                lambda: post(page, "/search", {"collection": "things", "id": 1}),
            ):
                assert refusal(call)[0] == 401
            for key, names in ((reader, ["things"]), (other, [])):
                status = json.loads(get(page, "/status.json", Authorization=f"Bearer {key}"))
                assert [one["name"] for one in status["collections"]] == names
                counted = get(address, "/metrics", Authorization=f"Bearer {key}")
                assert ('collection="things"' in counted) == (names == ["things"])
                assert "nearhash_pending_requests 0.0" in counted
                assert "_other" not in counted  # it tells of collections that the key is not for
            seen = {
                line.split()[0]: float(line.split()[1])
                for line in get(address, "/metrics", Authorization=f"Bearer {reader}").splitlines()
                if line.startswith("nearhash_refusals_total")
            }
            for reason in ("unauthenticated", "permission"):
                assert seen[f'nearhash_refusals_total{{reason="{reason}"}}'] >= 1
            asked = {"collection": "things", "id": 1}
            assert len(post(page, "/search", asked, Authorization=f"Bearer {reader}")["points"]) == 1
            assert refusal(lambda: post(page, "/search", asked, Authorization=f"Bearer {other}"))[0] == 403


@pytest.mark.skipif(not other_address(), reason="needs an address beside loopback")
def test_beyond_loopback_pages_have_the_servers_certificate(tmp_path, rows):
    host = other_address()
    authority = trustme.CA()
    paths = [tmp_path / name for name in ("server.pem", "server.key")]
    issued = authority.issue_cert(host)
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    paths[1].chmod(0o600)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    address = free_pages().metrics.replace("127.0.0.1", host)
    operations = OperationsConfig(metrics=address)
    with (
        Database(tmp_path / "a") as database,
        pytest.raises(nh.errors.InvalidArgumentError, match="metrics: other machines can reach"),
        running_server(None, database=database, operations=operations),
    ):
        pass
    config = ServerConfig(transport=TransportConfig(*paths))
    with (
        Database(tmp_path / "b") as database,
        running_server(None, config=config, database=database, operations=operations),
    ):
        with socket.create_connection((host, int(address.rpartition(":")[2])), 20):  # says nothing, holds up nobody
            url = f"https://{address}/metrics"
            with urllib.request.urlopen(url, timeout=30, context=trusting) as answer:
                assert b"nearhash_pending_requests" in answer.read()
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            urllib.request.urlopen(url, timeout=5, context=ssl.create_default_context())
        with pytest.raises((http.client.HTTPException, OSError)):
            get(address, "/metrics")


def browsed(url, folder):
    """The document that a browser has made of a page."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={folder}",
        "--virtual-time-budget=4000", "--dump-dom", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_page_shows_collections_and_finds_points(watched, tmp_path):
    _, _, page = watched
    document = browsed(f"http://{page}/?collection=things&id=text", tmp_path)
    assert "<td>things</td>" in document.replace(' class=""', "")
    assert "250 flat" in document
    assert "10 points" in document
    assert "serving, version" in document
    assert "<title>nearhash</title>" in document  # what a payload says is text
    assert "&lt;script&gt;" in document
    assert "<img" not in document
