"""For tests: the zoo of tiny models, the laws, and a real model without a hub. Public, so that plugins can use it."""

from mlx_patch.laws import ALL as ALL
from mlx_patch.laws import LAWS as LAWS
from mlx_patch.laws import Report as Report
from mlx_patch.laws import check_laws as check_laws
from mlx_patch.sweeps import check_sweeps as check_sweeps
from mlx_patch.sweeps import exact_sweeps as exact_sweeps
from mlx_patch.sweeps import independent_in_sweeps as independent_in_sweeps
from mlx_patch.testing._fuzz import FuzzReport as FuzzReport
from mlx_patch.testing._fuzz import fuzz_sweeps as fuzz_sweeps
from mlx_patch.testing._smollm2 import smollm2_folder as smollm2_folder
from mlx_patch.testing._zoo_report import ZooLine as ZooLine
from mlx_patch.testing._zoo_report import ZooReport as ZooReport
from mlx_patch.testing._zoo_report import check_zoo as check_zoo
from mlx_patch.testing._zoo_report import where_it_ran as where_it_ran
from mlx_patch.testing.zoo import EXCEPTIONS as EXCEPTIONS
from mlx_patch.testing.zoo import ZOO as ZOO
from mlx_patch.testing.zoo import Draw as Draw
from mlx_patch.testing.zoo import draw as draw
from mlx_patch.testing.zoo import drawn_model as drawn_model
from mlx_patch.testing.zoo import tiny_model as tiny_model
