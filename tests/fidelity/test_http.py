"""What an endpoint may do to a client: each failure really happens, on loopback."""

import threading

import pytest
from small_endpoint import (
    Act,
    Takes,
    cut,
    dripping,
    hang_up,
    redirect,
    send,
    small_endpoint,
    status,
    text_of,
)

from perfkit.baseline.http import Client, Manners, Refused, retry_after_s
from perfkit.errors import ConfigError, PerfkitError

KEY = "sk-a-very-secret-key-0123456789"
QUESTION = {"model": "m", "prompt": [1, 2], "max_tokens": 1, "temperature": 0}


class Waits:
    """Sleeps that take no time, and a clock that they move."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self.now_s = 1000.0

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def clock(self) -> float:
        return self.now_s


def a_client(url: str, waits: Waits, key: str | None = KEY, **manners: float) -> Client:
    return Client(
        url,
        key,
        Manners(**manners),  # type: ignore[arg-type]
        lambda _line: None,
        sleep=waits.sleep,
        clock=waits.clock,
    )


@pytest.mark.parametrize(
    "failure",
    [cut, hang_up, status(500), status(503), text_of("<html>oops</html>"), text_of("[1, 2]")],
    ids=["cut", "hang up", "500", "503", "not JSON", "no object"],
)
def test_a_failure_that_may_pass_is_asked_again_after_longer_and_longer_waits(
    failure: Act,
) -> None:
    waits = Waits()
    with small_endpoint() as server:
        server.script = [failure, failure, failure]
        answer = a_client(server.url, waits).post("completions", QUESTION)
    assert answer["choices"][0]["text"] == " blue"
    assert waits.slept_s == [1.0, 2.0, 4.0]
    assert len(server.seen) == 4


def test_retry_after_is_waited_for() -> None:
    waits = Waits()
    with small_endpoint() as server:
        server.script = [status(429, Retry_After="17"), status(429)]
        a_client(server.url, waits).post("completions", QUESTION)
    assert waits.slept_s == [17.0, 2.0]


def test_a_wait_of_hours_ends_the_making_instead() -> None:
    waits = Waits()
    with small_endpoint() as server:
        server.script = [status(429, Retry_After="7200")]
        with pytest.raises(PerfkitError, match=r"asks to wait 7200 s\. What was answered is kept"):
            a_client(server.url, waits).post("completions", QUESTION)
    assert waits.slept_s == []


def test_tries_end() -> None:
    waits = Waits()
    with small_endpoint() as server:
        server.script = [status(500)] * 9
        with pytest.raises(PerfkitError, match="answered 500, 3 times"):
            a_client(server.url, waits, retries=2).post("completions", QUESTION)
    assert len(server.seen) == 3
    assert waits.slept_s == [1.0, 2.0]


def test_an_answer_that_never_ends_is_given_up() -> None:
    more = threading.Event()
    with small_endpoint() as server:
        server.script = [dripping(more)]
        client = Client(server.url, None, Manners(timeout_s=0.2, retries=0), lambda _line: None)
        with pytest.raises(PerfkitError, match=r"gave no whole answer within 0\.2 s"):
            client.post("completions", QUESTION)
        more.set()


def test_nobody_listening_is_said() -> None:
    with small_endpoint() as server:
        url = server.url
    with pytest.raises(PerfkitError, match=r"cannot be reached or broke off .*refused"):
        a_client(url, Waits(), retries=1).post("completions", QUESTION)


def test_questions_a_minute_are_kept_to() -> None:
    waits = Waits()
    with small_endpoint() as server:
        client = a_client(server.url, waits, requests_per_minute=30)
        for _ in range(3):
            client.post("completions", QUESTION)
    assert waits.slept_s == [2.0, 2.0]


def test_a_wrong_key_is_a_clear_error_that_does_not_show_it() -> None:
    with small_endpoint(Takes(key="another")) as server:
        with pytest.raises(ConfigError, match="401: it does not accept the key") as wrong:
            a_client(server.url, Waits()).post("completions", QUESTION)
        with pytest.raises(ConfigError, match="401: it wants a key"):
            a_client(server.url, Waits(), key=None).post("completions", QUESTION)
    assert KEY not in str(wrong.value)
    assert len(server.seen) == 2


def test_a_refusal_is_told_once_without_the_key_that_the_server_repeats() -> None:
    waits = Waits()
    with small_endpoint() as server:
        server.script = [text_and_status(404, f"no model m for key {KEY}")]
        with pytest.raises(Refused, match=r"404: no model m for key \[hidden\] Check --model"):
            a_client(server.url, waits).post("completions", QUESTION)
    assert waits.slept_s == []


def text_and_status(code: int, message: str) -> Act:
    return lambda handler: send(handler, code, {"error": {"message": message}})


def test_a_redirect_does_not_get_the_key() -> None:
    with small_endpoint() as other, small_endpoint() as server:
        server.script = [redirect(f"{other.url}/completions")]
        with pytest.raises(ConfigError, match="redirects to http://127"):
            a_client(server.url, Waits()).post("completions", QUESTION)
    assert other.seen == []


def test_an_error_inside_200_is_asked_again() -> None:
    waits = Waits()
    with small_endpoint() as server:
        server.script = [text_of('{"error": {"message": "upstream is down"}}')]
        a_client(server.url, waits).post("completions", QUESTION)
    assert waits.slept_s == [1.0]


def test_retry_after_takes_seconds_and_dates() -> None:
    assert retry_after_s("2.5") == 2.5
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("soon") is None
    assert retry_after_s(None) is None
