"""Processes that train together share batches and GPUs, or the profile is refused."""

import pytest

from qrpo_lib.profiles import settings as profiles

SLURM = 'extends = "tiny"\n[dispatch]\nwhere = "slurm"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{SLURM}[training]\nmicro_batch_size = 4\n[dispatch.resources.training]\nnodes = 3",
            r"training\.batch_size 32 is not a multiple of micro_batch_size 4 x 3 processes \(dispatch\.resources",
        ),
        (
            f"{SLURM}[sft]\nmicro_batch_size = 8\n[dispatch.resources.sft]\nnodes = 2\ntasks_per_node = 4",
            r"sft\.batch_size 32 is not a multiple of micro_batch_size 8 x 8 processes \(dispatch\.resources\.sft\)",
        ),
        ('extends = "tiny"\n[sft]\nmicro_batch_size = 5', r"sft\.batch_size 32 is not a multiple of .*_size 5\."),
        (
            'extends = "gh200"\n[dispatch.resources.training]\ntasks_per_node = 8',
            r"dispatch\.resources\.reference_log_probs has tasks_per_node 8 and gpus_per_node 4: .*one GPU each",
        ),
        ('extends = "gh200"\n[dispatch.resources.sft]\ntasks_per_node = 1', "tasks_per_node 1 and gpus_per_node 4"),
        ('extends = "gh200"\n[dispatch.resources.training]\nnodes = 3', r"128 is not a multiple of .* x 12 processes"),
    ],
)
def test_processes_that_cannot_share_batches_and_gpus_are_refused_before_anything_runs(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(profiles.ProfileError, match=message):
        profiles.load(path)


def test_processes_that_can_share_batches_and_gpus(tmp_path):
    """Of one node with four GPUs, of sixteen nodes; where the notebook itself computes there is one process."""
    path = tmp_path / "mine.toml"
    cases = (("gh200", 1, 4, 4), ("gh200", 16, 4, 4), ("gh200", 1, 8, 0), ("tiny", 3, 5, 4))
    for extended, nodes, tasks, gpus in cases:
        resources = f"nodes = {nodes}\ntasks_per_node = {tasks}\ngpus_per_node = {gpus}"
        path.write_text(f'extends = "{extended}"\n[dispatch.resources.training]\n{resources}')
        assert profiles.load(path).dispatch.of_kind("training").nodes == nodes
