import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from qrpo_lib.objective.quantile import quantile_reward

pytestmark = pytest.mark.filterwarnings("error")

# integers as floats: ties are frequent, and shifts and scales by integers are exact
rewards = st.integers(-50, 50).map(float)
samples = st.tuples(rewards, st.lists(rewards, min_size=1, max_size=12))


@given(samples)
@settings(deadline=None)
def test_against_scipy(sample):
    reward, references = sample
    assert quantile_reward(reward, references) * 100 == pytest.approx(
        stats.percentileofscore(references, reward, kind="weak")
    )


@given(hnp.arrays(float, (3, 2), elements=rewards), hnp.arrays(float, (3, 2, 4), elements=rewards))
@settings(deadline=None)
def test_shapes_and_torch(reward, references):
    result = quantile_reward(reward, references)
    assert result.shape == (3, 2)
    assert result[2, 1] == quantile_reward(reward[2, 1], references[2, 1])
    tensor = quantile_reward(torch.tensor(reward), torch.tensor(references))
    assert tensor.dtype == torch.float64
    assert np.array_equal(tensor.numpy(), result)


@given(samples, rewards)
@settings(deadline=None)
def test_monotone_and_bounded_with_values_k_over_n(sample, other):
    reward, references = sample
    low, high = sorted([reward, other])
    n = len(references)
    q_low, q_high = quantile_reward(low, references), quantile_reward(high, references)
    assert 0 <= q_low <= q_high <= 1
    assert q_low * n == pytest.approx(round(q_low * n))
    assert quantile_reward(max(references), references) == 1
    assert quantile_reward(min(references) - 1, references) == 0


@given(samples, st.integers(-100, 100), st.integers(1, 9))
@settings(deadline=None)
def test_invariant_under_strictly_increasing_maps(sample, shift, scale):
    reward, references = np.array(sample[0]), np.array(sample[1])
    expected = quantile_reward(reward, references)
    for increasing in (
        lambda r: scale * r + shift,
        lambda r: np.exp(r / 10),
        lambda r: r**3 + r,
        np.arctan,
    ):
        assert quantile_reward(increasing(reward), increasing(references)) == expected


@given(samples, st.permutations(range(4)))
@settings(deadline=None)
def test_the_order_and_the_repetition_of_references_do_not_matter(sample, order):
    reward, references = sample
    assert quantile_reward(reward, references[::-1]) == quantile_reward(reward, references)
    assert quantile_reward(reward, references * 3) == pytest.approx(quantile_reward(reward, references))


def test_ties_count():
    assert quantile_reward(1.0, [1.0, 1.0, 2.0, 0.0]) == 0.75


def test_leading_dimensions_broadcast():
    result = quantile_reward(np.array([[0.5, 1.5, 2.5]]), np.array([[[1.0, 2.0]]]))
    assert np.array_equal(result, [[0.0, 0.5, 1.0]])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_equal_rewards_of_different_precision_stay_equal(library):
    high, low = np.array(0.1), np.array([0.1], dtype=np.float32)
    assert low[0] > high  # 0.1 in single precision is above 0.1 in double: a naive comparison loses the tie
    if library == "torch":
        high, low = torch.tensor(0.1, dtype=torch.float64), torch.tensor([0.1], dtype=torch.float32)
    assert quantile_reward(high, low) == 1


def test_torch_precision_of_the_result():
    half = quantile_reward(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([[0.0, 1.0, 2.0]]))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(2 / 3)
    assert quantile_reward(torch.tensor([1]), torch.tensor([[0, 1, 2]])).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("library", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(library, bad):
    with pytest.raises(ValueError, match=r"^rewards hold NaN"):
        quantile_reward(library([bad]), library([[1.0]]))
    with pytest.raises(ValueError, match=r"^ref_rewards hold NaN"):
        quantile_reward(library([1.0]), library([[1.0, bad]]))


@pytest.mark.parametrize("library", [np.zeros, torch.zeros], ids=["numpy", "torch"])
def test_shapes_that_do_not_fit_are_refused(library):
    with pytest.raises(ValueError, match="at least one reference reward"):
        quantile_reward(library((2,)), library((2, 0)))
    for shape, ref_shape in [((2,), (3, 4)), ((2,), (2, 2, 4)), ((1,), (2, 4))]:
        with pytest.raises(ValueError, match="do not fit"):
            quantile_reward(library(shape), library(ref_shape))


def test_one_number_is_no_list_of_references():
    for library in (np.array, torch.tensor):
        with pytest.raises(ValueError, match="at least one reference reward"):
            quantile_reward(library(1.0), library(2.0))


def test_many_references_are_counted_in_torch_too():
    references = torch.arange(70_000.0)
    assert quantile_reward(torch.tensor(52_499.5), references).item() == pytest.approx(0.75)


def test_whole_numbers_are_compared_with_fractions():
    for library in (np.array, torch.tensor):
        assert quantile_reward(library(2), library([1.5, 2.0, 2.5, 3.0])) == 0.5
        assert quantile_reward(library(2.5), library([1, 2, 3, 4])) == 0.5


@pytest.mark.parametrize("library", [np.zeros, torch.zeros], ids=["numpy", "torch"])
def test_no_prompts_give_no_quantiles(library):
    assert tuple(quantile_reward(library((0,)), library((0, 3))).shape) == (0,)


def test_a_million_prompts_with_fifty_references():
    rng = np.random.default_rng(0)
    references = rng.random((1_000_000, 50), dtype=np.float32)
    result = quantile_reward(np.full(1_000_000, 0.3, dtype=np.float32), references)
    assert result.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 5e7))


@pytest.mark.parametrize("wide", ["rewards", "references"])
@pytest.mark.parametrize("as_torch", [False, True])
def test_rewards_of_two_precisions_are_compared_in_the_lower_one(wide, as_torch):
    """0.7 is rounded down in single precision and 0.3 up: equal rewards stay equal on either side."""
    values = np.array([0.3, 0.7])
    rewards, references = values.astype(np.float32), values
    if wide == "rewards":
        rewards, references = references, rewards
    if as_torch:
        rewards, references = torch.from_numpy(rewards), torch.from_numpy(references)
    for i in range(2):
        assert float(quantile_reward(rewards[i : i + 1], references[i : i + 1][None])[0]) == 1


def test_a_tensor_and_numbers_are_numpy():
    found = quantile_reward(torch.tensor([0.5]), [[0.0, 1.0]])
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [0.5]
    assert quantile_reward([0.5], torch.tensor([[0.0, 1.0]])).tolist() == [0.5]
