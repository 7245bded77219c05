"""The models that a soak shares, and all jobs on them."""

from hostile.world import word_tokenizer

import mlx_patch as mp
from mlx_patch.testing import tiny_model
from soaking.edits import jobs_of_runs
from soaking.jobs import Job
from soaking.mistakes import jobs_of_mistakes
from soaking.public import jobs_of_examples, jobs_of_hostile_calls
from soaking.work import jobs_of_work

MODELS = {
    "llama": ("llama", "float32"),
    "llama in 4 bits": ("llama", "4bit"),
    "qwen3 in bfloat16": ("qwen3", "bfloat16"),
    "gemma2": ("gemma2", "float32"),
    "gpt_neox": ("gpt_neox-parallel", "float32"),
    "mixtral": ("mixtral", "float32"),
    "deepseek_v3 in 4 bits": ("deepseek_v3", "4bit"),
    "jamba": ("jamba", "float32"),
}
"""Of the zoo: plain, quantised, in a half type, with norms behind attention, in parallel, experts, latents, states."""

HOSTILE_CALLS = 40
"""Of each model."""


def shared_models(names: list[str]) -> dict[str, mp.HookedModel]:
    """Models by name, all with one tokenizer."""
    tokenizer = word_tokenizer()
    return {name: mp.HookedModel(tiny_model(*MODELS[name]), tokenizer, name="tiny") for name in names}


def jobs_on(names: list[str]) -> list[Job]:
    """All jobs on these models, each of which has a name of its own."""
    jobs: list[Job] = []
    for number, name in enumerate(names):
        jobs += jobs_of_examples(name, all_of_them=number == 0)
        jobs += jobs_of_hostile_calls(name, HOSTILE_CALLS, seed=number)
        jobs += jobs_of_runs(name)
        jobs += jobs_of_work(name)
        jobs += jobs_of_mistakes(name)
    return jobs
