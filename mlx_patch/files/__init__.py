"""Atomic writes, formats, zips of arrays, and a checked reader of safetensors files."""

from mlx_patch.files._archive import ABOUT as ABOUT
from mlx_patch.files._archive import about_of_archive as about_of_archive
from mlx_patch.files._archive import array_members as array_members
from mlx_patch.files._archive import read_archive as read_archive
from mlx_patch.files._archive import write_archive as write_archive
from mlx_patch.files._archive import write_members as write_members
from mlx_patch.files._format import Format as Format
from mlx_patch.files._json import json_of_file as json_of_file
from mlx_patch.files._json import read_bounded as read_bounded
from mlx_patch.files._json import strict_json as strict_json
from mlx_patch.files._npy import LARGEST_NPY_HEADER as LARGEST_NPY_HEADER
from mlx_patch.files._npy import ArrayHeader as ArrayHeader
from mlx_patch.files._npy import npy_header as npy_header
from mlx_patch.files._opening import Malformed as Malformed
from mlx_patch.files._opening import clause_of as clause_of
from mlx_patch.files._opening import open_checked as open_checked
from mlx_patch.files._safetensors import Header as Header
from mlx_patch.files._safetensors import Stamp as Stamp
from mlx_patch.files._safetensors import bits_of as bits_of
from mlx_patch.files._safetensors import content_digest as content_digest
from mlx_patch.files._safetensors import read_array as read_array
from mlx_patch.files._safetensors import read_header as read_header
from mlx_patch.files._safetensors import stamp_of as stamp_of
from mlx_patch.files._whole import remove_leftovers as remove_leftovers
from mlx_patch.files._whole import written_whole as written_whole
from mlx_patch.files._zip import opened_zip as opened_zip
