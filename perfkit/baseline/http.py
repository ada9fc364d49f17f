"""Asks an HTTP endpoint for JSON, again when that may help. Standard library only.

urllib and not httpx: one question at a time with one short answer needs no pool, no streaming and
no HTTP/2, and a login node then needs no extra. Neither retries, heeds Retry-After or limits the
time of a whole answer: that is here in any case.

The key is sent to the endpoint and goes nowhere else: redirects are not followed, and no message
that leaves this module holds it.
"""

import email.utils
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perfkit import __version__
from perfkit.errors import ConfigError, PerfkitError
from perfkit.secrets import HIDDEN, without_secrets

WORTH_ANOTHER_TRY = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
FIRST_WAIT_S, LONGEST_BACKOFF_S, LONGEST_WAIT_S = 1.0, 60.0, 600.0
CHUNK_BYTES, MESSAGE_CHARACTERS = 1 << 16, 400


class Refused(PerfkitError):
    """The endpoint understood and said no; asking the same again is of no use."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that gave no answer but may give one later."""

    what: str
    wait_s: float | None = None
    """what the endpoint asks for"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How patient and how polite to be."""

    timeout_s: float = 120.0
    """for one answer, from the question to its last byte"""
    retries: int = 5
    requests_per_minute: float | None = None


class Client:
    """Posts questions to one endpoint, one at a time."""

    def __init__(
        self,
        base_url: str,
        key: str | None,
        manners: Manners,
        story: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_url, self._key, self.manners = base_url, key, manners
        self.story, self._sleep, self._clock = story, sleep, clock
        self._opener = urllib.request.build_opener(NoRedirect)
        self._last_s: float | None = None

    def post(self, path: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer; Refused for a no, PerfkitError when every try has failed."""
        url = f"{self.base_url}/{path}"
        for number in range(self.manners.retries + 1):
            self._pace()
            answer = self._once(url, question)
            if isinstance(answer, dict):
                return answer
            failure, wait_s = answer, answer.wait_s
            if wait_s is None:
                wait_s = min(FIRST_WAIT_S * 2**number, LONGEST_BACKOFF_S)
            if wait_s > LONGEST_WAIT_S:
                raise PerfkitError(
                    f"{url} {failure.what} and asks to wait {wait_s:.0f} s. What was answered is "
                    "kept: type the same command after that time, and it goes on.",
                )
            if number < self.manners.retries:
                self.story(f"{url} {failure.what}; asking again in {wait_s:.3g} s")
                self._sleep(wait_s)
        raise PerfkitError(
            f"{url} {failure.what}, {self.manners.retries + 1} times. What was answered is kept: "
            "type the same command when the endpoint is well, and it goes on.",
        )

    def _pace(self) -> None:
        """Never more often than was asked for."""
        if self.manners.requests_per_minute is None:
            return
        if self._last_s is not None:
            pause_s = self._last_s + 60 / self.manners.requests_per_minute - self._clock()
            if pause_s > 0:
                self._sleep(pause_s)
        self._last_s = self._clock()

    def _once(self, url: str, question: Mapping[str, Any]) -> dict[str, Any] | Failure:
        headers = {"Content-Type": "application/json", "User-Agent": f"perfkit/{__version__}"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(question).encode()
        request = urllib.request.Request(url, data=data, headers=headers)
        until_s = self._clock() + self.manners.timeout_s
        try:
            with self._opener.open(request, timeout=self.manners.timeout_s) as response:
                return self._answer(self._read(response, until_s))
        except urllib.error.HTTPError as error:
            with error:
                return self._no(url, error)
        except TimeoutError:
            return Failure(f"gave no whole answer within {self.manners.timeout_s:.3g} s")
        except (OSError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise ConfigError(
                    f"{url} shows a certificate that is not trusted here; no key was sent. Check "
                    "the address, or name the site's certificates in SSL_CERT_FILE.",
                ) from None
            return Failure(f"cannot be reached or broke off ({self._safe(_cause(error))})")

    def _read(self, response: http.client.HTTPResponse, until_s: float) -> bytes:
        """The whole body; a server that sends a byte now and then must not take for ever."""
        parts = []
        while part := response.read1(CHUNK_BYTES):
            parts.append(part)
            if self._clock() > until_s:
                raise TimeoutError
        return b"".join(parts)

    def _answer(self, body: bytes) -> dict[str, Any] | Failure:
        try:
            content = json.loads(body)
        except ValueError:
            return Failure(f"answered with what is not JSON ({self._safe(_start(body))})")
        if not isinstance(content, dict):
            return Failure("answered with JSON that is no object")
        if content.get("error") and "choices" not in content:
            # Some gateways say 200 and put the error of the server behind them inside.
            return Failure(f"answered with an error ({self._safe(_message(content))})")
        return content

    def _no(self, url: str, error: urllib.error.HTTPError) -> Failure:
        """Failure for a status that may pass; an error with what to do for one that will not."""
        status = error.code
        if status in WORTH_ANOTHER_TRY:
            return Failure(f"answered {status}", retry_after_s(error.headers.get("Retry-After")))
        said = self._safe(_said(error))
        if status == 401:
            raise ConfigError(f"{url} answered 401: {self._about_key()}")
        if 300 <= status < 400:
            to = self._safe(str(error.headers.get("Location", "another address")))
            raise ConfigError(
                f"{url} redirects to {to}; the key is not sent on. Give that address to --endpoint."
            )
        hints = {
            403: "The key may not use this model.",
            404: "Check --model, and whether --endpoint needs /v1 at its end.",
        }
        raise Refused(f"{url} answered {status}: {said} {hints.get(status, '')}".rstrip(), status)

    def _about_key(self) -> str:
        if self._key is None:
            return "it wants a key, and the variable of --key-env is not set. Export it."
        return "it does not accept the key in the variable of --key-env. Check the key."

    def _safe(self, text: str) -> str:
        """Without the key, which some servers repeat in their messages."""
        if self._key:
            text = text.replace(self._key, HIDDEN)
        return without_secrets(text)[:MESSAGE_CHARACTERS]


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to an address that nobody named."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date; None where it says neither."""
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(when.timestamp() - time.time(), 0.0)


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}" if str(reason) else type(reason).__name__


def _said(error: urllib.error.HTTPError) -> str:
    """The message in an error's body, in the form most servers use, else its start."""
    try:
        body = error.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException):
        return ""
    try:
        content = json.loads(body)
    except ValueError:
        return _start(body)
    return _message(content)


def _message(content: Any) -> str:
    inner = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(inner, dict):
        inner = inner.get("message", inner.get("detail", inner))
    return str(inner)


def _start(body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= 80 else text[:77] + "...")
