"""Reference rewards for the user's data: completions of the reference policy, sampled and scored before training."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from qrpo_lib.rewards import python_function
from qrpo_lib.runs.errors import InputError, about
from qrpo_lib.sampling import engines
from qrpo_lib.training import conversations

_COMPARED = 8  # completions whose log-probabilities are compared with a plain forward pass
_COMPLETIONS_COLUMNS = ("chosen", "rejected", "completion", "prompt")
_NUMBERS = ("reward", "chosen_reward", "rejected_reward", "reference_rewards", "weight")  # of a row's own completions


class SampledReferences:
    """`QRPOTrainer(..., reference_rewards=SampledReferences(reward_fn, n=8))`.

    Each prompt gets the rewards of `n` completions of the reference policy, at temperature 1 and top-p 1, as the
    quantile reward is defined; completions of the rows that have no reward are scored by the same function. Prompts
    that occur in several rows are sampled once.

    Parameters
    ----------
    reward_fn: `f(prompts, completions, **columns) -> list of numbers`, as TRL's reward functions; its name
        ("my_reward.py:f"); an object with `score(prompts, completions)`; or a reward of the suite, such as
        `qrpo_lib.rewards.models.ChatReward(FOLDER)` for a sequence classifier. Prompts and completions are texts, or
        lists of messages where the data are conversational.
    n: reference completions a prompt.
    engine: "transformers", "vllm" (its own process, from a saved copy of the policy), or "auto".
    max_new_tokens: of a completion.
    batch_size: sequences at a time (transformers).
    seed: of the sampling; the same seed gives the same rewards.

    Raises InputError for numbers below 1, an engine that is not there, a reward_fn that cannot be called, or rewards
    that are not numbers.
    """

    def __init__(
        self,
        reward_fn: Callable[..., Sequence[float]] | str | Any,
        n: int = 8,
        *,
        engine: str = "transformers",
        max_new_tokens: int = 256,
        batch_size: int = 64,
        seed: int = 0,
    ):
        for setting, value in (("n", n), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise InputError(f"{setting} must be an integer of at least 1, got {value!r}.")
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
            raise InputError(f"seed must be an integer from 0 to 2**32 - 1, got {seed!r}.")
        engines.resolve(engine)
        if isinstance(reward_fn, str):
            reward_fn = python_function.load(reward_fn)
        self._told = _told_by(reward_fn)
        self._reward = getattr(reward_fn, "score", reward_fn)
        if not callable(self._reward):
            raise InputError("reward_fn must be a function of prompts and completions, or name one.")
        self.n, self._engine, self._batch_size, self._seed = int(n), engine, int(batch_size), int(seed)
        self._max_new_tokens = int(max_new_tokens)
        self.completions: list[tuple[Any, str, float]] = []

    def complete(self, found: Any, data: Sequence[Mapping], model: Any, tokenizer: Any, *, name: str) -> None:
        """Put `ref_rewards` into the rows of `found`, and rewards of their completions where there are none.

        What was sampled is kept in `completions`: prompt, text and reward of each. One process samples; all get the
        same rewards.

        Parameters
        ----------
        found: tokenised rows (`qrpo_lib.training.preference_rows.Rows`), which are changed.
        data: the rows as they were given.
        model: the reference policy.
        tokenizer: its tokenizer.
        name: of the data, for errors, such as "train".

        Raises
        ------
        InputError
            A reference completion's reward is not finite, or the reward needs a column that the rows do not have.
        """
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        state = PartialState()
        results: list[Any] = [None]
        if state.is_main_process:
            results = [self._computed(found, data, model, tokenizer, name)]
        if state.num_processes > 1:
            broadcast_object_list(results)
        for row, values in zip(found.rows, results[0], strict=True):
            row.update(values)

    def completed(self, data: Sequence[Mapping], model: Any, tokenizer: Any) -> list[dict[str, Any]]:
        """The rows as given, with `reference_rewards` and the rewards of their completions; unusable rows left out."""
        from qrpo_lib.training import preference_rows

        ends = conversations.end_tokens(tokenizer, getattr(model, "generation_config", None))
        found = preference_rows.tokenised(data, tokenizer, ends, max_length=None, name="given")
        self.complete(found, data, model, tokenizer, name="given")
        rewards = ("reward", "chosen_reward", "rejected_reward")
        result = []
        for row, source in zip(found.rows, found.sources, strict=True):
            added = {name: row[name] for name in rewards if name in row}
            result.append({**data[source], **added, "reference_rewards": row["ref_rewards"]})
        return result

    def _computed(self, found: Any, data: Sequence[Mapping], model: Any, tokenizer: Any, name: str) -> list[dict]:
        """What is to be added to each row."""
        rows = [data[source] for source in found.sources]
        added: list[dict[str, Any]] = [{} for _ in rows]
        names = {name for row in rows for name in row} - {*_COMPLETIONS_COLUMNS}
        python_function.check_columns(self._reward, {"prompts", "completions", *names})  # before any work
        self._score_own(found, rows, added, name)
        groups: dict[tuple[str, bool, str], list[int]] = {}  # rows of one prompt whose references are scored alike
        for i, row in enumerate(found.rows):
            if "ref_rewards" not in row:
                is_text = isinstance(_prompt(rows[i]), str)
                key = json.dumps(row["prompt_ids"]), is_text, self._said_to_reward(rows[i])
                groups.setdefault(key, []).append(i)
        if not groups:
            return added
        firsts = [members[0] for members in groups.values()]
        prompts = list(dict.fromkeys((prompt, is_text) for prompt, is_text, _ in groups))
        ids = [(json.loads(prompt), is_text) for prompt, is_text in prompts]
        settings = {"max_new_tokens": self._max_new_tokens, "seed": self._seed, "batch_size": self._batch_size}
        texts = sampled_texts(model, tokenizer, ids, n=self.n, engine=self._engine, **settings)
        of_prompt = dict(zip(prompts, texts, strict=True))
        flat = [text for prompt, is_text, _ in groups for text in of_prompt[prompt, is_text]]
        of_all = [i for i in firsts for _ in range(self.n)]
        rewards = self._scores([rows[i] for i in of_all], flat)
        bad = np.flatnonzero(~np.isfinite(rewards))
        if len(bad):
            where = found.sources[of_all[bad[0]]]
            raise InputError(
                f"{len(bad)} of {len(rewards)} reference completions have no finite reward, first for the prompt of "
                f"{name} row {where}: a missing score is not a low one; let the reward give every completion a number."
            )
        for members, some in zip(groups.values(), rewards.reshape(len(groups), self.n), strict=True):
            for i in members:
                added[i]["ref_rewards"] = some.astype(float).tolist()
        shown = [_prompt(rows[i]) for i in of_all]
        self.completions += list(zip(shown, flat, rewards.astype(float).tolist(), strict=True))
        return added

    def _said_to_reward(self, row: Mapping) -> str:
        """What the reward is told beside the prompt, as one text: rows that differ in it are scored apart."""
        columns = {name: [row[name]] for name in row if name not in (*_COMPLETIONS_COLUMNS, *_NUMBERS)}
        said = python_function.taken(self._reward, columns)
        try:
            return json.dumps(said, sort_keys=True, default=_spelled)
        except (TypeError, ValueError):  # of keys that are no texts, or objects that hold themselves
            return repr(said)

    def _score_own(self, found: Any, rows: Sequence[Mapping], added: list[dict], name: str) -> None:
        """Rewards of the rows' own completions, where they have none."""
        from qrpo_lib.training import preference_rows, samples

        of = samples.sides(found.rows[0])
        for text, column in zip(preference_rows.TEXTS[of], preference_rows.REWARDS[of], strict=True):
            missing = [i for i, row in enumerate(found.rows) if column not in row]
            if missing:
                texts = [_words(rows[i], text, f"{name} row {found.sources[i]}") for i in missing]
                scores = self._scores([rows[i] for i in missing], texts)
                for i, score in zip(missing, scores, strict=True):
                    added[i][column] = float(score)

    def _scores(self, rows: Sequence[Mapping], texts: Sequence[str]) -> np.ndarray:
        """Rewards of texts, each of the row at its place, in the form of the rows' prompts.

        In float64, as rewards that rows come with: rounding one alone would take equal rewards apart.
        """
        prompts, completions = [_prompt(row) for row in rows], list(texts)
        if self._told is not None:
            if None in prompts:
                raise InputError(
                    "The rows hold token ids alone, and the reward reads the prompt as a text: give it too."
                )
            prompts = [self._told(prompt) for prompt in prompts]
        else:
            completions = list(map(conversations.as_completion, prompts, texts))
        names = {name for row in rows for name in row} - {*_COMPLETIONS_COLUMNS}
        columns = {name: [row.get(name) for row in rows] for name in sorted(names)}
        return python_function.scores(self._reward, prompts, completions, columns, np.float64)


def sampled_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[Sequence[int], bool]],
    *,
    n: int,
    max_new_tokens: int,
    seed: int,
    batch_size: int = 64,
    engine: str = "transformers",
) -> list[list[str]]:
    """`n` texts of each prompt at temperature 1: a text is continued to its end, a conversation to that of the turn.

    Parameters
    ----------
    model, tokenizer: the policy.
    prompts: token ids, and whether they are of a text, not of a conversation.
    n: texts of each prompt.
    max_new_tokens: of a text.
    seed: of the sampling.
    batch_size: sequences at a time (transformers).
    engine: "transformers", "vllm" or "auto".

    Raises
    ------
    InputError
        A prompt passes the model's context, or the model is not sampled from rightly.
    """
    texts: list[list[str]] = [[] for _ in prompts]
    settings = {"completions": n, "max_new_tokens": max_new_tokens, "seed": seed, "batch_size": batch_size}
    for of_text in (True, False):
        places = [place for place, (_, is_text) in enumerate(prompts) if is_text == of_text]
        if not places:
            continue
        ending = _with_end(tokenizer, model)
        if not of_text and tokenizer.chat_template is not None:  # without one, the rows are token ids
            ending = conversations.ending_turns(tokenizer, getattr(model, "generation_config", None))
        for one in _drawn(model, ending, [prompts[place][0] for place in places], engines.resolve(engine), settings):
            texts[places[one.prompt_index]].append(one.text)
    return texts


def _with_end(tokenizer: Any, model: Any) -> Any:
    """The tokenizer; where it has no end-of-sequence token, a copy with that of the model."""
    if tokenizer.eos_token_id is not None:
        return tokenizer
    changed = copy.copy(tokenizer)
    end = conversations.end_tokens(tokenizer, getattr(model, "generation_config", None))[0]
    changed.eos_token = tokenizer.convert_ids_to_tokens(end)
    return changed


def _drawn(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], backend: str, settings: Mapping[str, Any]
) -> Sequence[Any]:
    """Completions of prompts, of which a few have been compared with a plain forward pass."""
    from qrpo_lib.sampling import sampler
    from qrpo_lib.training import causal_lm

    longest, new, context = max(map(len, prompts)), settings["max_new_tokens"], causal_lm.context(model)
    if longest + new > context:
        raise InputError(
            f"A prompt of {longest} tokens with {new} new ones passes the model's context of {context}: lower "
            "max_new_tokens, or leave long prompts out."
        )
    with _policy(model, tokenizer, backend) as policy, causal_lm.plain(model):
        try:
            drawn = sampler.sample(policy, tokenizer, prompts, backend=backend, **settings)
        except InputError:
            raise
        except (TypeError, AttributeError, NotImplementedError, LookupError, ValueError, RuntimeError) as error:
            raise _cannot_be_sampled(model, backend, " ".join(str(error).split())[:200]) from error
        if backend == "transformers":
            _check_drawn(model, prompts, drawn)
    return drawn


def _check_drawn(model: Any, prompts: Sequence[Sequence[int]], drawn: Sequence[Any]) -> None:
    """Raises InputError if what sampling says of a few completions is not what a plain forward pass says."""
    import torch

    worst = 0.0
    for one in drawn[: len(drawn) : max(1, len(drawn) // _COMPARED)][:_COMPARED]:
        prompt, ids = list(prompts[one.prompt_index]), one.token_ids
        with torch.no_grad():
            whole = torch.tensor([[*prompt, *ids]], device=model.device)
            logits = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
        plain = logits.log_softmax(-1).gather(1, whole[0, len(prompt) :, None]).sum().item()
        worst = max(worst, abs(plain - one.logp) / len(ids))
    if not worst <= (2e-3 if model.dtype in (torch.float32, torch.float64) else 0.1):
        raise _cannot_be_sampled(model, "transformers", f"log-probabilities differ by {worst:.2g} nats a token")


def _cannot_be_sampled(model: Any, engine: str, why: str) -> InputError:
    return InputError(
        f"{type(model).__name__} ({model.config.model_type}) cannot be sampled from rightly with {engine} ({why}): use "
        'another engine ("vllm"), or give the rows reference_rewards.'
    )


@contextlib.contextmanager
def _policy(model: Any, tokenizer: Any, backend: str) -> Iterator[Any]:
    """The policy as the engine takes it: in memory, or saved."""
    if backend == "transformers":
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="qrpo-reference-") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield folder


def _spelled(value: Any) -> Any:
    """Something that JSON has no form for: arrays and tensors number by number, as their `repr` leaves most out."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _prompt(row: Mapping) -> Any:
    from qrpo_lib.training import preference_rows

    return row.get("prompt") if row.get("prompt_ids") is not None else preference_rows.prompt_of(row)


def _words(row: Mapping, column: str, said: str) -> str:
    """What a completion says. Raises InputError."""
    from qrpo_lib.training import preference_rows

    with about(said):
        return conversations.text_of(preference_rows.completion_of(row, column))


def _told_by(reward: Any) -> Callable[[Any], str] | None:
    """How a reward of the suite is told a prompt, as one text; None for rewards that are told it as it is."""
    if hasattr(reward, "named_parameters"):
        raise InputError(
            f"reward_fn is a model ({type(reward).__name__}): give a function that scores with it, or of a sequence "
            "classifier qrpo_lib.rewards.models.ChatReward(FOLDER)."
        )
    if hasattr(reward, "score"):
        from qrpo_lib.rewards import models

        if isinstance(reward, models.ChatReward | python_function.FunctionReward):
            return conversations.encoded
        if isinstance(reward, models.RelevanceReward):
            return lambda prompt: conversations.readable(conversations.encoded(prompt))
    return None
