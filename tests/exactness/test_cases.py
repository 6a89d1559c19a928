"""The trainer on the notebook's cases reaches their closed forms."""

import pytest

from qrpo_lib.exactness import cases, enumerated
from qrpo_lib.objective import transforms
from qrpo_lib.theory import tabular

TOLERANCE = 1e-3  # nats


@pytest.fixture(scope="module")
def problem():
    return enumerated.problem(seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), [("identity", "offline"), ("log", "off-policy"), ("normal", "offline")])
def test_qrpo_reaches_the_closed_form(name, data, problem):
    loss = {"transform": name} | cases.QRPO_LOSSES[name]
    rows = enumerated.rows(problem, "qrpo", cases.distribution(problem, data))
    fit = enumerated.fit(problem, "qrpo", loss, rows, learning_rate=7e-3, steps=150)
    target = enumerated.optimum(problem, "qrpo", loss)
    assert tabular.kl(problem.log_ref, target) > 0.1, "there must be a way to go"
    assert tabular.kl(fit.log_policy, target) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dpo", "rebel"])
def test_pairs_reach_the_closed_form(algorithm, problem):
    loss = cases.PAIR_LOSSES[algorithm]
    rows = enumerated.rows(problem, algorithm, cases.distribution(problem, "offline"))
    fit = enumerated.fit(problem, algorithm, loss, rows, learning_rate=7e-3, steps=200)
    assert tabular.kl(fit.log_policy, enumerated.optimum(problem, algorithm, loss)) <= TOLERANCE


@pytest.mark.slow
def test_two_rounds_end_where_theory_says(problem):
    rounds = cases.rounds_table(problem, beta=0.25, count=2, learning_rate=7e-3, steps=150).set_index("reward")
    assert (rounds["kl_to_rounds"] <= TOLERANCE).all()
    assert rounds.loc["fixed", "kl_to_one_stage"] <= TOLERANCE
    assert rounds.loc["renewed", "kl_to_one_stage"] > 5 * TOLERANCE
    assert rounds.loc["renewed", "kl_to_initial"] > rounds.loc["fixed", "kl_to_initial"]
    assert transforms.of_round("identity", 1) is transforms.get("identity")
