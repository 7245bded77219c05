"""Two batches of two prompts that tests of attribution share: those that are run, and those of the source."""

import mlx.core as mx

TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)], [(5 + 31 * i) % 96 for i in range(8)]])
OTHER = mx.array([[(3 + 29 * i) % 96 for i in range(8)], [(8 + 11 * i) % 96 for i in range(8)]])
