"""The zoo: a tiny model of every architecture that has a table."""

from mlx_patch.testing.zoo._build import EXCEPTIONS as EXCEPTIONS
from mlx_patch.testing.zoo._build import ZOO as ZOO
from mlx_patch.testing.zoo._build import Precision as Precision
from mlx_patch.testing.zoo._build import built as built
from mlx_patch.testing.zoo._build import tiny_model as tiny_model
from mlx_patch.testing.zoo._draws import DRAW_EXCEPTIONS as DRAW_EXCEPTIONS
from mlx_patch.testing.zoo._draws import Draw as Draw
from mlx_patch.testing.zoo._draws import draw as draw
from mlx_patch.testing.zoo._draws import drawn_model as drawn_model
from mlx_patch.testing.zoo._kernels import without_metal as without_metal
from mlx_patch.testing.zoo.species import classics

CLASSICS = classics.SPECIES
"""The nine families of the first release."""
