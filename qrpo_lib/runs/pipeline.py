"""The kinds of steps, by the names that their run folders begin with; an executed notebook's is `notebook-...`."""

from __future__ import annotations

# In the order of the pipeline, in which people are shown them; notebooks come last.
STEPS = (
    "initial_policy",
    "chat_data",
    "leetcode_data",
    "sft",
    "reference_sampling",
    "dataset_pairs",
    "reference_evaluation",
    "reference_log_probs",
    "training",
    "evaluation",
    "report",
    "log_ratios",
    "relative_training",
    "relative_evaluation",
    "iterative",
    "sample_answers",
    "alpaca_answers",
)
# Their number depends on results: of each training, for the checkpoints that are reported.
OF_CHECKPOINTS = ("report", "log_ratios")
NOTEBOOK = "notebook-"  # how the names of executed notebooks' steps begin


def notebook(path: str) -> str:
    """What the step of the notebook with this path below `notebooks` is called: `notebook-results-tables`."""
    return f"{NOTEBOOK}{path.replace('/', '-')}"


def is_notebook(step: str) -> bool:
    """Whether a step of this name, or a run folder, is a notebook's."""
    return step.startswith(NOTEBOOK)


def place(step: str) -> int:
    """Where a step of this name comes in the pipeline; what is not in `STEPS` comes after those, then notebooks."""
    if is_notebook(step):
        return len(STEPS) + 1
    return STEPS.index(step) if step in STEPS else len(STEPS)
