"""Property-based tests of what foreign bytes may do: the same cases in every run, more of them on request.

``CROSSFIRE_FUZZ=5000`` tries that many cases of each property, drawn anew each time.
"""

import os

from hypothesis import HealthCheck, settings

#: How many cases a property is tried on where nobody asks for more.
CASES = 250


def cases(share: float = 1.0) -> settings:
    """Return hypothesis' settings for a property that is tried on a share of all cases."""
    requested = int(os.environ.get("CROSSFIRE_FUZZ", "0"))
    return settings(
        max_examples=max(1, round(share * (requested or CASES))),
        derandomize=not requested,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
