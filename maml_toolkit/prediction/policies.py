"""Who answers: what a method makes of all scans together, what each scan says alone, or a mixture of both."""

from __future__ import annotations

from collections.abc import Iterable

POLICIES = ("fused", "heads", "by-size")
"""Who answers: what the method makes of all modalities together, the mean of what each says alone, or a mixture of both
whose shares depend on the number of scans."""

PARTS, MIXED = ("fused", "heads"), {"by-size": ("fused", "heads")}
"""The answers that are summed over windows, and the policies that are mixed of them."""


def parts_of(policy: str) -> tuple[str, ...]:
    """The answers of which a policy is made."""
    return MIXED.get(policy, (policy,))


def check_policy(policy: str) -> str:
    """The policy, if it is one.

    Raises:
        ValueError: it is none.
    """
    if policy not in POLICIES:
        raise ValueError(f"found policy={policy!r}, expected one of {', '.join(POLICIES)}")
    return policy


def check_policies(policies: str | Iterable[str]) -> list[str]:
    """The policies, or the one, each once.

    Raises:
        ValueError: one is none.
    """
    return list(dict.fromkeys(map(check_policy, [policies] if isinstance(policies, str) else policies)))
