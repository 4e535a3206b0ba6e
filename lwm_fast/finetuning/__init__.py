"""Fine-tuning: a head on frozen embeddings, or with the last layers, named layers, LoRA or the whole encoder.

result = lwm_fast.finetune(model, "los", channels, freeze="last-3")
result.best, result.model, result.head
"""

from __future__ import annotations

from lwm_fast.finetuning.lora import LoRA
from lwm_fast.finetuning.result import FinetuneResult
from lwm_fast.finetuning.run import finetune

__all__ = ["FinetuneResult", "LoRA", "finetune"]
