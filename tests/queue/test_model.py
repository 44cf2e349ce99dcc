"""The queue's rules keep every destination up to date, and each of them is needed for that."""

from __future__ import annotations

import pytest

from tests.queue.model import RULES, Budget, check

CRASHES = Budget(crashes=1, expiries=1)
NO_ANSWERS = Budget(failures=1, no_answers=1)
DEAD_LETTERS = Budget(failures=2, redrives=1)
LOSSES = Budget(writes=1, crashes=1, pauses=1, losses=1)

#: The disturbances under which a destination becomes stale without the rule.
NEEDED_FOR = {
    "lease_check": CRASHES,
    "claim_before_read": CRASHES,
    "rerun": CRASHES,
    "retry_joins_rerun": DEAD_LETTERS,
    "destinations_grow": NO_ANSWERS,
    "waiting_wakes_with_all": NO_ANSWERS,
    "recheck_after_takeover": CRASHES,
    "recheck_after_no_answer": NO_ANSWERS,
    "recheck_is_kept": CRASHES,
    "takeover": CRASHES,
    "takeover_of_delivered": CRASHES,
    "lost_entry_is_absent": LOSSES,
}


@pytest.mark.parametrize("budget", [CRASHES, NO_ANSWERS, DEAD_LETTERS, LOSSES], ids=str)
def test_with_all_rules_no_destination_becomes_stale(budget: Budget) -> None:
    assert check(budget) is None


@pytest.mark.long
@pytest.mark.parametrize(
    "budget", [Budget(crashes=1, expiries=1, failures=1), Budget(crashes=1, pauses=1, losses=1)], ids=str
)
def test_with_all_rules_more_disturbances_leave_no_destination_stale(budget: Budget) -> None:
    assert check(budget) is None


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_a_destination_becomes_stale(rule: str) -> None:
    found = check(NEEDED_FOR[rule], frozenset({rule}))
    assert found is not None, f"not needed: {RULES[rule]}"
    assert found.state.copies != (found.state.version,) * 2, found.steps


def test_a_destination_with_a_dead_letter_may_be_stale() -> None:
    assert check(Budget(writes=1, failures=1)) is None
