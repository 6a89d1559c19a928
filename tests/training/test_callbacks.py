"""Which saved state a training is resumed from, when some were cut off or damaged."""

import pytest

from qrpo_lib.runs import files
from qrpo_lib.training import callbacks


def saved(folder, step, sealed=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "optimizer.pt").write_bytes(b"state after %d steps" % step)
    if sealed:
        files.seal_folder(checkpoint)
    return checkpoint


def test_the_last_complete_checkpoint_is_the_one_with_the_largest_number(tmp_path):
    for step in (9, 100, 20):  # as texts, 9 would be the last
        saved(tmp_path, step)
    assert callbacks.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def change_a_byte(checkpoint):
    path = checkpoint / "optimizer.pt"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("damage", [change_a_byte, lambda checkpoint: (checkpoint / "optimizer.pt").unlink()])
def test_a_damaged_checkpoint_is_removed_and_the_one_before_it_taken(tmp_path, damage):
    before, last = saved(tmp_path, 10), saved(tmp_path, 20)
    damage(last)
    assert callbacks.last_complete_checkpoint(tmp_path) == str(before)
    assert not last.exists()


def test_without_a_complete_checkpoint_training_begins_anew(tmp_path):
    assert callbacks.last_complete_checkpoint(tmp_path) is None
    cut_off = saved(tmp_path, 10, sealed=False)
    assert callbacks.last_complete_checkpoint(tmp_path) is None
    assert not cut_off.exists()
    assert callbacks.last_complete_checkpoint(tmp_path / "nothing") is None
