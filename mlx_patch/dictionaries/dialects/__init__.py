"""Whose files a dictionary may be: a dialect a file. A file in this folder is all that a new dialect needs."""

from mlx_patch._presence import import_modules
from mlx_patch.dictionaries.dialects._dialect import Dialect as Dialect
from mlx_patch.dictionaries.dialects._dialect import LoadChoices as LoadChoices

import_modules(__name__, __path__)
