"""What sampling returns for each completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    prompt_index, sample_index: of which prompt, and its number among that prompt's completions, both from 0.
    token_ids: as sampled, the end-of-sequence token included if it was sampled.
    text: decoded, without special tokens.
    finish_reason: "stop" if the model ended the sequence, "length" if max_new_tokens did.
    logp: sum of the tokens' log-probabilities under the model, in nats, whatever the temperature and top-p.
    """

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    text: str
    finish_reason: str
    logp: float
