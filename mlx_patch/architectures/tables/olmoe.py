"""OLMoE: norms over all heads at once behind the queries and the keys; experts see all rows' tokens as one list."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, routed
from mlx_patch.architectures.tables.llama import BLOCK

OLMOE = Family("olmoe", {**BLOCK, **routed(flat=True)}, absent=NEURONS_OF_EXPERTS, heads=Heads(mixed=True))
