"""GLM 4.5 and others: llama's names, a first layer that is dense, and experts chosen by groups in the rest."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, select_kept
from mlx_patch.architectures.tables.llama import BLOCK

GLM4_MOE = Family("glm4_moe", {**BLOCK, **select_kept()}, absent=NEURONS_OF_EXPERTS, also=("dots1", "exaone_moe"))
