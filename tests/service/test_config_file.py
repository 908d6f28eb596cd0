"""The configuration file: what it may say, and that nothing in it is passed over."""

import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearhash.errors import InvalidArgumentError
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.config_file import OperationsConfig, ServiceConfig, load_config
from nearhash.service.security.key_file import read_keys
from nearhash.service.security.transport import TransportConfig, server_credentials

REPOSITORY = Path(__file__).resolve().parents[2]

COMPLETE = """
[server]
listen = "0.0.0.0:6000"
data = "collections"
workers = 4
search_threads = 2
readers = 3
grace = 5

[limits]
max_k = 100
max_payload_depth = 7

[tls]
certificate = "tls/server.pem"
private_key = "/etc/server.key"
client_ca = "../ca.pem"

[security]
keys = "keys.json"
audit = "audit.log"
insecure = false
check_permissions = false

[operations]
metrics = "0.0.0.0:9090"
status_page = "127.0.0.1:8080"
slow_seconds = 2
log_format = "json"
log_level = "warning"
"""


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> Path:
        path = tmp_path / "nearhash.toml"
        path.write_text(text)
        return path

    return written


def test_everything_is_read_and_paths_are_relative_to_the_file(write, tmp_path):
    assert load_config(write(COMPLETE)) == ServiceConfig(
        server=ServerConfig(
            limits=Limits(max_k=100, max_payload_depth=7),
            workers=4,
            search_threads=2,
            grace=5.0,
            transport=TransportConfig(
                tmp_path / "tls" / "server.pem",
                Path("/etc/server.key"),
                tmp_path / ".." / "ca.pem",
                check_permissions=False,
            ),
            keys=tmp_path / "keys.json",
            audit=tmp_path / "audit.log",
        ),
        listen="0.0.0.0:6000",
        data=tmp_path / "collections",
        readers=3,
        operations=OperationsConfig("0.0.0.0:9090", "127.0.0.1:8080", "json", "warning", slow_seconds=2.0),
    )


def test_without_a_file_and_with_an_empty_one_the_defaults_hold(write):
    assert load_config() == load_config(write("")) == ServiceConfig()


def test_the_command_line_wins(write):
    overrides = {
        "server.listen": "127.0.0.1:1",
        "server.data": "here",
        "limits.max_k": 7,
        "security.insecure": True,
        "server.workers": None,
    }
    config = load_config(write(COMPLETE), overrides)
    assert config.listen == "127.0.0.1:1"
    assert config.data == Path("here")  # relative to the working directory
    assert config.server.limits == Limits(max_k=7, max_payload_depth=7)
    assert config.server.transport.insecure
    assert config.server.workers == 4  # None says nothing
    assert load_config(None, overrides).server.limits.max_k == 7


def test_every_limit_can_be_set(write):
    limits = {bound.name: 1 for bound in fields(Limits)}
    text = "[limits]\n" + "".join(f"{name} = {value}\n" for name, value in limits.items())
    assert load_config(write(text)).server.limits == Limits(**limits)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\nlistn = 'a:1'", "[server]: unknown name 'listn'; did you mean listen?"),
        ("[sever]", "section: unknown name 'sever'; did you mean server?"),
        ("[x]", "section: unknown name 'x'; there are server, limits, tls, security, operations"),
        ("listen = 'a:1'", "section: unknown name 'listen'"),
        ("server = 7", "server: expected a section [server], got 7"),
        ("[limits]\nmax_rovs = 1", "did you mean max_rows?"),
        ("[limits]\nmax_k = '1'", "[limits] max_k: expected an integer, got '1'"),
        ("[limits]\nmax_k = 1.0", "[limits] max_k: expected an integer, got 1.0"),
        ("[limits]\nmax_k = true", "[limits] max_k: expected an integer, got True"),
        ("[limits]\nmax_k = 0", "max_k: expected an integer from 1 to 2147483647, got 0"),
        ("[limits]\nmax_dim = 32769", "max_dim: expected an integer from 1 to 32768"),
        ("[limits]\nmax_payload_depth = 33", "max_payload_depth: expected an integer from 1 to 32"),
        ("[server]\nlisten = 7", "[server] listen: expected a text, got 7"),
        ("[server]\nlisten = 'localhost'", "listen: expected host:port, got 'localhost'"),
        ("[server]\nlisten = 'localhost:65536'", "listen: expected host:port"),
        ("[server]\ngrace = nan", "grace: expected seconds >= 0"),
        ("[server]\ngrace = 'long'", "grace: expected a number"),
        ("[server]\nreaders = 65", "readers: expected an integer from 0 to 64"),
        ("[server]\nworkers = 0", "workers: expected an integer from 1 to 1024"),
        ("[server]\ndata = ''", "data: expected a path"),
        ('[server]\ndata = "a\\u0000"', "data: expected a path"),
        ("[tls]\ncertificate = 'a'", "private_key: expected a file"),
        ("[tls]\nclient_ca = 'a'", "client_ca: expected a certificate and private_key"),
        ("[security]\ninsecure = 1", "insecure: expected true or false, got 1"),
        ("[security]\ninsecure = 'true'", "insecure: expected true or false, got 'true'"),
        ("[operations]\nlog_level = 'loud'", "log_level: expected debug or info or warning or error, got 'loud'"),
        ("[operations]\nlog_format = 'xml'", "log_format: expected text or json, got 'xml'"),
        ("[operations]\nmetrics = '9090'", "metrics: expected host:port"),
        ("[server", "is not TOML: Expected"),
        ("[server]\ngrace = 1\ngrace = 2", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
        ("[server]\nlisten = '0.0.0.0:1'", "listen: other machines can reach 0.0.0.0:1"),
        ("[operations]\nslow_seconds = nan", "slow_seconds: expected seconds >= 0, got nan"),
        ("[operations]\nslow_seconds = 'long'", "slow_seconds: expected a number"),
        ("[operations]\nmetrics = '0.0.0.0:1'", "metrics: other machines can reach 0.0.0.0:1"),
        ("[operations]\nstatus_page = '0.0.0.0:1'", "status_page: other machines can reach 0.0.0.0:1"),
    ],
)
def test_mistakes_are_named(write, text, complaint):
    path = write(text)
    with pytest.raises(InvalidArgumentError) as refused:
        load_config(path)
    assert complaint in str(refused.value)
    assert str(path) in str(refused.value)


def test_listening_beyond_loopback_can_be_allowed(write, caplog):
    text = "[server]\nlisten = '0.0.0.0:1'\n[operations]\nstatus_page = '0.0.0.0:2'\n[security]\ninsecure = true"
    assert load_config(write(text)).server.transport.insecure
    assert not caplog.records  # the server warns, once
    with pytest.raises(InvalidArgumentError, match="listen: other machines"):
        load_config(None, {"server.listen": "0.0.0.0:1"})


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"config: cannot read .*: No such file"):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgumentError, match="is not TOML"):
        load_config(tmp_path / "binary.toml")


@given(st.text() | st.binary())
def test_any_file_is_a_configuration_or_one_kind_of_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        load_config(path)
    except InvalidArgumentError:
        return


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_quick_start_of_the_guide_works(tmp_path):
    """Its commands make certificates that its configuration takes, for the name in it and by the authority in it."""
    guide = (REPOSITORY / "docs" / "security.md").read_text()
    script, configuration = (guide.split(f"```{kind}\n")[1].split("```")[0] for kind in ("sh", "toml"))
    nearhash = f"{shlex.quote(sys.executable)} -m nearhash.command_line"
    command = f'set -eu; nearhash() {{ {nearhash} "$@"; }}\n{script}'
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (tmp_path / "nearhash.toml").write_text(configuration)
    config = load_config(tmp_path / "nearhash.toml")
    server_credentials(config.server.transport)
    assert [entry.principal.role for entry in read_keys(config.server.keys)] == ["admin", "read"]
    assert config.server.audit is not None
    for purpose, name in (("sslserver", "server"), ("sslclient", "client")):
        verified = ["openssl", "verify", "-CAfile", "ca.pem", "-purpose", purpose, f"{name}.pem"]
        if name == "server":
            verified[-1:-1] = ["-verify_hostname", "search.example"]
        subprocess.run(verified, cwd=tmp_path, check=True, capture_output=True, timeout=60)
