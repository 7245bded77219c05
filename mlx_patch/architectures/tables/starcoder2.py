"""StarCoder 2: llama's attention, and GPT-2's MLP."""

from mlx_patch.architectures._family import DENSE, Family, Point
from mlx_patch.architectures.tables.llama import BLOCK

STARCODER2 = Family("starcoder2", {**BLOCK, "mlp_post": Point("mlp.c_proj", "input")}, absent=DENSE)
