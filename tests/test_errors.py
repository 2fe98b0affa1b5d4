"""A message names a few of many, and says how many more there are."""

import pytest

from finegrain.core.errors import some


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (1, "0"), (5, "0, 1, 2, 3, 4"), (6, "0, 1, 2, 3, 4 and 1 more")]
)
def test_the_first_names_and_the_number_of_the_rest(count, text):
    assert some(range(count)) == text
    assert some((str(name) for name in range(count)), 5) == text


def test_a_long_list_stays_short():
    assert some(range(10_005), 2) == "0, 1 and 10,003 more"
