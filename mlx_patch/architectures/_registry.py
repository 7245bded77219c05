"""The registry: which table a model is read with.

A family of one's own is published by an entry point of group `mlx_patch.architectures` that names a `Family`, or a
tuple of them; its name is the module that defines the model's class.
"""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import mlx.nn as nn

from mlx_patch.architectures._family import Family
from mlx_patch.architectures.afm7 import AFM7
from mlx_patch.architectures.afmoe import AFMOE
from mlx_patch.architectures.apertus import APERTUS
from mlx_patch.architectures.baichuan_m1 import BAICHUAN_M1
from mlx_patch.architectures.bailing_moe import BAILING_MOE
from mlx_patch.architectures.bailing_moe_linear import BAILING_HYBRID, BAILING_MOE_LINEAR
from mlx_patch.architectures.bailing_moe_v3 import BAILING_MOE_V3
from mlx_patch.architectures.bitnet import BITNET
from mlx_patch.architectures.cohere import COHERE
from mlx_patch.architectures.dbrx import DBRX
from mlx_patch.architectures.deepseek import DEEPSEEK
from mlx_patch.architectures.deepseek_v2 import DEEPSEEK_V2
from mlx_patch.architectures.deepseek_v3 import DEEPSEEK_V3, KIMI_K25, KIMI_VL
from mlx_patch.architectures.deepseek_v32 import DEEPSEEK_V32
from mlx_patch.architectures.deepseek_v41 import DEEPSEEK_V41
from mlx_patch.architectures.exaone import EXAONE
from mlx_patch.architectures.falcon_h1 import FALCON_H1
from mlx_patch.architectures.gear import GEAR, GEAR_CAPPED
from mlx_patch.architectures.gemma2 import GEMMA2
from mlx_patch.architectures.gemma3 import GEMMA3
from mlx_patch.architectures.gemma3_text import GEMMA3_TEXT, MUSE_GLIMMER
from mlx_patch.architectures.gemma3n import GEMMA3N
from mlx_patch.architectures.gemma4 import GEMMA4
from mlx_patch.architectures.gemma4_text import GEMMA4_TEXT
from mlx_patch.architectures.glm import GLM
from mlx_patch.architectures.glm4 import GLM4
from mlx_patch.architectures.glm4_moe import GLM4_MOE
from mlx_patch.architectures.gpt2 import GPT2
from mlx_patch.architectures.gpt_bigcode import GPT_BIGCODE
from mlx_patch.architectures.gpt_neox import GPT_NEOX_PARALLEL, GPT_NEOX_SEQUENTIAL
from mlx_patch.architectures.gpt_oss import GPT_OSS
from mlx_patch.architectures.gptj import GPTJ
from mlx_patch.architectures.granite import GRANITE
from mlx_patch.architectures.granitemoe import GRANITEMOE
from mlx_patch.architectures.granitemoehybrid import GRANITEMOEHYBRID, GRANITEMOEHYBRID_DENSE
from mlx_patch.architectures.hunyuan import HUNYUAN, HUNYUAN_DENSE
from mlx_patch.architectures.internlm2 import INTERNLM2
from mlx_patch.architectures.iquestloopcoder import IQUESTLOOPCODER
from mlx_patch.architectures.jamba import JAMBA
from mlx_patch.architectures.kimi_k3 import KIMI_K3, KIMI_K3_MIXED
from mlx_patch.architectures.kimi_linear import KIMI_LINEAR
from mlx_patch.architectures.Klear import KLEAR
from mlx_patch.architectures.laguna import LAGUNA
from mlx_patch.architectures.lfm2 import LFM2, LFM2_MOE, LFM2_VL
from mlx_patch.architectures.lille_130m import LILLE_130M
from mlx_patch.architectures.llama import LLAMA
from mlx_patch.architectures.llama4 import LLAMA4
from mlx_patch.architectures.llama4_text import LLAMA4_TEXT
from mlx_patch.architectures.longcat_flash import LONGCAT_FLASH
from mlx_patch.architectures.mamba import MAMBA
from mlx_patch.architectures.mimo_v2_flash import MIMO_V2_FLASH
from mlx_patch.architectures.minicpm import MINICPM
from mlx_patch.architectures.minicpm3 import MINICPM3
from mlx_patch.architectures.minimax import MINIMAX
from mlx_patch.architectures.minimax_m3_vl import MINIMAX_M3_VL
from mlx_patch.architectures.mistral3 import MISTRAL3_LLAMA, MISTRAL3_MISTRAL4
from mlx_patch.architectures.mistral4 import MISTRAL4
from mlx_patch.architectures.mixtral import MIXTRAL
from mlx_patch.architectures.muse_spark import MUSE_SPARK
from mlx_patch.architectures.nanbeige import NANBEIGE
from mlx_patch.architectures.nanochat import NANOCHAT
from mlx_patch.architectures.nemotron_h import NEMOTRON_H
from mlx_patch.architectures.nemotron_nas import NEMOTRON_NAS
from mlx_patch.architectures.olmo import OLMO
from mlx_patch.architectures.olmo2 import EXAONE4, OLMO2, OLMO3
from mlx_patch.architectures.olmo_hybrid import OLMO_HYBRID
from mlx_patch.architectures.olmoe import OLMOE
from mlx_patch.architectures.openelm import OPENELM
from mlx_patch.architectures.phi import PHI
from mlx_patch.architectures.phi3 import PHI3
from mlx_patch.architectures.phi3small import PHI3SMALL
from mlx_patch.architectures.phimoe import PHIMOE
from mlx_patch.architectures.phixtral import PHIXTRAL
from mlx_patch.architectures.pixtral import PIXTRAL
from mlx_patch.architectures.plamo import PLAMO
from mlx_patch.architectures.plamo2 import PLAMO2, PLAMO3
from mlx_patch.architectures.qwen import QWEN
from mlx_patch.architectures.qwen2 import QWEN2
from mlx_patch.architectures.qwen2_moe import QWEN2_MOE, QWEN3_VL_MOE
from mlx_patch.architectures.qwen3 import QWEN3
from mlx_patch.architectures.qwen3_next import QWEN3_5, QWEN3_NEXT
from mlx_patch.architectures.qwen_vl import QWEN2_VL, QWEN3_VL
from mlx_patch.architectures.recurrent_gemma import RECURRENT_GEMMA
from mlx_patch.architectures.rwkv7 import RWKV7
from mlx_patch.architectures.spark2_5 import SPARK2_5
from mlx_patch.architectures.stablelm import STABLELM_PARALLEL, STABLELM_SEQUENTIAL
from mlx_patch.architectures.starcoder2 import STARCODER2
from mlx_patch.architectures.step3p5 import STEP3P5
from mlx_patch.architectures.talkie import TALKIE
from mlx_patch.architectures.youtu_llm import YOUTU_LLM
from mlx_patch.errors import ArchitectureError, listed

GROUP = "mlx_patch.architectures"

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    QWEN2,
    QWEN3,
    GEMMA2,
    GPT2,
    GPT_NEOX_PARALLEL,
    GPT_NEOX_SEQUENTIAL,
    PHI3,
    MIXTRAL,
    GRANITE,
    YOUTU_LLM,
    MINICPM3,
    DEEPSEEK,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    DEEPSEEK_V32,
    KIMI_K25,
    KIMI_VL,
    MISTRAL4,
    DEEPSEEK_V41,
    BAILING_MOE_V3,
    LONGCAT_FLASH,
    IQUESTLOOPCODER,
    GEMMA3_TEXT,
    OLMO2,
    OLMO3,
    EXAONE4,
    GLM4,
    COHERE,
    PHI,
    GPTJ,
    STABLELM_PARALLEL,
    STABLELM_SEQUENTIAL,
    GLM,
    APERTUS,
    STARCODER2,
    LLAMA4_TEXT,
    MINICPM,
    GPT_BIGCODE,
    QWEN,
    EXAONE,
    OPENELM,
    LILLE_130M,
    INTERNLM2,
    NEMOTRON_NAS,
    PLAMO,
    GEMMA3,
    PIXTRAL,
    MISTRAL3_LLAMA,
    MISTRAL3_MISTRAL4,
    QWEN2_VL,
    QWEN3_VL,
    MUSE_GLIMMER,
    NANOCHAT,
    SPARK2_5,
    BAICHUAN_M1,
    AFM7,
    KLEAR,
    AFMOE,
    BAILING_MOE,
    GLM4_MOE,
    GPT_OSS,
    GRANITEMOE,
    MIMO_V2_FLASH,
    MINIMAX,
    OLMOE,
    PHIMOE,
    PHIXTRAL,
    QWEN2_MOE,
    QWEN3_VL_MOE,
    STEP3P5,
    LAGUNA,
    NANBEIGE,
    FALCON_H1,
    GEAR,
    GEAR_CAPPED,
    LFM2,
    LFM2_MOE,
    LFM2_VL,
    MAMBA,
    OLMO_HYBRID,
    PLAMO2,
    PLAMO3,
    QWEN3_5,
    QWEN3_NEXT,
    RECURRENT_GEMMA,
    RWKV7,
    DBRX,
    HUNYUAN,
    HUNYUAN_DENSE,
    GEMMA4_TEXT,
    LLAMA4,
    MINIMAX_M3_VL,
    TALKIE,
    GEMMA4,
    BITNET,
    OLMO,
    JAMBA,
    GRANITEMOEHYBRID,
    GRANITEMOEHYBRID_DENSE,
    NEMOTRON_H,
    BAILING_HYBRID,
    BAILING_MOE_LINEAR,
    KIMI_LINEAR,
    GEMMA3N,
    KIMI_K3,
    KIMI_K3_MIXED,
    MUSE_SPARK,
    PHI3SMALL,
)
"""The tables that come with mlx_patch."""


def family_of(model: nn.Module) -> Family:
    """The table of a model.

    Raises:
        ArchitectureError: There is none; the message lists what there is.
    """
    if family := registered(model):
        return family
    raise ArchitectureError(
        f"`model` must be of an architecture that has a table. Got {_names_of(type(model))[0]}. "
        f"There are tables for {listed(sorted({name for family in _known() for name in family.modules}))}. "
        f"Publish one of your own as an entry point of group {GROUP!r}."
    )


def registered(model: nn.Module) -> Family | None:
    """The table of a model, or None if there is none."""
    names = [name for cls in type(model).__mro__ for name in _names_of(cls)]
    tables = ((name, family) for name in names for family in _known())
    return next((family for name, family in tables if name in family.modules and family.applies(model)), None)


def _names_of(cls: type) -> tuple[str, str]:
    return cls.__module__.removeprefix("mlx_lm.models."), cls.__module__


@cache
def _known() -> tuple[Family, ...]:
    return (*_published(), *FAMILIES)


def _published() -> Iterator[Family]:
    """The tables of installed packages.

    Raises:
        ArchitectureError: One cannot be imported, or gives something else; nobody knows for which models it was meant.
    """
    for entry in entry_points(group=GROUP):
        try:
            value = entry.load()
        except (ImportError, AttributeError) as error:
            raise ArchitectureError(_broken(entry, str(error))) from error
        for family in value if isinstance(value, tuple) else (value,):
            if not isinstance(family, Family):
                raise ArchitectureError(_broken(entry, f"a {type(family).__name__}"))
            yield family


def _broken(entry: EntryPoint, got: str) -> str:
    owner = entry.dist.name if entry.dist else "its package"
    return (
        f"`{entry.value}`, the entry point {entry.name!r} of group {GROUP!r}, must give a Family or a tuple of them. "
        f"Got {got}. Mend or uninstall {owner}."
    )
