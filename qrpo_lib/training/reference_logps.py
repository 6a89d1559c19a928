"""Log-probabilities under the reference policy, computed once for all algorithms and seeds and cached by content."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object, reduce
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qrpo_lib.runs import files, products
from qrpo_lib.runs.code_version import code_version
from qrpo_lib.training import causal_lm, parallel, samples
from qrpo_lib.training.log_probs import completion_log_probs

_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "dtype")  # of its configuration


@products.fast()
def log_probs(
    policy: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping],
    *,
    micro_batch_size: int,
    precision: str = "float32",
    cache: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """log pi_ref of the completions of each row: for each column of `samples.reference_columns` float32 (rows,).

    The same code and precision as in training (`parallel.Forward`), on the device of this process; several processes
    share the rows. In nats, summed over the completion's tokens.

    Parameters
    ----------
    policy: the reference policy, or its folder.
    tokenizer: of the policy; of it the padding token alone.
    rows: as those of training: token ids of prompt and completions.
    micro_batch_size: sequences of a forward pass.
    precision: as in training.
    cache: a folder: what was computed there before from the same weights, tokens and settings, whatever the algorithm,
        is read and not computed again.
    """
    forward = parallel.forward(precision)
    model = causal_lm.without_dropout(causal_lm.loaded(policy, forward.weights))
    of = samples.sides(rows[0])
    path = Path(cache) / f"{_key(model, rows, micro_batch_size, forward)}.npy" if cache is not None else None
    logps = _read(path, (len(of), len(rows)))
    if not all(gather_object([logps is not None])):  # one process alone must not skip what the others do together
        computed = compute(forward.of(model), causal_lm.pad_token_id(tokenizer), rows, micro_batch_size, forward)
        logps = computed.cpu().numpy()
        if path is not None and parallel.state().is_main_process:
            content = io.BytesIO()
            np.save(content, logps)
            files.write_sealed(path, content.getvalue())
    return dict(zip(samples.reference_columns(of), logps, strict=True))


def compute(
    model: PreTrainedModel, pad_token_id: int, rows: Sequence[Mapping], size: int, forward: parallel.Forward
) -> torch.Tensor:
    """log pi of the completions of each row, by all processes together: (sides, rows) on the device of each.

    Parameters
    ----------
    model: on this process's device, in the weights of the forward pass.
    pad_token_id: of batches, which is never read.
    rows: as in `log_probs`.
    size: rows at a time.
    forward: how forward passes are computed.
    """
    state, device = parallel.state(), parallel.device()
    model.eval()
    of = samples.sides(rows[0])
    collate = samples.Collator(pad_token_id)
    columns = ["prompt_ids", *map(samples.ids_column, of)]
    logps = torch.zeros(len(of), len(rows), device=device)
    chunks = list(samples.micro_batches(rows, size))
    with torch.no_grad(), forward.context(device):
        for chunk in chunks[state.process_index :: state.num_processes]:
            batch = collate([{name: list(rows[i][name]) for name in columns} for i in chunk])
            values, _ = completion_log_probs(model, batch["input_ids"], batch["completion_mask"])
            logps[:, torch.as_tensor(chunk, device=device)] = values.view(len(of), -1)
    return reduce(logps, "sum")


def _key(model: PreTrainedModel, rows: Sequence[Mapping], micro_batch_size: int, forward: parallel.Forward) -> str:
    """SHA-256 of all that the result depends on, to the last bit: micro-batches change the rounding."""
    key = hashlib.sha256()
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_OF_THE_MODEL}
    settings = [
        config,
        str(forward.weights),
        forward.autocast,
        micro_batch_size,
        code_version(("reference_logps:compute",)),
    ]
    key.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weights in sorted(model.state_dict().items()):
        key.update(f"{name} {tuple(weights.shape)} {weights.dtype}".encode())
        key.update(weights.detach().cpu().contiguous().view(torch.uint8).numpy())
    for row in rows:
        ids = [
            [int(token) for token in row[name]] for name in ("prompt_ids", *map(samples.ids_column, samples.sides(row)))
        ]
        key.update(json.dumps(ids).encode())
    return key.hexdigest()[:32]


def _read(path: Path | None, shape: tuple[int, int]) -> np.ndarray | None:
    """What the file holds if it is what was written, else None: a damaged file is made again."""
    content = files.read_sealed(path) if path is not None else None
    if content is None:
        return None
    logps = np.load(io.BytesIO(content))
    return logps if logps.shape == shape else None
