"""Prompts to microbatches: padding on the left, exact lengths, the model's own start token."""

import torch

from perfkit.collect.settings import RunSettings
from perfkit.engine.batch import (
    Request,
    make_microbatches,
    make_requests,
    outputs,
    start_ids,
    stopping_rule,
)

CPU = torch.device("cpu")


def some_requests(*lengths: int) -> list[Request]:
    return [Request(f"r{i}", tuple(range(1, n + 1))) for i, n in enumerate(lengths)]


class WordTokenizer:
    """One id a word; puts id 1 before every text, as Llama's does."""

    pad_token_id = None
    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [2 + len(word) for word in text.split()]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}


def test_shorter_prompts_are_padded_on_the_left() -> None:
    (batch,) = make_microbatches(some_requests(3, 1), 1, new_tokens=2, pad=0, device=CPU)
    assert batch.ids.tolist() == [[1, 2, 3], [0, 0, 1]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [[3], [1]]


def test_equal_lengths_need_no_mask() -> None:
    (batch,) = make_microbatches(some_requests(3, 3), 1, new_tokens=2, pad=0, device=CPU)
    assert batch.mask is None


def test_a_batch_is_divided_as_evenly_as_possible() -> None:
    batches = make_microbatches(some_requests(2, 2, 2, 2, 2), 3, new_tokens=1, pad=0, device=CPU)
    assert [batch.size for batch in batches] == [2, 2, 1]


def test_shipped_prompts_have_exactly_the_tokens_asked_for() -> None:
    settings = RunSettings(model_id="m", model_folder=None, batch=3, prompt_tokens=400)
    requests = make_requests(settings, 100, WordTokenizer())
    assert [len(request.ids) for request in requests] == [400, 400, 400]
    assert {request.ids[0] for request in requests} == {1}
    assert len({request.ids for request in requests}) == 3


def test_the_start_token_is_the_one_the_tokenizer_adds() -> None:
    assert start_ids(WordTokenizer()) == (1,)


def test_without_a_tokenizer_the_prompts_are_random_but_the_same_each_time() -> None:
    settings = RunSettings(model_id="m", model_folder=None, batch=2, prompt_tokens=7)
    first, second = (make_requests(settings, 50, None) for _ in range(2))
    assert first == second
    assert [len(request.ids) for request in first] == [7, 7]


def test_benchmarks_ignore_eos_and_pad_falls_back_to_it() -> None:
    config = {"eos_token_id": [5, 6], "pad_token_id": None}
    settings = RunSettings(model_id="m", model_folder=None)
    assert stopping_rule(settings, config, None).eos == frozenset()
    stopping = RunSettings(model_id="m", model_folder=None, stop_at_eos=True)
    rule = stopping_rule(stopping, config, None)
    assert (rule.eos, rule.pad) == (frozenset({5, 6}), 5)


def test_outputs_are_padded_to_the_longest_microbatch() -> None:
    requests = some_requests(2, 2)
    batches = make_microbatches(requests, 2, new_tokens=3, pad=0, device=CPU)
    batches[0].tokens, batches[1].tokens = [[7], [8], [9]], [[4]]
    records = outputs(requests, batches, 0, None)
    assert [record["token_ids"] for record in records] == [[7, 8, 9], [4, 0, 0]]
    assert records[0]["text"] is None
