"""The tables of a study file: every key, what it may hold, and what it is for.

The JSON schema analysis/study.schema.json is made from them (study/schema.py); the texts below the
keys are its descriptions.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from perfkit.collect.settings import DECODES, DTYPES, LOADS, QUANTIZES, SHARDINGS
from perfkit.study.toml_file import Table, must_match
from perfkit.study.walltime import WallTime

SPLIT = r"balanced|\d+(,\d+)*"
MEMORY = r"\d+[KMGT]?"

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Dtype = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["none", "int8", "fp8"]
Load = Literal["safetensors", "dummy"]
Sharding = Literal["autotp", "hf-tp", "none"]
Decode = Literal["eager", "graph"]
Kind = Literal[
    "strong-scaling", "weak-scaling", "batch", "precision", "context", "profiler-overhead"
]
Layers = Annotated[
    str,
    must_match(SPLIT, "balanced, or layer counts such as 16,14"),
    Field(json_schema_extra={"pattern": f"^({SPLIT})$"}),
]
Memory = Annotated[
    str,
    must_match(MEMORY, "a size as sbatch takes it, such as 480G"),
    Field(json_schema_extra={"pattern": f"^{MEMORY}$"}),
]

WORDS = {
    "dtype": DTYPES,
    "quantize": QUANTIZES,
    "load": LOADS,
    "sharding": SHARDINGS,
    "decode": DECODES,
}
"""what `perfkit run` allows where a key takes a word; a test compares it with the types above"""


class Documented(Table):
    """A table whose keys are described by the text below each."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class JobTable(Documented):
    """How often each point is run, and what Slurm needs to know of its jobs."""

    time_limit: WallTime
    """most that one run of a point may take, such as 00:30:00"""
    repeats: Positive = 1
    """runs of each point; [run] repeats are the timed passes inside one"""
    stages_per_node: Positive | None = None
    """pipeline stages on a node; as many as there is room for when absent"""
    exclusive: bool = False
    """no other job on the nodes"""
    memory: Memory | None = None
    """host memory of a node, such as 480G"""


class PointTable(Documented):
    """Options of `perfkit run` under their own names, in its order."""

    tp: Positive | None = None
    """tensor-parallel ranks in a stage (inside a node)"""
    pp: Positive | None = None
    """pipeline stages (across nodes)"""
    split: Layers | None = None
    """layers of each stage, such as 16,14, or balanced"""
    batch: Positive | None = None
    """sequences in flight"""
    microbatches: Positive | None = None
    """parts of the batch in the pipeline; pp, or fewer, when absent"""
    prompt_tokens: Positive | None = None
    """exact tokens of each prompt; without it no time can be predicted"""
    new_tokens: Positive | None = None
    """tokens to generate for each sequence"""
    stop_at_eos: bool | None = None
    """let sequences end at EOS"""
    dtype: Dtype | None = None
    """of weights and activations; bfloat16 on GPUs, float32 on CPUs when absent"""
    quantize: Quantize | None = None
    """weights of the decoder blocks' linear layers in 8 bits"""
    load: Load | None = None
    """dummy: random weights, no files; times hold, text does not"""
    sharding: Sharding | None = None
    """what cuts a stage between ranks"""
    decode: Decode | None = None
    """graph: each decode step replayed as one CUDA graph"""
    prompts: str | None = None
    """a file of prompts, relative to the study; the 20 shipped ones when absent"""
    device: Literal["cuda", "cpu"] | None = None
    """the system's own when absent"""
    warmup: Positive | None = None
    """passes before any is timed"""
    repeats: Positive | None = None
    """timed passes of one run, with no collector recording"""
    collect: str | None = None
    """auto, none, or a list of collectors such as nsys,nvml,sacct"""
    profile_ranks: str | None = None
    """ranks under nsys or perf record: ends, all, or 0,3"""
    collectors_dir: str | None = None
    """a folder of collectors of your own, relative to the study"""
    seed: Count | None = None
    """of random weights and random prompts"""
    logprobs: Positive | None = None
    """log probabilities of so many likely tokens are kept, for `perfkit verify`"""


class RunTable(PointTable):
    """Options that are the same for every point."""

    batch_per_gpu: Positive | None = None
    """instead of batch: sequences for each GPU, so that the batch grows with tp * pp"""


class AxesTable(Documented):
    """Options that vary, each with its values: every combination is a point."""

    tp: list[Positive] | None = None
    pp: list[Positive] | None = None
    split: list[Layers] | None = None
    batch: list[Positive] | None = None
    batch_per_gpu: list[Positive] | None = None
    microbatches: list[Positive] | None = None
    prompt_tokens: list[Positive] | None = None
    new_tokens: list[Positive] | None = None
    stop_at_eos: list[bool] | None = None
    dtype: list[Dtype] | None = None
    quantize: list[Quantize] | None = None
    load: list[Load] | None = None
    sharding: list[Sharding] | None = None
    decode: list[Decode] | None = None
    collect: list[str] | None = None
    seed: list[Count] | None = None


class StudyFile(Documented):
    """A study of perfkit: a model, options, what varies, and how often each point is run."""

    title: str = ""
    """for people"""
    kind: Kind | None = None
    """what the study is for: decides what must vary and which tables a report has"""
    model: str
    """the id of a model or model card, or a folder with config.json relative to the study"""
    job: JobTable
    run: RunTable = RunTable()
    axes: AxesTable = AxesTable()
    points: list[RunTable] = Field(default_factory=list)
    """options that vary together: each table is a point, with every combination of [axes]"""


SETTINGS = tuple(PointTable.model_fields)
"""options of `perfkit run` that a study may give, in its order"""
PER_GPU = "batch_per_gpu"
DEFAULTS = {"new_tokens": 32, "warmup": 1, "repeats": 3, "collect": "auto"}
"""what `perfkit run` takes where a study says nothing, as far as a forecast needs it"""
