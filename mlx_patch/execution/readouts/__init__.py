"""What metrics read of a run: logits, an appended answer, generated text."""

from mlx_patch.execution.readouts._answer_log_prob import AnswerLogProb as AnswerLogProb
from mlx_patch.execution.readouts._answer_runs import AnswerRuns as AnswerRuns
from mlx_patch.execution.readouts._answer_runs import RunGroups as RunGroups
from mlx_patch.execution.readouts._answer_runs import answer_runs as answer_runs
from mlx_patch.execution.readouts._answer_runs import joined_groups as joined_groups
from mlx_patch.execution.readouts._answer_runs import plain_of as plain_of
from mlx_patch.execution.readouts._answer_runs import with_answers as with_answers
from mlx_patch.execution.readouts._generated import match_rates as match_rates
from mlx_patch.execution.readouts._generated import require_tokenizer as require_tokenizer
from mlx_patch.execution.readouts._prompt_only import in_prompt as in_prompt
from mlx_patch.execution.readouts._readout import Readout as Readout
from mlx_patch.execution.readouts._readout import count_examples as count_examples
from mlx_patch.execution.readouts._readout import readout_of as readout_of
from mlx_patch.execution.readouts._readout import readouts_by_batch as readouts_by_batch
