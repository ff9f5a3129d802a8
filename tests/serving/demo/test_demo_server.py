"""The server of the page: who may ask, in which order, and how it ends."""

import http.client
import io
import json
import threading
import time

import numpy as np
import pytest

from mgdn_jax.errors import InputError
from mgdn_jax.io.codec import encode_png
from mgdn_jax.serving.demo import server, wire
from mgdn_jax.serving.demo.page import page
from mgdn_jax.serving.demo.turns import Turns

FILES = (("a.png", b"one"), ("b.png", b"another"))
LIMITS = wire.Limits(bytes=1000, files=3)


class Studio:
    """Counts; what it does with a request is the test's."""

    def __init__(self, work=lambda request, say: None):
        self.limits, self.work, self.requests = LIMITS, work, []

    def fuse(self, request, say):
        self.requests.append(request)
        self.work(request, say)
        return wire.Answer({"step": "done"}, (("image/png", b"result"),))


@pytest.fixture
def serve():
    """Starts a server on a free port; at the end it must come to rest."""
    running = []

    def start(work=lambda request, say: None, host="127.0.0.1"):
        found = server.Server(Studio(work), page([], LIMITS), host, 0)
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        running.append(found)
        return found

    yield start
    for found in running:
        found.shutdown()
        assert found.stop()


def body(files=FILES, **words):
    head = {"files": [{"name": name, "bytes": len(content)} for name, content in files], **words}
    return json.dumps(head).encode() + b"\n" + b"".join(content for _, content in files)


@pytest.fixture
def send():
    """Sends a request and gives the response, to be read."""
    connections = []

    def ask(found, method="POST", path="/fuse", content=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", found.server_address[1], timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            headers = {"Content-Type": wire.MEDIA_TYPE, **headers}
            content = body() if content is None else content
        connection.request(method, path, content, headers)
        connections.append(connection)
        connections.append(connection.getresponse())
        return connections[-1]

    yield ask
    for connection in connections:
        connection.close()


def steps(response):
    """The lines of an answer, and what follows them."""
    lines = []
    while not lines or lines[-1]["step"] not in ("done", "error"):
        lines.append(json.loads(response.readline()))
    return lines, response.read()


def until(condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never came true")


# ---------------------------------------------------------------------------------- requests


def test_a_request_reaches_the_studio_and_its_answer_the_page(serve, send):
    found = serve()
    response = send(found, content=body(task="focus", model="m", placing="align"))
    assert response.status == 200
    lines, rest = steps(response)
    assert lines == [{"step": "done", "files": [{"type": "image/png", "bytes": 6}]}]
    assert rest == b"result"
    uploads = tuple(wire.Upload(name, content) for name, content in FILES)
    assert found.studio.requests == [wire.Request(uploads, "focus", "m", "align")]


def test_the_page_is_served_with_a_strict_policy(serve, send):
    response = send(serve(), "GET", "/")
    assert response.status == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "script-src 'sha256-" in policy
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert b"{{" not in response.read()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/samples/coffee_near.jpg", 200), ("/samples/no.jpg", 404), ("/coffee_near.jpg", 404),
     ("/samples/../page.py", 404), ("/fuse", 404)],
)  # fmt: skip
def test_other_paths(serve, send, path, status):
    assert send(serve(), "GET", path).status == status


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "reload the page"),
        (b"{}\n", "reload the page"),
        (b"[1]\n", "reload the page"),
        (b"x" * 900, "reload the page"),
        (b'{"files": [{"name": "a", "bytes": -4}]}\nabcd', "reload the page"),
        (body() + b"more", "reload the page"),
        (b'{"files": [], "task": 7}\n', "reload the page"),
        (b"[" * 900, "reload the page"),
        (body((("x.png", b"-"),) * 4), "more than 3 pictures"),
    ],
)
def test_requests_that_are_none_end_in_a_sentence(serve, send, content, word):
    found = serve()
    response = send(found, content=content)
    assert response.status == 400
    [line], _ = steps(response)
    assert line["step"] == "error"
    assert word in line["says"]
    assert found.studio.requests == []


@pytest.mark.parametrize("length", ["10000000000000", "-1", "1e3", "٣", "9" * 5000])
def test_lengths_are_checked_before_a_byte_is_read(serve, send, length):
    if not length.isascii():
        length = length.encode().decode("latin-1")
    response = send(serve(), content=None, Content_Length=length)
    assert response.status == 400
    [line], _ = steps(response)
    assert "MB together" in line["says"] or "how long" in line["says"]


def test_names_are_shown_safely():
    names = [
        "a/b/IMG.png",
        "IMG.png",
        "..",
        "C:\\x\\y.tif",
        "\x1b[31mx.png",
        "",
        "x" * 300 + ".png",
    ]
    titles = wire.titles(names)
    assert titles[:4] == ["IMG.png", "IMG (2).png", "picture", "y.tif"]
    assert titles[5] == "picture (2)"
    assert all(title.isprintable() and len(title) <= 110 for title in titles)
    assert titles[6].endswith("x.png")


# ------------------------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("localhost:1", True), ("127.0.0.1", True), ("127.0.0.1:9000", True), ("[::1]:7", True),
     ("evil.example", False), ("localhost.evil.example", False), ("192.168.0.7:7860", False),
     ("", False), ("[", False), ("127.0.0.1.evil.example:7860", False)],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(serve, send, host, is_ours):
    found = serve()
    assert send(found, "GET", "/", Host=host).status == (200 if is_ours else 403)
    assert send(found, Host=host).status == (200 if is_ours else 403)
    until(lambda: len(found.studio.requests) == is_ours)


def test_a_page_for_the_network_answers_addresses_but_not_foreign_names(serve):
    found = serve(host="0.0.0.0")
    assert found.url.startswith("http://localhost:")
    assert found.names("192.168.0.7:7860")
    assert found.names("[fe80::1]:7860")
    assert found.names(server.socket.gethostname())
    assert not found.names("evil.example:7860")


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:3000"},
     {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
     {"Content_Type": "text/plain"}, {"Content_Type": "multipart/form-data; boundary=x"}],
)  # fmt: skip
def test_other_pages_cannot_send_pictures(serve, send, headers):
    found = serve()
    response = send(found, Host="localhost:7860", **headers)
    assert response.status in (403, 404)
    assert response.headers["Access-Control-Allow-Origin"] is None
    assert found.studio.requests == []


def test_a_link_from_another_page_opens_this_one_but_nothing_else(serve, send):
    found = serve()
    assert send(found, "GET", "/", Sec_Fetch_Site="cross-site").status == 200
    sample = "/samples/coffee_near.jpg"
    assert send(found, "GET", sample, Sec_Fetch_Site="cross-site").status == 403
    assert send(found, "OPTIONS", "/fuse").status == 501  # no permission for scripts elsewhere
    assert send(found, Host="localhost:5", Origin="http://localhost:5").status == 200


# -------------------------------------------------------------------------------- the queue


def test_one_at_a_time_in_the_order_of_coming(serve, send):
    going, order, gates = [], [], {name: threading.Event() for name in "abc"}

    def work(request, say):
        name = request.task
        going.append(name)
        order.append(name)
        assert going == [name]
        assert gates[name].wait(20)
        going.remove(name)

    found = serve(work)
    responses = {}
    for number, name in enumerate("abc"):
        responses[name] = send(found, content=body(task=name))
        if number:
            assert json.loads(responses[name].readline()) == {"step": "waiting", "ahead": number}
        else:
            until(lambda: order == ["a"])
    for name in "abc":
        gates[name].set()
        lines, _ = steps(responses[name])
        assert {line["step"] for line in lines[:-1]} <= {"waiting"}
    assert order == ["a", "b", "c"]


def test_too_many_are_asked_to_come_again(serve, send, monkeypatch):
    monkeypatch.setattr(server, "MOST_REQUESTS", 1)
    gate = threading.Event()
    found = serve(lambda request, say: gate.wait(20))
    first = send(found)
    second = send(found)
    assert second.status == 503
    [line], _ = steps(second)
    assert "try again" in line["says"]
    gate.set()
    assert steps(first)[1] == b"result"


@pytest.mark.parametrize("where", ["working", "waiting"])
def test_who_leaves_is_no_longer_waited_for(serve, send, where):
    ended, gate = threading.Event(), threading.Event()

    def work(request, say):
        if request.task == "stays":
            assert gate.wait(20)
            return
        try:
            while True:
                say({"step": "fusing"})
                time.sleep(0.01)
        finally:
            ended.set()

    found = serve(work)
    if where == "waiting":
        stays = send(found, content=body(task="stays"))
        until(lambda: found.studio.requests)
    response = send(found, content=body(task="leaves"))
    response.readline()
    response.close()
    if where == "waiting":
        until(lambda: len(found.turns._line) == 1)
        gate.set()
        assert steps(stays)[1] == b"result"
        assert [request.task for request in found.studio.requests] == ["stays"]
    else:
        assert ended.wait(20)
        gate.set()
        assert steps(send(found, content=body(task="stays")))[1] == b"result"


def test_a_turn_ends_with_what_its_wait_raises():
    turns = Turns()

    def leave(ahead):
        raise wire.Gone

    with turns.turn(leave), pytest.raises(wire.Gone), turns.turn(leave):
        pytest.fail("it is not its turn")
    with turns.turn(leave):
        pass


# -------------------------------------------------------------------------------- the edges


def test_a_complaint_is_the_last_step(serve, send):
    def work(request, say):
        say({"step": "reading"})
        raise InputError("a.png is no picture; give one.")

    lines, rest = steps(send(serve(work)))
    assert lines[-1] == {"step": "error", "says": "a.png is no picture; give one."}
    assert rest == b""


def test_a_flaw_tells_its_place_and_nothing_of_the_pictures(serve, send, capsys):
    def work(request, say):
        encode_png(np.zeros((2, 2), np.uint8))
        raise ValueError(request.uploads[0].name + "SECRET")

    found = serve(work)
    lines, _ = steps(send(found))
    assert "ValueError at " in lines[-1]["says"]
    until(lambda: not found.turns._line)
    steps(send(found))
    told = lines[-1]["says"] + "".join(capsys.readouterr())
    assert "SECRET" not in told
    assert "a.png" not in told
    assert "report it" in told


def test_places_that_cannot_be_listened_on(serve):
    port = serve().server_address[1]
    for host, number, word in (
        ("127.0.0.1", port, "is in use"),
        ("127.0.0.1", 70_000, "does not exist"),
        ("no.such.host.invalid", 0, "no name or address of this machine"),
        ("192.0.2.1", 0, "no name or address of this machine"),
        ("", -1, "does not exist"),
    ):
        with pytest.raises(InputError, match=word):
            server.Server(Studio(), page([], LIMITS), host, number)


def test_stop_does_not_wait_for_what_cannot_be_stopped(serve, send):
    begun, gate = threading.Event(), threading.Event()

    def work(request, say):
        begun.set()
        gate.wait(20)
        say({"step": "fusing"})

    found = serve(work)
    response = send(found)
    assert begun.wait(20)
    found.shutdown()
    assert not found.stop(0.2)
    gate.set()
    assert found.stop(20)
    assert response.read() == b""


def test_infinite_scores_travel_as_null():
    line = wire.line({"a": float("nan"), "b": [float("inf"), 1.5], "c": "ä\n"})
    assert json.loads(line) == {"a": None, "b": [None, 1.5], "c": "ä\n"}
    assert line.count(b"\n") == 1


def test_room_is_made_as_bytes_come():
    class Short(io.BytesIO):
        pass

    stream = Short(b'{"files": [{"name": "a", "bytes": 900}]}\nonly this')
    with pytest.raises(wire.Gone):
        wire.read(stream, len(b'{"files": [{"name": "a", "bytes": 900}]}\n') + 900, LIMITS)
