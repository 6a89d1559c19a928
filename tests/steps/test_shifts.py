"""The six settings: where their pairs come from, and whether the policy is tuned first."""

import pytest

from qrpo_lib.steps import shifts


@pytest.mark.parametrize("origin", ["offline", "off-policy-best", "off-policy-random"])
def test_three_sources_with_and_without_fine_tuning(origin):
    assert [shifts.source(setting) for setting in (origin, f"sft-{origin}")] == [origin] * 2
    assert [shifts.is_tuned_first(setting) for setting in (origin, f"sft-{origin}")] == [False, True]


@pytest.mark.parametrize("setting", ["", "sft-", "sft-sft-offline", "off-policy", "online"])
def test_other_settings_are_refused(setting):
    with pytest.raises(
        ValueError, match=r"There is no setting .*: use offline, off-policy-best, off-policy-random, or"
    ):
        shifts.source(setting)
