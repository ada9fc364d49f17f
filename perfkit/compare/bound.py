"""The least that a token can take: a rank's weights, read once at full memory bandwidth."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from perfkit.predict.rates import Rates
from perfkit.predict.spec import ModelSpec, dtype_bytes, spec_from_config
from perfkit.predict.tensors import stage_layers


def faster_than_bound(
    run: Mapping[str, Any], prediction: Mapping[str, Any], rates: Rates, headline: pl.DataFrame
) -> list[str]:
    """A token cannot take less than M readings of a rank's weights at full memory bandwidth.

    Otherwise the run did not do what it says, or the rates are of another machine.
    """
    config = run["config"]
    spec = spec_from_config(run["model"]["config"], model_id=run["model"]["id"])
    split = tuple(config["split"]) if config["split"] else None
    stages = stage_layers(spec.num_layers, config["pp"], split)
    width = dtype_bytes(config["dtype"])
    unread = [width * unread_values(spec, stage, config["tp"]) for stage in stages]
    read = max(rank["weights_bytes"] - unread[rank["stage"]] for rank in prediction["ranks"])
    bound_s = config["microbatches"] * read / rates.compute[0].read_bytes_per_s
    measured = headline.filter(measure="tpot_s")["measured"][0]
    if measured is None or measured >= bound_s:
        return []
    return [
        f"faster than the bound: a token took {1e3 * measured:.3g} ms, reading the weights takes "
        f"{1e3 * bound_s:.3g} ms. The run or the rates are not what they seem",
    ]


def unread_values(spec: ModelSpec, stage: range, tp: int) -> float:
    """Of one rank's weights, what one token's step may leave alone: the embedding table, of which
    it reads a row, and 1 - k / E of the experts' 3 E D F values a layer.
    """
    table = 0 if spec.tied or stage.start else spec.vocab * spec.embed_dim
    layers = sum(spec.layer_kinds[layer].experts for layer in stage)
    others = spec.num_experts - spec.experts_per_token
    return table + layers * others * 3 * spec.hidden * spec.expert_intermediate / tp
