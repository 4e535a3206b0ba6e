"""What the arithmetic allows on one H100: channels a second, from counts of operations and the chip's rates.

Rates are what an H100 SXM was seen to reach: bf16 products on random data, device-to-device copies, exponentials.
Matrix instructions take head_dim in steps of 16, so attention of v1.0 (5) counts as 16.
"""

from __future__ import annotations

from lwm_fast.reference import SIZES

TENSOR_FLOPS = 800e12
HBM_BYTES = 3.0e12
EXPS = 3.6e12
_CSI_BYTES = 8


def encoder_flops(version: str, seq_len: int, *, padded: bool = False) -> float:
    """FLOPs of one channel's forward; ``padded`` counts head_dim as the matrix units do."""
    s = SIZES[version]
    head_dim = -(-s.head_dim // 16) * 16 if padded else s.head_dim
    dense = 4 * s.embed_dim * s.num_heads * s.head_dim + 2 * s.embed_dim * s.ffn_dim  # multiply-adds a token
    attention = 2 * s.num_heads * head_dim * seq_len
    return 2.0 * seq_len * (s.num_layers * (dense + attention) + s.patch_len * s.embed_dim)


def attention_exps(num_heads: int, seq_len: int) -> float:
    """Exponentials of one sequence in one layer."""
    return float(num_heads * seq_len**2)


def encoder_rate(version: str, seq_len: int) -> float:
    """Channels a second that one H100 could encode in bfloat16: products, exponentials or memory, the slowest.

    Memory counts csi in and CLS out only: nothing in between has to leave the chip.
    """
    s = SIZES[version]
    exps = s.num_layers * attention_exps(s.num_heads, seq_len)
    csi = (seq_len - 1) * s.patch_len / 2 * _CSI_BYTES
    return min(
        TENSOR_FLOPS / encoder_flops(version, seq_len, padded=True),
        EXPS / exps,
        HBM_BYTES / (csi + 4 * s.embed_dim),
    )


def op_rate(num_bytes: float, flops: float = 0.0, exps: float = 0.0) -> float:
    """Items a second of an operation that moves ``num_bytes`` and computes this much for each item."""
    return 1.0 / max(num_bytes / HBM_BYTES, flops / TENSOR_FLOPS, exps / EXPS)
