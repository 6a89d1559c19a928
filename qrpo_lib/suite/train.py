"""`qrpo train`: a policy of one's own from the command line, by `qrpo_lib.QRPOTrainer`. Needs the package's core alone.

    qrpo train --model ./my-model --train_dataset rows.jsonl --output_dir out --beta 0.01 \\
        --reward my_reward.py:reward --references 8
    accelerate launch -m qrpo_lib.suite.train --model ...        # on several processes

Every setting of `QRPOConfig` is an option. An interrupted command goes on from its last checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from qrpo_lib.runs import extras, products
from qrpo_lib.runs.errors import InputError


@dataclass
class Own:
    """What is trained, and on what."""

    model: str = field(metadata={"help": "A folder, or a name of the hub."})
    train_dataset: str = field(metadata={"help": "A file (.jsonl, .json, .csv, .parquet), a folder, or a hub id."})
    eval_dataset: str | None = field(default=None, metadata={"help": "The same, for evaluation."})
    reward: str | None = field(
        default=None, metadata={"help": "FILE.py:FUNCTION or MODULE:FUNCTION, by which references are scored."}
    )
    references: int = field(default=8, metadata={"help": "With --reward: reference completions of each prompt."})
    max_new_tokens: int = field(default=256, metadata={"help": "Of a reference completion."})
    engine: str = field(default="transformers", metadata={"help": "What samples: transformers, vllm or auto."})
    reference_rewards: str | None = field(
        default=None, metadata={"help": "A file with the columns prompt and reference_rewards."}
    )
    lora_rank: int | None = field(default=None, metadata={"help": "Train a LoRA adapter of this rank."})


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done, 2 unusable input, or a package that is not there."""
    try:
        with extras.needed():
            _train(sys.argv[1:] if arguments is None else arguments)
    except (InputError, ImportError) as error:
        print(f"qrpo train: {error}", file=sys.stderr)
        return 2
    return 0


def _train(arguments: list[str]) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    from qrpo_lib import QRPOTrainer, SampledReferences

    own, config = _parsed(arguments)
    products.check()
    references = own.reference_rewards
    if own.reward is not None:
        settings = {"engine": own.engine, "max_new_tokens": own.max_new_tokens, "seed": config.seed}
        references = SampledReferences(own.reward, own.references, **settings)
    adapter = None
    if own.lora_rank is not None:
        from peft import LoraConfig

        adapter = LoraConfig(r=own.lora_rank, task_type="CAUSAL_LM")
    trainer = QRPOTrainer(
        own.model,
        config,
        own.train_dataset,
        own.eval_dataset,
        reference_rewards=references,
        peft_config=adapter,
    )
    folder, last = config.output_dir, config.resume_from_checkpoint
    if last is None and folder and Path(folder).is_dir():
        last = get_last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=None if Path(own.train_dataset).exists() else own.train_dataset)
    else:
        trainer.create_model_card()


def _parsed(arguments: list[str]) -> tuple[Own, Any]:
    """What is trained, and the `QRPOConfig`. Raises InputError for options that there are not, or values of them."""
    from transformers import HfArgumentParser

    from qrpo_lib import QRPOConfig

    parser = HfArgumentParser((Own, QRPOConfig), prog="qrpo train")
    parser.error = _refused  # one sentence, without the hundreds of options before it
    try:
        own, config, rest = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    except InputError:
        raise
    except ValueError as error:  # what transformers says of a setting
        raise InputError(" ".join(str(error).split())) from error
    if rest:
        raise InputError(f"There is no option {' '.join(rest)}: `qrpo train --help` lists them.")
    _check(own, config)
    return own, config


def _refused(said: str) -> NoReturn:
    raise InputError(f"{said.rstrip('.')}.")


def _check(own: Own, config: Any) -> None:
    """Raises InputError for options of which one would do nothing without another, or beside it."""
    if own.reward is not None and own.reference_rewards is not None:
        raise InputError("Give --reward or --reference_rewards, not both.")
    of_reward = [one for one in fields(Own) if one.name in ("references", "max_new_tokens", "engine")]
    idle = [f"--{one.name}" for one in of_reward if getattr(own, one.name) != one.default]
    if own.reward is None and idle:
        raise InputError(
            f"{', '.join(idle)} is of references that are sampled, for which --reward is missing; "
            "--num_reference_rewards says how many of those in the rows count."
        )
    if own.lora_rank is not None and own.lora_rank < 1:
        raise InputError(f"--lora_rank must be at least 1, not {own.lora_rank}.")


if __name__ == "__main__":
    sys.exit(main())
