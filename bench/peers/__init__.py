"""The engines that `python -m bench.cpu` compares, each in its best settings and in a process of its own.

All of them do one job: tokens float32 [batch, seq_len, patch_len] to the outputs of all tokens
[batch, seq_len, embed_dim].
"""
