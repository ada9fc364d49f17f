"""Names of kernels of every generation there is a sample of."""

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
    ("triton_poi_fused_mul_silu_0", "elementwise"),
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
