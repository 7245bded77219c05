"""Arguments become values here: each function takes an argument's name and what a caller gave, and returns the value.

What they refuse they refuse in the same words: `<argument>` must be <what is allowed>. Got <what came>. A value that
has passed is of the plain kind that it stands for: an `int`, a `float`, a `str`, a tuple, and never a subclass, an
array without axes or an iterator.
"""

from mlx_patch.arguments._arrays import array as array
from mlx_patch.arguments._arrays import numeric as numeric
from mlx_patch.arguments._arrays import numpy_array as numpy_array
from mlx_patch.arguments._arrays import whole_array as whole_array
from mlx_patch.arguments._entries import checked_slice as checked_slice
from mlx_patch.arguments._entries import chosen_numbers as chosen_numbers
from mlx_patch.arguments._entries import entries as entries
from mlx_patch.arguments._entries import mapping as mapping
from mlx_patch.arguments._entries import place as place
from mlx_patch.arguments._entries import whole_numbers as whole_numbers
from mlx_patch.arguments._kinds import choice as choice
from mlx_patch.arguments._kinds import flag as flag
from mlx_patch.arguments._kinds import function as function
from mlx_patch.arguments._kinds import instance as instance
from mlx_patch.arguments._kinds import path as path
from mlx_patch.arguments._kinds import string as string
from mlx_patch.arguments._kinds import tokenizer as tokenizer
from mlx_patch.arguments._numbers import is_whole as is_whole
from mlx_patch.arguments._numbers import number as number
from mlx_patch.arguments._numbers import share as share
from mlx_patch.arguments._numbers import whole_number as whole_number
