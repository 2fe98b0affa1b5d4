"""Makes, body types and years from class names, and mistakes that stay inside a group."""

import numpy as np
import pytest

from finegrain.evaluation import car_groups

CARS = {
    "AM General Hummer SUV 2000": ("AM General", "SUV", "2000"),
    "Acura Integra Type R 2001": ("Acura", "other", "2001"),
    "Aston Martin V8 Vantage Convertible 2012": ("Aston Martin", "Convertible", "2012"),
    "Chevrolet Silverado 1500 Classic Extended Cab 2007": ("Chevrolet", "Pickup", "2007"),
    "Dodge Ram Pickup 3500 Quad Cab 2009": ("Dodge", "Pickup", "2009"),
    "Ford E-Series Wagon Van 2012": ("Ford", "Van", "2012"),
    "Ford F-450 Super Duty Crew Cab 2012": ("Ford", "Pickup", "2012"),
    "Infiniti G Coupe IPL 2012": ("Infiniti", "Coupe", "2012"),
    "Land Rover LR2 SUV 2012": ("Land Rover", "SUV", "2012"),
    "Ram C-V Cargo Van Minivan 2012": ("Ram", "Minivan", "2012"),
    "smart fortwo Convertible 2012": ("smart", "Convertible", "2012"),
}


def test_names_of_stanford_cars_have_make_body_and_year():
    found = car_groups.from_class_names(list(CARS))
    assert list(zip(found["make"], found["body"], found["year"], strict=True)) == list(CARS.values())


@pytest.mark.parametrize(
    "names",
    [
        ["apple", "aquarium_fish", "baby"],
        ["Black footed Albatross", "Laysan Albatross"],
        ["Class of 2012", "a"],
    ],
)
def test_other_names_have_no_groups(names):
    assert car_groups.from_class_names(names) == {}


def test_a_few_other_names_form_a_group_of_their_own():
    names = [*list(CARS)[:9], "unknown"]
    groups = car_groups.from_class_names(names)
    assert groups["make"][-1] == "other" and groups["year"][-1] == "other"


GROUPS = ["Audi", "Audi", "Audi", "BMW"]


def test_summary_by_hand():
    labels, predicted = np.array([0, 0, 1, 3, 3, 2]), np.array([0, 1, 3, 3, 0, 1])
    # 2 of 6 are correct; two of the four mistakes, of an Audi each, stay with Audi
    found = car_groups.group_summary(GROUPS, labels, predicted)
    assert found["top1"] == pytest.approx(4 / 6) and found["of_mistakes"] == 0.5
    # of 3 other classes, an Audi has 2 of its make and the BMW none: mistakes of Audi, Audi, BMW, Audi
    assert found["of_mistakes_by_chance"] == pytest.approx((2 / 3 + 2 / 3 + 0 + 2 / 3) / 4)
    assert car_groups.group_summary(GROUPS, labels, labels) == {
        "top1": 1.0,
        "of_mistakes": 0.0,
        "of_mistakes_by_chance": 0.0,
    }


def test_table_by_hand():
    labels, predicted = np.array([0, 0, 1, 3, 3]), np.array([0, 1, 3, 3, 0])
    assert car_groups.group_table(GROUPS, labels, predicted) == [
        car_groups.GroupRow("Audi", 3, 3, pytest.approx(1 / 3), pytest.approx(2 / 3)),
        car_groups.GroupRow("BMW", 1, 2, 0.5, 0.5),
    ]
    assert [row.name for row in car_groups.group_table(GROUPS, labels[:3], predicted[:3])] == ["Audi"]
