"""Subspaces of an activation's last axis: bases, what lies within one, `Project` and `Swap`."""

from mlx_patch.interventions.subspaces._basis import as_basis as as_basis
from mlx_patch.interventions.subspaces._basis import component as component
from mlx_patch.interventions.subspaces._basis import orthonormal as orthonormal
from mlx_patch.interventions.subspaces._project import Project as Project
from mlx_patch.interventions.subspaces._swap import Swap as Swap
