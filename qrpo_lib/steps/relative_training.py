"""Training of QRPO's relatives: one policy fitted with one method (`qrpo_lib.profiles.relatives`) and seed.

    relative_training.run(profile, method, seed)

QRPO with the Z of `qrpo_lib.objective.losses` and DPO are the suite's own trainings, with their keys; all others have
steps of their own, by how they are trained:

    regression   a target for each completion                  `regression_training`
    pairs        rewards or labels of pairs, KTO's labels       `label_training`
    online       completions of the policy as it is            `online_training`

The folder holds the trained policy (`policy/`) and `history.csv`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrpo_lib.profiles.relatives import ONLINE, Method
from qrpo_lib.profiles.settings import Profile
from qrpo_lib.runs import folders, keys
from qrpo_lib.steps import fitting, label_training, online_training, regression_training

if TYPE_CHECKING:
    import pandas as pd

IS_INFRASTRUCTURE = True  # a registry: what it gives counts, not what it could give

_LABELS = ("rpo", "ipo", "kto")


def step(profile: Profile, method: Method, seed: int) -> keys.Step:
    """What determines the policy trained with this method; the profile says on which samples (`training.setting`)."""
    if method.name == "dpo" or (method.name == "qrpo" and method.partition != "discrete"):
        return fitting.step(_with_values(profile, method), method.name, seed)
    if method.name in ONLINE:
        return online_training.step(profile, method, seed)
    if method.name in _LABELS:
        return label_training.step(profile, method, seed)
    return regression_training.step(profile, method, seed)


def run(profile: Profile, method: Method, seed: int) -> Path:
    """The folder of the trained policy, made if it is not there."""
    return folders.make(step(profile, method, seed))


def policy(step_of_training: keys.Step) -> Path:
    """The folder of the policy that a training ended with."""
    return step_of_training.folder / fitting.POLICY


def load_history(step_of_training: keys.Step) -> pd.DataFrame:
    """Losses of training, one row for each step."""
    return fitting.load_history(step_of_training.folder)


def _with_values(profile: Profile, method: Method) -> Profile:
    names: dict[str, Any] = {"beta": method.beta, "learning_rate": method.learning_rate}
    if method.name == "qrpo":
        names |= {"num_ref_rewards": method.num_ref_rewards, "partition": method.partition or "exact"}
    return profile.with_training(**{f"{method.name}.{name}": value for name, value in names.items()})
