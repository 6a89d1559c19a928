"""The user's data, made ready for `QRPOTrainer`: token ids, checked, with their reference rewards."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset

from qrpo_lib.runs.errors import InputError, about
from qrpo_lib.training import causal_lm, conversations, guard, preference_rows, run_identity, samples
from qrpo_lib.training.preference_rows import Rows
from qrpo_lib.training.qrpo_config import QRPOConfig

_LARGEST_TARGET = 1e18  # whose square is a float32


class ReferenceRewards(Protocol):
    """What computes rewards of reference completions, such as `qrpo_lib.SampledReferences`."""

    def complete(self, found: Rows, data: Sequence[Mapping], model: Any, tokenizer: Any, *, name: str) -> None:
        """Put `ref_rewards`, and rewards that are missing, into tokenised rows.

        Parameters
        ----------
        found: tokenised rows, which are changed.
        data: the rows as they were given.
        model: the reference policy.
        tokenizer: its tokenizer.
        name: of the data, for errors, such as "train".
        """
        ...


@dataclass
class RowPreparation:
    """Makes rows of datasets, all of the same form, and remembers what they are.

    reference: gives the reference policy, where that is not the model.
    of: the sides of a row, "pair" or pointwise (`samples`).
    longest, largest_id: tokens of the longest sequence so far, and the largest token id.
    references: how many reference rewards the rows of each dataset have, None where they have none.
    hashes: of the rows of each dataset.
    """

    args: QRPOConfig
    model: Any
    tokenizer: Any
    reference_rewards: str | Path | ReferenceRewards | None = None
    reference: Callable[[], Any] | None = None
    of: tuple[str, ...] = samples.PAIR
    longest: int = 0
    largest_id: int = 0
    references: dict[str, int | None] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def loss_settings(self) -> dict[str, Any]:
        """The keyword arguments of the loss on rows of this form."""
        settings = self.args.loss_settings()
        if self.of == samples.POINTWISE:
            settings.pop("completions", None)
        return settings

    def datasets(self, sources: Sequence[tuple[str, Any]], check: Callable[[], None] = lambda: None) -> list[Dataset]:
        """The rows of what the trainer was given, by name, as datasets of token ids and numbers. Raises InputError.

        All are read and looked through, and `check` is called, before any reference completion is sampled.
        """
        read = [(name, *self._read(source, name)) for name, source in sources]
        check()
        return [self._finished(found, data, name) for name, found, data in read]

    def _read(self, source: Any, name: str) -> tuple[Rows, Sequence[Mapping]]:
        """The rows as token ids, and as they were given."""
        data = preference_rows.load(source, name)
        args, context = self.args, causal_lm.context(self.model)
        ends = conversations.end_tokens(self.tokenizer, getattr(self.model, "generation_config", None))
        limit = min(args.max_length or math.inf, context)
        found = preference_rows.tokenised(
            data, self.tokenizer, ends, max_length=None if limit == math.inf else int(limit), name=name
        )
        if warning := found.warning(name):
            warnings.warn(warning, stacklevel=5)
        of = samples.sides(found.rows[0])
        if self.longest and of != self.of:
            raise InputError(f"The {name} rows are of another form than the train rows: pairs against completions.")
        self.of = of
        if of == samples.POINTWISE and args.completions != "both":
            raise InputError(
                "completions says which of a pair is trained on, and the rows hold single ones: leave it out."
            )
        self._check_ids(found.rows, name)
        self.longest = max(self.longest, *map(samples.length, found.rows))
        if _completes(self.reference_rewards):  # with numbers in place of those that are to be computed
            numbers = dict.fromkeys(samples.reward_columns(of)[:-1], 0.0)
            numbers["ref_rewards"] = [0.0] * getattr(self.reference_rewards, "n", args.num_reference_rewards or 3)
            stand_ins = [numbers | row for row in found.rows]
            self._check_references(stand_ins, name)
            self._checked(stand_ins, name)
        return found, data

    def _finished(self, found: Rows, data: Sequence[Mapping], name: str) -> Dataset:
        """The rows with their reference rewards, as training uses them."""
        self._complete(found, data, name)
        self._check_references(found.rows, name)
        rows = self._checked(found.rows, name)
        self.hashes.setdefault(name, run_identity.rows_sha256(rows))  # an evaluation set may be called train, too
        self.references.setdefault(name, len(rows[0]["ref_rewards"]) if "ref_rewards" in rows[0] else None)
        return Dataset.from_list(rows)

    def _complete(self, found: Rows, data: Sequence[Mapping], name: str) -> None:
        """Reference rewards from where the trainer was told that they are."""
        source = self.reference_rewards
        if source is not None and not isinstance(source, str | Path) and not _completes(source):
            raise InputError(
                "reference_rewards must be a file with prompt and reference_rewards, or SampledReferences(reward_fn, "
                f"n=...), not {type(source).__name__}."
            )
        if isinstance(source, str | Path):
            _from_file(found, data, Path(source), name)
        elif source is not None:
            model = self.model
            if self.reference is not None:
                model = self.reference()
                self.check_reference(model)
            source.complete(found, data, _placed(model), self.tokenizer, name=name)

    def _check_ids(self, rows: Sequence[Mapping], name: str) -> None:
        """Raises InputError for token ids that the model does not have."""
        vocabulary = _vocabulary(self.model)
        for number, row in enumerate(rows):
            for column in ("prompt_ids", *map(samples.ids_column, self.of)):
                self.largest_id = max([self.largest_id, *row[column]])
                if row[column] and not 0 <= min(row[column]) <= max(row[column]) < vocabulary:
                    raise InputError(
                        f"{name} row {number}: {column} holds token ids outside of the model's vocabulary of "
                        f"{vocabulary}: is it the model's own tokenizer? Where tokens were added, call "
                        "model.resize_token_embeddings(len(tokenizer))."
                    )

    def check_reference(self, reference: Any) -> None:
        """Raises InputError for a reference model without these tokens or places, or that is not scored rightly."""
        rows, context = _vocabulary(reference), causal_lm.context(reference)
        if self.largest_id >= rows:
            raise InputError(
                f"ref_model has a vocabulary of {rows}, and the rows hold the token id {self.largest_id}: it must have "
                "the tokens of the model that is trained."
            )
        if self.longest > context:
            raise InputError(
                f"ref_model takes {context} tokens, and a row has {self.longest}: set max_length to {context}."
            )
        guard.check(reference, self.longest)

    def _check_references(self, rows: Sequence[Mapping], name: str) -> None:
        """Raises InputError for rows with different numbers of reference rewards, where nothing says how many count."""
        counts = {len(row["ref_rewards"]) for row in rows if "ref_rewards" in row}
        if self.args.num_reference_rewards is None and len(counts) > 1:
            count = f"say with num_reference_rewards how many count, at most {min(counts)}, or " if min(counts) else ""
            raise InputError(
                f"The {name} rows have {min(counts)} to {max(counts)} reference rewards each: {count}leave rows out."
            )

    def _check_differences(self, rows: list[dict], name: str) -> None:
        """Raises InputError for rewards whose squared difference is no float32; the Trainer logs such a loss as 0."""
        beta = self.loss_settings["beta"]
        for number, row in enumerate(rows):
            regressed_on = (row.get("chosen_reward", 0.0) - row.get("rejected_reward", 0.0)) / beta
            if abs(regressed_on) > _LARGEST_TARGET:
                raise InputError(
                    f"{name} row {number}: chosen_reward less rejected_reward over beta is {regressed_on:.3g}, whose "
                    "square is not finite: divide the rewards by a number."
                )

    def _checked(self, rows: list[dict], name: str) -> list[dict]:
        if self.args.loss_type == "rebel":
            self._check_differences(rows, name)
        try:
            return samples.checked(
                rows,
                name,
                algorithm=self.args.loss_type,
                settings=self.loss_settings,
                num_ref_rewards=self.args.num_reference_rewards,
                context=causal_lm.context(self.model),
            )
        except ValueError as error:
            text = str(error).replace("ref_rewards is", "reference_rewards is")
            if "reference_rewards is missing" in text:
                text += (
                    " Give each row a column of them, or the trainer reference_rewards=FILE or "
                    "reference_rewards=SampledReferences(reward_fn, n=...)."
                )
            elif text.endswith("reward is missing."):
                text += (
                    " Give each row one, or the trainer reference_rewards=SampledReferences(reward_fn, n=...), which "
                    "scores the rows too."
                )
            raise InputError(text) from None


def _placed(model: Any) -> Any:
    """The model on the device of this process, where training will move it: what is sampled there is sampled fast."""
    state = PartialState()
    whole = state.distributed_type in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    placed = getattr(model, "hf_device_map", None) is not None
    return model.to(state.device) if whole and not placed else model


def _vocabulary(model: Any) -> int:
    """How many token ids a model has."""
    embedding = model.get_input_embeddings()
    return getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0]


def _completes(source: Any) -> bool:
    return callable(getattr(source, "complete", None)) and not isinstance(source, type)


def _from_file(found: Rows, data: Sequence[Mapping], path: Path, name: str) -> None:
    """The reference rewards of each row's prompt, from a file of `prompt` and `reference_rewards`; of rows without."""
    column = preference_rows.REFERENCE_REWARDS
    of_prompt = {}
    for number, row in enumerate(preference_rows.load(path, "reference_rewards")):
        with about(f"Row {number} of {path}"):
            values = preference_rows.reference_rewards_of(row)
            if row.get("prompt") is None or values is None:
                raise InputError(f"it needs the columns prompt and {column}.")
            key = _key(row)
        if of_prompt.setdefault(key, values) != values:
            raise InputError(
                f"Row {number} of {path} has other {column} for a prompt than a row before: merge the two."
            )
    for row, source in zip(found.rows, found.sources, strict=True):
        if "ref_rewards" in row:
            continue
        with about(f"{name} row {source}"):
            key = _key(data[source])
        if key not in of_prompt:
            raise InputError(f"{path} has no reference rewards for the prompt of {name} row {source}.")
        row["ref_rewards"] = of_prompt[key]


def _key(row: Mapping) -> str:
    """The prompt of a row as one text. Raises InputError."""
    return conversations.encoded(preference_rows.prompt_of(row))
