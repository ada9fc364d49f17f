"""Under which names a model's files hold what its modules hold as one stack of experts.

    E experts, D hidden, F intermediate

A module has two stacks a layer, gate_up_proj and down_proj. The files of Mixtral and Qwen3-MoE have
three matrices an expert; those of gpt-oss have the stacks themselves, as *_blocks and *_scales
where they are in MXFP4. Standard library only.
"""

from collections.abc import Container, Iterator

EXPERTS = ".mlp.experts."
BLOCKS, SCALES = "_blocks", "_scales"
MXFP4_BLOCK = 32
"""values that share a scale; 16 bytes"""
PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
OF_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

Shaped = tuple[str, tuple[int, ...]]


def disk_name(name: str, stored: Container[str]) -> str:
    """The name itself, or Mixtral's where the files have that."""
    mixtral = name.replace(".mlp.", ".block_sparse_moe.")
    return mixtral if name not in stored and mixtral in stored else name


def expert_name(stack: str, expert: int, part: str, stored: Container[str]) -> str:
    """One matrix of one expert: ...mlp.experts.3.up_proj.weight, in Mixtral ...experts.3.w3.weight.

    `stack` is the module's name of the stack, `part` one of its PARTS.
    """
    at = stack.partition(EXPERTS)[0]
    mixtral = f"{at}.block_sparse_moe.experts.{expert}.{OF_MIXTRAL[part]}.weight"
    return mixtral if mixtral in stored else f"{at}{EXPERTS}{expert}.{part}.weight"


def form(name: str, stored: Container[str]) -> str:
    """How a module's tensor is stored: whole, packed (MXFP4), or each (expert by expert)."""
    kind = name.partition(EXPERTS)[2]
    if kind not in PARTS or name in stored:
        return "whole"
    if name + BLOCKS in stored:
        return "packed"
    return "each" if expert_name(name, 0, PARTS[kind][0], stored) in stored else "whole"


def on_disk(name: str, shape: tuple[int, ...], stored: Container[str]) -> Iterator[Shaped]:
    """Names and shapes of the stored tensors that make up a module's tensor of `shape`."""
    match form(name, stored):
        case "whole":
            yield disk_name(name, stored), shape
        case "packed":
            experts, inputs, outputs = shape
            scales = (experts, outputs, inputs // MXFP4_BLOCK)
            yield name + BLOCKS, (*scales, MXFP4_BLOCK // 2)
            yield name + SCALES, scales
        case "each":
            parts = PARTS[name.partition(EXPERTS)[2]]
            matrix = (shape[1] // len(parts), shape[2])
            for expert in range(shape[0]):
                for part in parts:
                    yield expert_name(name, expert, part, stored), matrix
