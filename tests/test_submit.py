"""Tests of the command that posts explanation parameters, against a local server."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from consilience import explain_params, submit
from consilience.errors import ConsilienceError

SECRET = "s3cr3t-t0ken"


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "explain_params.pkl"
    explain_params.write_params({"a.jpg": {"labels": (1,), "num_samples": 20}}, path)
    return path


@contextmanager
def serve(status, headers=(), wait=None):
    """A server that answers every request alike, echoes the token, and keeps what it was asked."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, dict(self.headers), body))
            if wait:
                wait.wait(10)
            self.send_response(status, f"your token is {self.headers['Authorization']}")
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if not wait:  # then nobody waits for it
                self.wfile.write(SECRET.encode())

        do_GET = do_POST

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/post", seen
    finally:
        if wait:
            wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def command(params, monkeypatch, capsys):
    monkeypatch.setenv(submit.TOKEN, SECRET)

    def run(url, *more):
        code = submit.main([str(params), "--url", url, *more])
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return run


def test_the_file_arrives_with_the_token(command, params):
    with serve(201) as (url, seen):
        code, said = command(url + "?key=hidden")
    assert code == 0
    assert said == f"posted {params} to {url}: 201\n"
    ((path, headers, body),) = seen
    assert path == "/post?key=hidden"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body == params.read_bytes()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "answered 400 Bad Request: it does not take this file"),
        (401, "answered 401 Unauthorized: it does not know the token; check CONSILIENCE_TOKEN"),
        (404, "answered 404 Not Found: there is nothing at this address"),
        (413, "answered 413 .*: the file is too large"),
        (418, "answered 418 "),
        (500, "answered 500 Internal Server Error: its own fault; try later"),
        (599, "answered 599 unknown status"),
    ],
)
def test_refusals_are_explained(command, status, said):
    with serve(status) as (url, seen):
        code, found = command(url)
    assert code == 1
    assert len(seen) == 1
    assert found.startswith(f"error: {url} ")
    assert re.search(said, found)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_token(command, status):
    with (
        serve(200) as (other, elsewhere),
        serve(status, [("Location", other)]) as (url, _),
    ):
        code, said = command(url)
    assert code == 1
    assert "give the final address as --url" in said
    assert elsewhere == []


def test_a_refused_connection_is_said(command):
    with serve(200) as (url, _):
        pass
    code, said = command(url)
    assert code == 1
    assert "cannot be reached (Connection refused)" in said


def test_a_silent_server_is_given_up(command):
    with serve(200, wait=threading.Event()) as (url, _):
        code, said = command(url, "--timeout", "0.2")
    assert code == 1
    assert "did not answer within 0.2 s" in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/post", "http would send the token to example.org in the open"),
        ("http://localhost.example.org/", "in the open"),
        ("http://127.0.0.1@example.org/", "holds a name or password"),
        ("ftp://example.org/post", "is no address"),
        ("example.org/post", "is no address"),
        ("https:///post", "is no address"),
        ("https://example.org:port/", "is no address"),
        ("https://example.org/a b", "is no address"),
    ],
)
def test_addresses_that_could_leak_are_refused(url, said):
    with pytest.raises(ConsilienceError, match=said):
        submit.check_url(url)


@pytest.mark.parametrize("url", ["https://example.org/post", "http://[::1]:80/post"])
def test_safe_addresses_are_taken_and_shown_without_their_query(url):
    assert submit.check_url(url + "?key=hidden") == url


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "töken"])
def test_a_token_that_cannot_be_sent_is_not_shown(params, token):
    with pytest.raises(ConsilienceError, match="must hold the token") as caught:
        submit.submit(params, "https://example.org", token)
    assert not token or token not in str(caught.value)


def test_only_explanation_parameters_leave_the_machine(tmp_path):
    path = tmp_path / "private.txt"
    path.write_text("private")
    with (
        serve(200) as (url, seen),
        pytest.raises(ConsilienceError, match=r"private\.txt: not a pickle"),
    ):
        submit.submit(path, url, SECRET)
    assert seen == []
