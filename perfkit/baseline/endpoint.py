"""What an OpenAI-compatible endpoint is asked, and how its answers are read.

Servers differ in what they take: vLLM takes prompts as token ids and gives ids back, OpenAI tells
at most five tokens a place, many tell none. So the first prompt is asked in the best way first,
then in plainer ones until the endpoint takes it; all others are asked in that way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfkit.baseline.http import Client, Refused
from perfkit.errors import ConfigError, PerfkitError

FEW_LOGPROBS = 5
NOT_TAKEN = (400, 422)
"""what servers answer to a field, a kind of prompt or a number they do not take"""
# vLLM's: ids beside or instead of the tokens' texts. Others ignore or refuse them.
WITH_IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}
ID_PREFIX = "token_id:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked of the endpoint, the same for every prompt."""

    model: str
    api: str = "completions"
    """completions (the text goes on) or chat"""
    new_tokens: int = 32
    logprobs: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of asking that a server may or may not take."""

    as_ids: bool
    """the prompt as token ids"""
    with_ids: bool
    logprobs: int

    @property
    def told(self) -> str:
        prompt = "token ids" if self.as_ids else "text"
        back = f"{self.logprobs} log probabilities a place" if self.logprobs else "no logprobs"
        return f"prompts as {prompt}, {back}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One token of an answer: its text or id, and the most likely ones in its place."""

    token: str
    logprob: float | None
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer as the endpoint gave it; places are None where it tells no log probabilities."""

    text: str
    finish_reason: str | None
    token_ids: tuple[int, ...] | None
    prompt_token_ids: tuple[int, ...] | None
    prompt_tokens: int | None
    """how many the endpoint counted"""
    places: tuple[Place, ...] | None


class Malformed(PerfkitError):
    """JSON without what an answer must have."""


def ways(asking: Asking, *, has_ids: bool, has_text: bool) -> Iterator[Way]:
    """From the best to the plainest."""
    kinds = [True] * (has_ids and asking.api == "completions") + [False] * has_text
    for as_ids in kinds:
        full = Way(as_ids=as_ids, with_ids=True, logprobs=asking.logprobs)
        yield full
        yield replace(full, with_ids=False)
        if asking.logprobs > FEW_LOGPROBS:
            yield replace(full, with_ids=False, logprobs=FEW_LOGPROBS)
        if asking.logprobs:
            yield replace(full, with_ids=False, logprobs=0)


def find_way(
    client: Client, asking: Asking, text: str | None, ids: Sequence[int] | None
) -> tuple[Way, Reply]:
    """The best way that the endpoint takes, and its answer; Refused when it takes none."""
    refused: Refused | None = None
    for way in ways(asking, has_ids=ids is not None, has_text=text is not None):
        try:
            return way, ask(client, asking, way, text, ids)
        except Refused as error:
            if error.status not in NOT_TAKEN:
                raise
            # The plainest question's refusal says what is really wrong.
            refused = error
    assert refused is not None
    raise refused


def ask(
    client: Client, asking: Asking, way: Way, text: str | None, ids: Sequence[int] | None
) -> Reply:
    """One greedy answer to one prompt."""
    question: dict[str, Any] = {
        "model": asking.model,
        "max_tokens": asking.new_tokens,
        "temperature": 0,
        **(WITH_IDS if way.with_ids else {}),
    }
    if asking.api == "chat":
        question["messages"] = [{"role": "user", "content": text}]
        if way.logprobs:
            question |= {"logprobs": True, "top_logprobs": way.logprobs}
        return reply_of(client.post("chat/completions", question))
    question["prompt"] = list(ids or ()) if way.as_ids else text
    if way.logprobs:
        question["logprobs"] = way.logprobs
    return reply_of(client.post("completions", question))


def reply_of(content: Mapping[str, Any]) -> Reply:
    """Malformed when there is no answer in it."""
    try:
        choice = content["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        usage = content.get("usage") or {}
        return Reply(
            text=text or "",
            finish_reason=choice.get("finish_reason"),
            token_ids=_ids(choice.get("token_ids")),
            prompt_token_ids=_ids(choice.get("prompt_token_ids", content.get("prompt_token_ids"))),
            prompt_tokens=usage.get("prompt_tokens"),
            places=_places(choice.get("logprobs")),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Malformed(
            f"the endpoint's answer has no {error}: it is no OpenAI-compatible completion. Check "
            "--endpoint and --api.",
        ) from None


def _ids(value: Sequence[int] | None) -> tuple[int, ...] | None:
    return tuple(value) if value else None


def _places(content: Mapping[str, Any] | None) -> tuple[Place, ...] | None:
    """From the form of chat answers, or the older one of completions."""
    if not content:
        return None
    if content.get("content"):
        return tuple(_chat_place(entry) for entry in content["content"])
    tokens, own = content.get("tokens"), content.get("token_logprobs")
    if not tokens or not own:
        return None
    tops = content.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        Place(token=token, logprob=value, top=top or {})
        for token, value, top in zip(tokens, own, tops, strict=True)
    )


def _chat_place(entry: Mapping[str, Any]) -> Place:
    top = {one["token"]: one["logprob"] for one in entry.get("top_logprobs") or ()}
    return Place(token=entry["token"], logprob=entry["logprob"], top=top)


def score(
    client: Client,
    asking: Asking,
    ids: Sequence[int],
    path: Sequence[int],
    logprobs: int,
    *,
    known: bool,
) -> tuple[Place, ...] | None:
    """What the endpoint gives to the tokens of `path` after the prompt `ids`; None if it cannot.

    vLLM's prompt_logprobs, else the echo of the older completions interface. Unless it is `known`
    to be able to, a server that breaks over such a question is taken for one that is not.
    """
    whole = [*ids, *path]
    common = {"model": asking.model, "prompt": whole, "max_tokens": 1, "temperature": 0}
    for more in ({"prompt_logprobs": logprobs}, {"echo": True, "logprobs": logprobs, **WITH_IDS}):
        try:
            content = client.post("completions", {**common, **more})
            places = _prompt_places(content["choices"][0], whole)
        except ConfigError:
            raise
        except PerfkitError as error:
            if known or (isinstance(error, Refused) and error.status not in NOT_TAKEN):
                raise
            continue
        except (KeyError, IndexError, TypeError, ValueError):
            continue
        if places is not None:
            return places[len(ids) :]
    return None


def _prompt_places(choice: Mapping[str, Any], whole: Sequence[int]) -> tuple[Place, ...] | None:
    """Of every token of the prompt; the first has nothing before it."""
    if told := choice.get("prompt_logprobs"):
        return tuple(_prompt_place(token, top) for token, top in zip(whole, told, strict=True))
    places = _places(choice.get("logprobs"))
    if places is None or len(places) < len(whole):
        return None
    return places[: len(whole)]


def _prompt_place(token: int, top: Mapping[str, Mapping[str, Any]] | None) -> Place:
    known = {f"{ID_PREFIX}{one}": entry["logprob"] for one, entry in (top or {}).items()}
    name = f"{ID_PREFIX}{token}"
    return Place(token=name, logprob=known.get(name), top=known)
