"""Names of kernels of every generation there is a sample of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perfkit.ingest.classes import classify, collective

COMMUNICATION = [
    ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long)", "nccl", "all_reduce"),
    (
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "nccl",
        "all_reduce",
    ),
    ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "nccl", "send_recv"),
    ("ncclDevKernel_Generic(ncclDevKernelArgsStorage<4096ul>)", "nccl", None),
    (
        "ncclSymDevKernel_AllReduce_RSxLD_AGxST_sum_bf16(ncclSymDevArgs)",
        "nccl_symmetric",
        "all_reduce",
    ),
    ("ncclSymkDevKernel_AllReduce_AGxLLMC_R_sum_bf16", "nccl_symmetric", "all_reduce"),
    ("multimem_all_reduce_kernel<c10::BFloat16>", "symmetric_memory", "all_reduce"),
    ("void two_shot_all_reduce_kernel<16>", "symmetric_memory", "all_reduce"),
    ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>", "custom_all_reduce", None),
    ("void flashinfer::allreduce_fusion_kernel_oneshot_lamport<8>", "custom_all_reduce", None),
    ("void deep_ep::internode::dispatch<false, 8>", "deepep", "dispatch"),
    ("void dpsk::ep::internode::combine<8>", "deepep", "combine"),
    ("nvshmemi_transfer_rma_nbi", "nvshmem", None),
    ("gloo:all_reduce", "gloo", "all_reduce"),
    ("gloo:send", "gloo", "send"),
    ("c10d::allreduce_", "call", None),
]

COMPUTE = [
    ("_vector_kernel", "gemm"),
    ("_part_kernel", "attention"),
    ("_join_kernel", "attention"),
    ("_norm_kernel", "norm"),
    ("_rotate_kernel", "rope"),
    ("_gated_kernel", "activation"),
    ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x3_tn", "gemm"),
    ("nvjet_tst_128x64_64x8_1x2_h_bz_coopA_TNT", "gemm"),
    ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "gemm"),
    ("void flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128>>", "attention"),
    ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "attention"),
    ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "reduction"),
    (
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>",
        "elementwise",
    ),
    ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<8>", "softmax"),
    ("triton_poi_fused_mul_silu_0", "activation"),
    (
        "void at::native::vectorized_elementwise_kernel<8, at::native::(anonymous namespace)::"
        "silu_kernel(at::TensorIteratorBase&)>",
        "activation",
    ),
    ("void vllm::act_and_mul_kernel<__nv_bfloat16, silu>", "activation"),
    ("void vllm::rotary_embedding_kernel<__nv_bfloat16, true>", "rope"),
    ("fused_rope_forward", "rope"),
    ("void vllm::rms_norm_kernel<__nv_bfloat16>", "norm"),
    ("void at::native::sbtopk::gatherTopK<float, 2>", "sampling"),
    ("aten::linear", "gemm"),
    ("aten::scaled_dot_product_attention", "attention"),
]


@pytest.mark.parametrize(("name", "family", "op"), COMMUNICATION)
def test_communication_is_known_by_its_name(name: str, family: str, op: str | None) -> None:
    kind = classify(name)
    assert (kind.cls, kind.family, kind.op) == ("comm", family, op)


@pytest.mark.parametrize(("name", "family"), COMPUTE)
def test_compute_is_known_by_its_name(name: str, family: str) -> None:
    kind = classify(name)
    assert (kind.cls, kind.family) == ("compute", family)


def test_a_name_that_no_rule_knows_is_unknown() -> None:
    assert classify("my_kernel_v3").cls == "unknown"


@pytest.mark.parametrize(
    ("spelling", "op"),
    [
        ("allreduce", "all_reduce"),
        ("_allgather_base", "all_gather"),
        ("_reduce_scatter_base", "reduce_scatter"),
        ("send", "send"),
        ("coalesced", None),
        (None, None),
    ],
)
def test_each_collective_has_one_spelling(spelling: str | None, op: str | None) -> None:
    assert collective(spelling) == op


def run_rules(tmp_path: Path, rules: str, name: str) -> subprocess.CompletedProcess[str]:
    """The class of a name by a user's own rules, in a process of its own: rules are read once."""
    file = tmp_path / "mine.toml"
    file.write_text(rules)
    code = "import sys; from perfkit.ingest.classes import classify; print(classify(sys.argv[1]))"
    return subprocess.run(
        [sys.executable, "-c", code, name],
        env={**os.environ, "PERFKIT_KERNEL_CLASSES": str(file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_users_rules_come_first(tmp_path: Path) -> None:
    rules = """[[rule]]
match = "^my_kernel"
class = "comm"
family = "mine"
"""
    assert "cls='comm', family='mine'" in run_rules(tmp_path, rules, "my_kernel_v3").stdout
    assert "family='gemm'" in run_rules(tmp_path, rules, "aten::linear").stdout


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ('[[rule]]\nmatch = "a"\nclass = "network"\nfamily = "f"\n', "rule 1: give match, class"),
        ('[[rule]]\nmatch = "("\nclass = "comm"\nfamily = "f"\n', "rule 1: missing )"),
        ("[[rule", "cannot read the kernel classes"),
    ],
)
def test_a_wrong_rule_is_named(tmp_path: Path, rules: str, message: str) -> None:
    done = run_rules(tmp_path, rules, "x")
    assert "ConfigError" in done.stderr
    assert message in done.stderr
