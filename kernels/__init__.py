"""Triton kernels of lwm_fast."""
