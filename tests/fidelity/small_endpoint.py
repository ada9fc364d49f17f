"""An OpenAI-compatible server on loopback: a made-up model, and every failure on demand.

with small_endpoint(Takes(...)) as server:
    server.script = [status(429, retry_after="0"), cut]   # what the next questions get
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Act = Callable[[BaseHTTPRequestHandler], None]

WORDS = (" red", " green", " blue", " white", " black")


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What this server can do; the rest it refuses, as real ones do."""

    key: str | None = None
    ids_in: bool = True
    ids_out: bool = True
    """tokens as token_id:N, and token_ids"""
    most_logprobs: int = 20
    logprobs: bool = True
    scores_prompts: bool = True
    echo: bool = False
    refuses_unknown: bool = False


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, takes: Takes, model: Callable[[Body], Body] | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.takes, self.model = takes, model
        self.script: list[Act] = []
        self.asked: list[Body] = []
        """questions that were answered"""
        self.seen: list[tuple[str, dict[str, str], Body]] = []
        """path, headers and body of every question"""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_args: Any) -> None:
        """A client that has gone is what some tests want."""


@contextlib.contextmanager
def small_endpoint(
    takes: Takes | None = None, model: Callable[[Body], Body] | None = None
) -> Iterator[Server]:
    server = Server(takes or Takes(), model)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        if self.server.script:
            self.server.script.pop(0)(self)
            return
        takes = self.server.takes
        if takes.key is not None and self.headers.get("Authorization") != f"Bearer {takes.key}":
            said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
            send(self, 401, {"error": {"message": said}})
            return
        if why := refusal(takes, body):
            send(self, 400, {"error": {"message": why}})
            return
        self.server.asked.append(body)
        chat = self.path.endswith("/chat/completions")
        answer = self.server.model or (lambda asked: made_up(takes, asked, chat=chat))
        send(self, 200, answer(body))

    def log_message(self, *_args: Any) -> None:
        """Quiet."""


def send(handler: BaseHTTPRequestHandler, code: int, content: Any, **headers: str) -> None:
    data = json.dumps(content).encode()
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, **headers: str) -> Act:
    """The next question gets this status and these headers."""
    return lambda handler: send(handler, code, {"error": {"message": f"status {code}"}}, **headers)


def cut(handler: BaseHTTPRequestHandler) -> None:
    """The connection breaks in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"te')
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    handler.close_connection = True


def text_of(text: str) -> Act:
    """200 with this text for a body."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())

    return act


def redirect(to: str) -> Act:
    return lambda handler: send(handler, 307, {}, Location=to)


def dripping(more: threading.Event) -> Act:
    """A byte now and then, as long as the test has not set `more`."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not more.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    return act


def refusal(takes: Takes, body: Body) -> str | None:
    asked: Any = body.get("top_logprobs", body.get("logprobs", 0))
    if not takes.ids_in and not isinstance(body.get("prompt", ""), str):
        return "prompt must be a string"
    if takes.logprobs and not isinstance(asked, bool) and asked > takes.most_logprobs:
        return f"logprobs must be at most {takes.most_logprobs}"
    if takes.refuses_unknown and "return_token_ids" in body:
        return "Unrecognized request argument supplied: return_token_ids"
    return None


def made_up(takes: Takes, body: Body, *, chat: bool = False) -> Body:
    """Answers in WORDS whose order the prompt's length decides."""
    if chat:
        prompt: Any = body["messages"][0]["content"]
    else:
        prompt = body["prompt"]
    length = len(prompt)
    ids = [(length + step) % len(WORDS) for step in range(body["max_tokens"])]
    choice: Body = {"finish_reason": "length"}
    named = takes.ids_out and body.get("return_tokens_as_token_ids", False)
    names = [f"token_id:{n}" if named else word for n, word in enumerate(WORDS)]
    text = "".join(WORDS[one] for one in ids)
    choice |= {"message": {"content": text}} if chat else {"text": text}
    if takes.ids_out and body.get("return_token_ids"):
        choice["token_ids"] = ids
        if isinstance(prompt, list):
            choice["prompt_token_ids"] = prompt
    top: int = body.get("top_logprobs") or body.get("logprobs", 0)
    if takes.logprobs and top:
        choice["logprobs"] = told(ids, names, top, chat=chat)
    if takes.scores_prompts and "prompt_logprobs" in body:
        each = {str(n): {"logprob": v} for n, v in likely(0, len(WORDS))}
        choice["prompt_logprobs"] = [None, *[each] * (length - 1)]
    if takes.echo and body.get("echo"):
        choice["logprobs"] = told([*[one % len(WORDS) for one in prompt], *ids], names, top)
    return {"choices": [choice], "usage": {"prompt_tokens": length}}


def likely(best: int, top: int) -> list[tuple[int, float]]:
    """(word, log probability): the best has e**-0.5, the others less and less."""
    order = [(best + step) % len(WORDS) for step in range(min(top, len(WORDS)))]
    return [(one, -0.5 - step) for step, one in enumerate(order)]


def told(ids: list[int], names: list[str], top: int, *, chat: bool = False) -> Body:
    tops = [{names[n]: v for n, v in likely(one, top)} for one in ids]
    if not chat:
        return {
            "tokens": [names[one] for one in ids],
            "token_logprobs": [-0.5] * len(ids),
            "top_logprobs": tops,
        }
    return {
        "content": [
            {
                "token": names[one],
                "logprob": -0.5,
                "top_logprobs": [{"token": t, "logprob": v} for t, v in each.items()],
            }
            for one, each in zip(ids, tops, strict=True)
        ]
    }
