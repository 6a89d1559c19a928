"""Exactness: the real trainer on one prompt whose completions are all enumerated, against closed forms of the optimum.

    problem = enumerated.problem(seed=0)
    rows = enumerated.rows(problem, "qrpo", problem.log_ref)
    fit = enumerated.fit(problem, "qrpo", {"beta": 0.5}, rows)          # trainer.fit_policy on a small random Llama
    tabular.kl(fit.log_policy, enumerated.optimum(problem, "qrpo", {"beta": 0.5}))

A vocabulary of a few tokens and completions of at most `longest` tokens, cut off there without an end-of-sequence token
as sampling does: their probabilities sum to 1. Every expectation is a sum, by the weights of the rows.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import optimize, sparse, special
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from qrpo_lib.objective import transforms
from qrpo_lib.theory import tabular
from qrpo_lib.training import samples, trainer
from qrpo_lib.training.configuration import Objective, Optimization, Output
from qrpo_lib.training.log_probs import completion_log_probs

EOS = 0
PARTNERS = 2  # pairs that each completion starts
_CANDIDATES = 20  # random models, of which the one that spreads its probability most is the reference


@dataclass(frozen=True)
class Enumeration:
    """One prompt, its m completions, and the reference policy.

    completions: token ids.   rewards: (m,) distinct, standard normal.   ref_rewards: (n,) as a reference of which n
    completions were drawn, one from each n-th part of its reward distribution: quantiles are exact to 1/n.
    log_ref: (m,) log-probabilities of `reference`, a random Llama.
    """

    prompt: list[int]
    completions: list[list[int]]
    rewards: np.ndarray
    ref_rewards: np.ndarray
    log_ref: np.ndarray
    reference: PreTrainedModel

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(completion) for completion in self.completions])


class Fit(NamedTuple):
    """The trained model, its log-probabilities (m,), and those (checkpoints + 1, m) at the steps of its checkpoints."""

    model: PreTrainedModel
    log_policy: np.ndarray
    checkpoints: np.ndarray
    steps: list[int]


def problem(seed: int, *, vocabulary: int = 4, longest: int = 4, references: int = 250) -> Enumeration:
    """A random problem. The reference is random too, the most spread-out of 20: see `Enumeration`.

    A continuous reward is what Table 4's partition functions are for. With m completions a reward has m values, and the
    closed form is off by about (sum of p^2) / (2 beta): the more the reference spreads, the closer.

    Parameters
    ----------
    seed: of rewards and references.
    vocabulary: tokens, the end-of-sequence token included.
    longest: tokens of the longest completions.
    references: how many reference rewards there are.
    """
    words = [token for token in range(vocabulary) if token != EOS]
    completions = [[*w, EOS] for length in range(longest) for w in itertools.product(words, repeat=length)]
    completions += [list(w) for w in itertools.product(words, repeat=longest)]
    # A token that no completion repeats: after a prompt "a" a Llama cannot tell "a" from "a a", since attention
    # averages over equal values and rotary positions are relative.
    prompt = [EOS]
    candidates = [_random_llama(vocabulary, _CANDIDATES * seed + i) for i in range(_CANDIDATES)]
    concentration = [np.exp(2 * log_policy(candidate, prompt, completions)).sum() for candidate in candidates]
    rewards = np.random.default_rng(seed).normal(size=len(completions))
    empty = Enumeration(prompt, completions, rewards, np.empty(references), np.empty(0), candidates[0])
    return with_reference(empty, candidates[int(np.argmin(concentration))])


def with_reference(problem: Enumeration, model: PreTrainedModel) -> Enumeration:
    """The same completions and rewards with another reference, and so other reference rewards."""
    log_ref = log_policy(model, problem.prompt, problem.completions)
    references = reference_rewards(problem.rewards, log_ref, len(problem.ref_rewards))
    return replace(problem, ref_rewards=references, log_ref=log_ref, reference=model)


def reference_rewards(rewards: np.ndarray, log_ref: np.ndarray, n: int) -> np.ndarray:
    """(n,) of (m,) rewards, as if n were drawn, one from each n-th part of their distribution: quantiles to 1/n."""
    order = np.argsort(rewards)
    levels = (np.arange(n) + 0.5) / n
    ranks = np.searchsorted(np.cumsum(np.exp(log_ref[order])), levels).clip(max=len(order) - 1)
    return rewards[order][ranks]


def log_policy(model: PreTrainedModel, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> np.ndarray:
    """log pi(y|x) of every completion, (m,) in float64, from the function that training uses."""
    rows = [{"prompt_ids": list(prompt), "completion_ids": list(completion)} for completion in completions]
    batch = samples.Collator(EOS)(rows)
    with torch.no_grad():
        logps, _ = completion_log_probs(model, batch["input_ids"], batch["completion_mask"])
    return logps.double().numpy()


def other_policy(problem: Enumeration, seed: int) -> np.ndarray:
    """Log-probabilities (m,) of a policy that has nothing to do with the reference: where offline data is from.

    A random one about the uniform: completions of 4 tokens are as likely as the empty one.
    """
    return tabular.random_prompt(len(problem.completions), seed, concentration=5.0)[0]


def rows(problem: Enumeration, algorithm: str, log_data: np.ndarray, seed: int = 0, chain: bool = False) -> list[dict]:
    """Training rows whose completions come from a distribution: each completion once, weighted.

    QRPO: every completion, weight its probability. The others: `PARTNERS` random pairs a completion, weight the product
    of the two probabilities; for the preferences of DPO and SimPO in both orders, by Bradley-Terry with the rewards.

    Parameters
    ----------
    problem: the prompt with its completions.
    algorithm: which one the rows are for.
    log_data: (m,) log-probabilities that the completions of the data have.
    seed: of the pairs.
    chain: pairs of neighbours in the order of enumeration, which mix far more slowly than random ones.
    """
    m = len(problem.completions)
    if algorithm == "qrpo":
        return [
            {
                "prompt_ids": problem.prompt,
                "completion_ids": problem.completions[i],
                "reward": problem.rewards[i],
                "ref_rewards": problem.ref_rewards,
                "weight": m * np.exp(log_data[i]),
            }
            for i in range(m)
        ]
    generator = np.random.default_rng(seed)
    chosen = np.tile(np.arange(m), PARTNERS)
    # a chain of all completions in the order of enumeration mixes far more slowly than random pairs
    rejected = (chosen + (1 if chain else generator.integers(1, m, len(chosen)))) % m
    graph = sparse.coo_matrix((np.ones(len(chosen)), (chosen, rejected)), (m, m))
    if sparse.csgraph.connected_components(graph)[0] > 1:
        raise ValueError("the pairs do not connect all completions, so they do not identify the optimum: another seed.")
    return pair_rows(problem, chosen, rejected, log_data, preferences=algorithm != "rebel")


def pair_rows(problem: Enumeration, chosen, rejected, log_data: np.ndarray, *, preferences: bool) -> list[dict]:
    """Rows of the pairs with these indices, weighted as in `rows`.

    Parameters
    ----------
    problem: the prompt with its completions.
    chosen, rejected: (pairs,) indices of completions.
    log_data: (m,) log-probabilities that the completions of the data have.
    preferences: each pair in both orders, weighted by Bradley-Terry with the rewards.
    """
    weights = len(log_data) ** 2 * np.exp(log_data[chosen] + log_data[rejected])
    if preferences:
        wins = special.expit(problem.rewards[chosen] - problem.rewards[rejected])
        chosen, rejected = np.concatenate([chosen, rejected]), np.concatenate([rejected, chosen])
        weights = np.concatenate([weights * wins, weights * (1 - wins)])
    return [
        {
            "prompt_ids": problem.prompt,
            "chosen_ids": problem.completions[i],
            "rejected_ids": problem.completions[j],
            "chosen_reward": problem.rewards[i],
            "rejected_reward": problem.rewards[j],
            "weight": weight,
        }
        for i, j, weight in zip(chosen, rejected, weights, strict=True)
    ]


def fit(
    problem: Enumeration,
    algorithm: str,
    loss: Mapping[str, Any],
    rows: list[dict],
    *,
    learning_rate: float,
    steps: int,
    online: trainer.Online | None = None,
) -> Fit:
    """`trainer.fit_policy` from the reference, with all rows in every step.

    Parameters
    ----------
    problem: the prompt with its completions.
    algorithm, loss: the algorithm, and the settings of its loss.
    rows: as `rows` makes them.
    learning_rate: of the first step.
    steps: how many are taken.
    online: rows in place of `rows` for each step, as in `trainer.fit_policy`; their weights are 1.
    """
    seen: dict[int, np.ndarray] = {}
    fitted = trainer.fit_policy(
        copy.deepcopy(problem.reference),
        _tokenizer(problem.reference.config.vocab_size),
        rows,
        objective=Objective(algorithm, loss),
        settings=Optimization(learning_rate, batch_size=len(rows), epochs=steps, checkpoints=min(steps, 20)),
        online=online,
        output=Output(
            on_checkpoint=lambda step, model: seen.update(
                {step: log_policy(model, problem.prompt, problem.completions)}
            )
        ),
    )
    return Fit(fitted.model, seen[steps], np.stack(list(seen.values())), list(seen))


def optimum(problem: Enumeration, algorithm: str, loss: Mapping[str, Any]) -> np.ndarray:
    """log pi* (m,) in closed form: pi_ref exp(R / beta) / Z, with the Z of the sum over all completions (Eq. 2).

    R is f of the exact quantile for QRPO (Eq. 8, 13), the reward itself for DPO and REBEL. SimPO's is another, without
    reference: log pi = |y| (R / beta + C), C from the normalisation, for gamma_ratio = 0.
    """
    beta = loss["beta"]
    if algorithm == "simpo":
        scores = problem.lengths * problem.rewards / beta
        constant = optimize.brentq(lambda c: special.logsumexp(scores + c * problem.lengths), -100, 100, xtol=1e-14)
        return scores + constant * problem.lengths
    rewards = problem.rewards
    if algorithm == "qrpo":
        f = transforms.get(loss.get("transform", "identity"))
        rewards = f(f.clamp(tabular.quantiles(problem.log_ref, rewards), len(problem.ref_rewards)))
    return tabular.optimal_policy(problem.log_ref, rewards, beta)


def spectral_gap(problem: Enumeration, rows: list[dict]) -> float:
    """How well pairs mix: second smallest eigenvalue of the weighted graph's normalised Laplacian, 0 if it falls apart.

    Least squares on the differences of pairs takes a number of steps inverse to it.
    """
    index = {tuple(completion): i for i, completion in enumerate(problem.completions)}
    adjacency = np.zeros((len(index), len(index)))
    for row in rows:
        i, j = index[tuple(row["chosen_ids"])], index[tuple(row["rejected_ids"])]
        adjacency[[i, j], [j, i]] += row["weight"]
    return float(np.linalg.eigvalsh(sparse.csgraph.laplacian(adjacency, normed=True))[1])


def _random_llama(vocabulary: int, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            initializer_range=0.06,
            bos_token_id=None,
            eos_token_id=EOS,
        )
        return LlamaForCausalLM(config).eval()


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocabulary)}, unk_token=f"t{EOS}"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"t{EOS}", pad_token=f"t{EOS}")
