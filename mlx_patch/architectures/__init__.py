"""Architectures as data: one table per family, saying where each site lives in mlx_lm's module tree."""

from mlx_patch.architectures._family import Boxing as Boxing
from mlx_patch.architectures._family import Family as Family
from mlx_patch.architectures._family import Heads as Heads
from mlx_patch.architectures._family import Point as Point
from mlx_patch.architectures._family import Stream as Stream
from mlx_patch.architectures._layout import Layout as Layout
from mlx_patch.architectures._layout import Place as Place
from mlx_patch.architectures._layout import can_be_split as can_be_split
from mlx_patch.architectures._layout import layout_of as layout_of
from mlx_patch.architectures._registry import family_of as family_of
from mlx_patch.architectures._registry import registered_family as registered_family
from mlx_patch.architectures._sharded import refuse_missing_blocks as refuse_missing_blocks
from mlx_patch.architectures._sharded import refuse_parts as refuse_parts
from mlx_patch.architectures._sharded import sharding as sharding
from mlx_patch.architectures._unknown import UNKNOWN as UNKNOWN
from mlx_patch.architectures._unknown import guessed as guessed
from mlx_patch.architectures._unknown import without_table as without_table
from mlx_patch.architectures._views import ByHead as ByHead
from mlx_patch.architectures._views import Fused as Fused
from mlx_patch.architectures._views import HeadsFirst as HeadsFirst
from mlx_patch.architectures._views import Interleaved as Interleaved
from mlx_patch.architectures._views import Times as Times
from mlx_patch.architectures._views import View as View
from mlx_patch.architectures._views import Whole as Whole
from mlx_patch.architectures._views import attribute as attribute
from mlx_patch.architectures.tables import FAMILIES as FAMILIES
