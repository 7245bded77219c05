"""Receivers of paths: what reads the stream at the end of one."""

from mlx_patch.interventions.receivers._path import CellEdit as CellEdit
from mlx_patch.interventions.receivers._path import Path as Path
from mlx_patch.interventions.receivers._path import Receiver as Receiver
from mlx_patch.interventions.receivers._path import ReceiverKind as ReceiverKind
from mlx_patch.interventions.receivers._path import receivers_of as receivers_of
