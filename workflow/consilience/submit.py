"""Post explanation parameters to an address: ``python -m consilience.submit FILE --url URL``.

The token comes from the environment variable ``CONSILIENCE_TOKEN`` and goes out as a bearer token
(RFC 6750) over https, or plain http to this machine itself. Redirects are not followed, so it
reaches no other host. No message holds it.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from .errors import ConsilienceError
from .explain_params import read_params

TOKEN = "CONSILIENCE_TOKEN"
TIMEOUT = 30.0
"""Seconds that the server may be silent."""

_LOCAL = ("localhost", "127.0.0.1", "::1")
_ADVICE = {
    400: "it does not take this file",
    401: f"it does not know the token; check {TOKEN}",
    403: f"the token may not post there; check {TOKEN} and the address",
    404: "there is nothing at this address; check --url",
    405: "nothing can be posted to this address; check --url",
    413: "the file is too large for it",
    429: "too many requests; try again later",
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args, **kwargs):
        return None


def check_url(url: str) -> str:
    """Return the address as messages may show it: without a query, which can hold secrets.

    Raises
    ------
    ConsilienceError
        If it is no address, holds a password, or would carry the token in the open.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConsilienceError(f"--url is no address ({error})") from None
    if parts.scheme not in ("https", "http") or not host or any(map(str.isspace, url)):
        raise ConsilienceError("--url is no address; give one like https://example.org/params")
    if "@" in parts.netloc:
        raise ConsilienceError(f"--url holds a name or password; leave it out, {TOKEN} does that")
    if parts.scheme == "http" and host not in _LOCAL:
        raise ConsilienceError(f"--url: http would send the token to {host} in the open; use https")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def submit(path: str | Path, url: str, token: str, timeout: float = TIMEOUT) -> int:
    """Post a file of explanation parameters.

    Parameters
    ----------
    path
        The file; it is read as :func:`consilience.explain_params.read_params` does, so that
        nothing else leaves the machine by mistake.
    url
        Where to; https, or http to this machine.
    token
        The bearer token.
    timeout
        Seconds that the server may be silent.

    Returns
    -------
    int
        The server's status, 200 to 299.

    Raises
    ------
    ConsilienceError
        If the file, the address or the token cannot be used, the server cannot be reached, or it
        answers with anything but success. The message never holds the token.
    """
    shown = check_url(url)
    # http.client would quote a header that it refuses.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConsilienceError(
            f"the environment variable {TOKEN} must hold the token: printable ASCII, no spaces"
        )
    read_params(path)
    request = urllib.request.Request(
        url,
        data=Path(path).read_bytes(),
        method="POST",
        headers={"Content-Type": "application/octet-stream"},
    )
    request.add_unredirected_header("Authorization", f"Bearer {token}")
    handlers = [_NoRedirect()]
    if request.type == "http":  # to this machine: not by way of a proxy
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        code = error.code
        error.close()
    except TimeoutError:
        raise ConsilienceError(
            f"{shown} did not answer within {timeout:g} s; try again later"
        ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            said = f"no connection within {timeout:g} s"
        else:
            said = getattr(error.reason, "strerror", None) or type(error.reason).__name__
        raise ConsilienceError(
            f"{shown} cannot be reached ({said}); check --url and the network"
        ) from None
    except (OSError, HTTPException) as error:
        # A server that refuses a large file may hang up before it has all of it.
        raise ConsilienceError(
            f"{shown} broke the connection ({type(error).__name__}); is it the right address, and "
            "does it take a file of this size?"
        ) from None
    if 300 <= code < 400:
        advice = "it redirects, and the token is not sent on; give the final address as --url"
    else:
        advice = _ADVICE.get(code, "its own fault; try later" if code >= 500 else "see its manual")
    # The server words its reason phrase as it likes: it could quote the token.
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "unknown status"
    raise ConsilienceError(f"{shown} answered {code} {phrase}: {advice}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m consilience.submit",
        description=f"Post explain_params.pkl to an address, with the bearer token in {TOKEN}.",
    )
    parser.add_argument(
        "file", help="such as results/default/explain/object-net/explain_params.pkl"
    )
    parser.add_argument("--url", required=True, help="address to post it to, https")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds (%(default)g)")
    options = parser.parse_args(arguments)
    try:
        status = submit(options.file, options.url, os.environ.get(TOKEN, ""), options.timeout)
    except ConsilienceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"posted {options.file} to {check_url(options.url)}: {status}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
