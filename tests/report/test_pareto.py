from hypothesis import given
from hypothesis import strategies as st

from bench.report.leaderboard.pareto import pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_the_front_is_what_no_other_point_dominates(points):
    def dominates(a, b):
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    best = {point for point in points if not any(dominates(other, point) for other in points)}
    assert pareto_front(points, lambda p: p[0], lambda p: p[1]) == sorted(best)
