"""Checkpoints are whole or not there; damage is seen, and the one before is used; nothing in them is run."""

import math
import pickle

import pytest
import torch

from sigmoidcore.training.runs.checkpoints import Checkpoints
from sigmoidcore.training.runs.state import State
from sigmoidcore.training.runs.weights import DamagedError, read_tensors, save_tensors


def state(step, score=None):
    generator = torch.Generator().manual_seed(step)
    weights = {"0.weight": torch.randn(8, 4, generator=generator), "0.alpha": torch.tensor(float(step))}
    tensors = {"random.torch": torch.get_rng_state(), "optimizer.0.weight/step": torch.tensor(3.0)}
    return State(step, score, weights, tensors, {"losses": [0.1, math.nan, -math.inf], "steps": 9})


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def steps(checkpoints):
    return [int(path.stem.removeprefix("step-")) for path in checkpoints.paths()]


def test_a_saved_state_is_read_bit_for_bit(checkpoints):
    saved = state(7, 0.5)
    checkpoints.save(saved, "x = 1\n")
    read = checkpoints.read()
    assert read.damaged == ()
    assert read.config == "x = 1\n"
    assert (read.state.step, read.state.score) == (7, 0.5)
    assert read.state.values["losses"][0] == 0.1
    assert math.isnan(read.state.values["losses"][1])
    assert read.state.values["losses"][2] == -math.inf
    for before, after in ((saved.weights, read.state.weights), (saved.tensors, read.state.tensors)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)


def test_an_empty_folder_has_no_checkpoint(checkpoints):
    assert checkpoints.read() is None
    assert checkpoints.best() is None


def test_the_two_latest_and_the_best_are_kept(checkpoints):
    for step, score in [
        (0, None),
        (5, 80.0),
        (10, 91.0),
        (12, None),
        (15, 91.0),
        (20, math.nan),
        (25, 89.0),
        (26, None),
    ]:
        checkpoints.save(state(step, score))
    assert steps(checkpoints) == [10, 25, 26]
    assert checkpoints.best().name == "step-000000010.safetensors"
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [p.name for p in checkpoints.paths()]


def test_a_checkpoint_of_the_same_step_replaces_the_one_before(checkpoints):
    checkpoints.save(state(3))
    checkpoints.save(state(3, 50.0))
    assert checkpoints.read().state.score == 50.0


def test_a_bit_that_flips_anywhere_is_seen_and_the_checkpoint_before_is_used(checkpoints):
    checkpoints.save(state(1), "a = 1\n")
    path = checkpoints.save(state(2), "a = 1\n")
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for bit in range(0, 8 * len(whole), max(1, 8 * len(whole) // 397)):
        if bit // 8 in range(len(whole[:header].rstrip()), header):
            continue  # a space that fills the header up
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        read = checkpoints.read()
        assert read.state.step == 1, bit
        assert len(read.damaged) == 1
        assert "step-000000002.safetensors is damaged" in read.damaged[0]


def test_a_file_that_is_cut_off_or_missing_is_seen_and_the_checkpoint_before_is_used(checkpoints):
    checkpoints.save(state(1), "a = 1\n")
    path = checkpoints.save(state(2), "a = 1\n")
    whole = path.read_bytes()
    for length in {0, 1, len(whole) // 2, len(whole) - 2}:
        path.write_bytes(whole[:length])
        assert checkpoints.read().state.step == 1
    path.unlink()
    assert checkpoints.read().state.step == 1


def test_if_no_checkpoint_is_valid_the_error_names_each(checkpoints):
    for step in (1, 2):
        checkpoints.save(state(step)).write_text("{}")
    with pytest.raises(DamagedError, match=r"no checkpoint is valid: .*step-000000002.* is damaged.*step-000000001"):
        checkpoints.read()


def test_a_file_of_a_killed_process_is_not_a_checkpoint_and_is_removed(checkpoints):
    path = checkpoints.save(state(1))
    path.with_name("step-000000002.safetensors.17.part").write_bytes(b"half")
    assert checkpoints.read().state.step == 1
    assert checkpoints.read().damaged == ()
    checkpoints.clean()
    assert [p.stem for p in checkpoints.folder.iterdir()] == ["step-000000001"]


class Bomb:
    ran = False

    def __reduce__(self):
        return (setattr, (Bomb, "ran", True))


def test_a_pickle_is_damage_and_runs_nothing(checkpoints):
    checkpoints.save(state(1))
    checkpoints.save(state(2)).write_bytes(pickle.dumps(Bomb()))
    read = checkpoints.read()
    assert read.state.step == 1
    assert len(read.damaged) == 1
    assert not Bomb.ran


@pytest.mark.parametrize(
    "wrong",
    [{"values": "[" * 100_000}, {"values": "[]"}, {"step": "3"}, {"step": "two"}, {"score": "high"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_metadata_that_are_wrong_with_a_right_checksum_are_damage(checkpoints, wrong):
    checkpoints.save(state(1))
    path = checkpoints.save(state(2))
    metadata, tensors = read_tensors(path)
    save_tensors(path, tensors, {**metadata, **wrong})
    assert "is not a checkpoint" in checkpoints.read().damaged[0]


def test_links_are_not_followed(checkpoints, tmp_path):
    checkpoints.save(state(1))
    path = checkpoints.save(state(2))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "links" in checkpoints.read().damaged[0]
    checkpoints.folder.rename(tmp_path / "moved")
    checkpoints.folder.symlink_to(tmp_path / "moved")
    assert checkpoints.read() is None
    with pytest.raises(OSError, match="links"):
        checkpoints.save(state(3))
