"""`mgdn demo`: its port, its address, its end."""

import http.client
import signal
import socket
import subprocess
import sys

import pytest
from helpers import environment

from mgdn_jax.cli import main as cli
from mgdn_jax.serving.demo import server


@pytest.fixture
def interrupted(monkeypatch):
    """A server that is interrupted as soon as it runs."""

    def interrupt(self, poll_interval=0.5):
        raise KeyboardInterrupt

    monkeypatch.setattr(server.Server, "serve_forever", interrupt)


def test_it_says_where_the_page_is_and_ends_cleanly(interrupted, capsys):
    assert cli.main(["demo", "--port", "0"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("page    http://127.0.0.1:")
    assert lines[1:] == ["stop    Ctrl-C", "stopped; nothing was kept."]
    assert err == ""


def test_a_page_for_the_network_is_warned_of(interrupted, capsys):
    assert cli.main(["demo", "--port", "0", "--host", "0.0.0.0"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("page    http://localhost:")
    assert err.startswith("mgdn: warning: everybody who reaches this machine")
    assert err.count("\n") == 1
    assert cli.main(["demo", "--port", "0", "--host", "localhost"]) == 0
    assert capsys.readouterr().err == ""


def test_a_port_in_use_is_one_sentence(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["demo", "--port", str(taken.getsockname()[1])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is in use; choose another one with --port" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--port 70000", "port 70000 does not exist"),
        ("--port x", "invalid int value"),
        ("--host no.such.host.invalid", "is no name or address of this machine"),
        ("--model mgdn-nff", "there is no model"),
        ("--model mgdn-hdr", "use mgdn hdr"),
        ("--max-megapixels 0", "--max-megapixels is 0"),
        ("--max-megabytes -3", "--max-megabytes is -3"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(capsys, words, sentence):
    assert cli.main(["demo", *words.split()]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it(end, tmp_path):
    command = [sys.executable, "-m", "mgdn_jax", "demo", "--port", "0", "--model", "refusion-ivf"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(tmp_path)),
    ) as process:
        try:
            url = process.stdout.readline().split()[1]
            connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"))
            connection.request("GET", "/")
            assert b"refusion-ivf" in connection.getresponse().read()
            connection.close()
            assert [path.name[:10] for path in tmp_path.iterdir()] == ["mgdn-demo-"]
            process.send_signal(end)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # or a program that does not end would be waited for
    assert out.endswith("stopped; nothing was kept.\n")
    assert err == ""
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
