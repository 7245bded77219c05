"""`python -m mlx_patch`."""

import sys

from mlx_patch.cli import main

sys.exit(main())
