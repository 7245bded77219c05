"""Youtu-LLM: the latent attention of DeepSeek V2, and a dense MLP."""

from mlx_patch.architectures._family import DENSE, Family
from mlx_patch.architectures.tables.deepseek_v2 import BLOCK, SHARED_KEY

YOUTU_LLM = Family(
    "youtu_llm",
    BLOCK,
    absent={**DENSE, **SHARED_KEY},
    width="config.hidden_size",
    vocabulary="config.vocab_size",
)
