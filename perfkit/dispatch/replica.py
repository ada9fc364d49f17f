"""What a replica does: hold the model, and answer batches one after another.

A replica of several ranks is one worker (rank 0 of the engine) and its children (the others), all
on one node. The worker writes each batch to their standard input; everything else is the engine's
own. Whoever dies takes the others along, and the nanny starts the whole replica again.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfkit.collect.launch import LOOPBACK, free_port
from perfkit.collect.settings import RunSettings
from perfkit.dispatch.followers import Followers
from perfkit.dispatch.prepare import Tokenised
from perfkit.schema import RunFolder

if TYPE_CHECKING:
    from perfkit.engine.decoding import Decoder
    from perfkit.engine.microbatch import MicroBatch
    from perfkit.engine.worker import Rank

WARM_UP_TOKENS = 8

Ids = Sequence[Sequence[int]]
"""token ids of the prompts of a batch"""


@dataclass(frozen=True, slots=True)
class Answered:
    """One batch's records for outputs.jsonl, and what it took, by the replica's clock."""

    records: tuple[dict[str, Any], ...]
    facts: dict[str, Any]


class EngineRank:
    """One rank of the engine with its part of the weights loaded."""

    def __init__(self, settings: RunSettings, model_config: Mapping[str, Any], number: int) -> None:
        self.settings, self.model_config, self.number = settings, dict(model_config), number
        self.rank: Rank
        self.decoder: Decoder
        self.num_answered = 0

    def load(self, folder: RunFolder, timers: Path) -> None:
        """Import torch, load the weights, and run once, so that no batch pays for that."""
        from perfkit.engine import batch, session, topology
        from perfkit.engine.recorder import Recorder
        from perfkit.engine.worker import Rank

        settings, facts = self.settings, {"rank": self.number}
        self.rank = Rank(folder, self.number, settings, self.model_config, settings.model_id, facts)
        session.prepare_torch(settings.device)
        self.topology = topology.connect(settings.tp, settings.pp, settings.device)
        self.decoder = session.make_stage(self.rank, self.topology)
        self.tokenizer = batch.load_tokenizer(settings.model_folder)
        self.stopping = batch.stopping_rule(settings, self.model_config, self.tokenizer)
        self.recorder = Recorder(
            timers,
            rank=self.number,
            tp_rank=self.topology.tp_rank,
            pp_rank=self.topology.pp_rank,
            gpu=settings.device == "cuda",
        )
        self.generate([[self.stopping.pad] * WARM_UP_TOKENS] * settings.microbatches, "warmup", 0)

    def generate(self, ids: Ids, kind: str, number: int) -> "list[MicroBatch]":
        """The microbatches of one batch, with their tokens."""
        from perfkit.engine.batch import Request, make_microbatches
        from perfkit.engine.pipeline import generate

        settings, recorder = self.settings, self.recorder
        requests = [Request("", tuple(one)) for one in ids]
        batches = make_microbatches(
            requests,
            min(settings.microbatches, len(requests)),
            settings.new_tokens,
            self.stopping.pad,
            self.topology.device,
        )
        recorder.begin_pass(kind, number)
        with recorder.phase("request", tokens=sum(map(len, ids))):
            generate(self.decoder, batches, self.stopping, recorder)
        # A million prompts' decode steps would fill a disk; the first step tells prefill from rest.
        recorder.phases = [phase for phase in recorder.phases if phase.step == 0]
        recorder.end_pass()
        return batches

    def answer(self, ids: Ids) -> "list[MicroBatch]":
        batches = self.generate(ids, "timed", self.num_answered)
        self.num_answered += 1
        return batches


class Replica:
    """The engine's rank 0, and the others that follow it."""

    def __init__(self, settings: RunSettings, model_config: Mapping[str, Any], number: int) -> None:
        self.engine = EngineRank(settings, model_config, number)
        self.followers = Followers()

    def load(self, folder: RunFolder, place: int) -> None:
        """`place` is the replica's number on its node, by which its GPUs are chosen."""
        engine = self.engine
        own = folder.rank(engine.number)
        own.mkdir(parents=True, exist_ok=True)
        timers = unused(own)
        places = rendezvous(engine.settings.num_ranks, place)
        os.environ |= places[0]
        self.followers.start(engine.settings, engine.model_config, folder, timers, places[1:])
        with self.followers.watched():
            engine.load(folder, timers)

        from perfkit.engine.worker import write_engine_facts

        write_engine_facts(engine.rank)

    def answer(self, prompts: Sequence[Tokenised]) -> Answered:
        """Prefill and decode of one batch."""
        from perfkit.engine.batch import Request, outputs

        start_ns, engine = time.time_ns(), self.engine
        ids = [one.ids.tolist() for one in prompts]
        if not ids:
            return Answered((), facts_of(start_ns, ids, 0))
        with self.followers.watched():
            self.followers.send(ids)
            batches = engine.answer(ids)
        requests = [Request(one.id, tuple(own)) for one, own in zip(prompts, ids, strict=True)]
        records = outputs(requests, batches, engine.stopping.pad, engine.tokenizer)
        indexed = zip(prompts, records, strict=True)
        return Answered(
            tuple({"index": one.index, **record} for one, record in indexed),
            facts_of(start_ns, ids, count_new(batches, engine.stopping.eos)),
        )

    def close(self) -> None:
        self.followers.close()
        with contextlib.suppress(AttributeError):
            self.engine.recorder.close()


def rendezvous(num_ranks: int, place: int) -> list[dict[str, str]]:
    """What torch.distributed asks of each rank, even where it is alone; all are on one node."""
    port = str(free_port())
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_RANK": str(place * num_ranks + rank),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
        }
        for rank in range(num_ranks)
    ]


def count_new(batches: "Sequence[MicroBatch]", eos: frozenset[int]) -> int:
    """New tokens of all sequences, up to and with the first EOS of each."""
    count = 0
    for batch in batches:
        for column in zip(*batch.tokens, strict=True):
            ended = next((n for n, token in enumerate(column, 1) if token in eos), len(column))
            count += ended
    return count


def facts_of(start_ns: int, ids: Ids, new_tokens: int) -> dict[str, Any]:
    lengths = [len(one) for one in ids]
    return {
        "start_ns": start_ns,
        "end_ns": time.time_ns(),
        "prompts": len(lengths),
        "prompt_tokens": sum(lengths),
        "padded_tokens": len(lengths) * max(lengths, default=0),
        "new_tokens": new_tokens,
    }


def unused(place: Path) -> Path:
    """timers.jsonl, or timers-1.jsonl ... where the replica has been there before."""
    taken = len(list(place.glob("timers*.jsonl")))
    return place / (f"timers-{taken}.jsonl" if taken else "timers.jsonl")
