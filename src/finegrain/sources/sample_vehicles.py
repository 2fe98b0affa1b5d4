"""The vehicles of the embedded sample: classes, and the shapes that they are drawn from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""``[N, 2]``: x forward, y up, in half lengths of a sedan; the ground is y = 0, the middle x = 0."""


class Body(NamedTuple):
    """What a body type fixes: the outline from the rear sill over the roof to the foot of the windscreen."""

    outline: Sequence[tuple[float, float]]
    glass: Sequence[tuple[float, float]]
    pillars: Sequence[float]
    wheels: tuple[float, float]
    wheel_radius: float


# fmt: off
BODIES = {
    "Sedan": Body(
        [(-0.97, 0.13), (-1.0, 0.34), (-0.97, 0.48), (-0.66, 0.50), (-0.38, 0.76), (0.08, 0.78),
         (0.46, 0.50)],
        [(-0.56, 0.51), (-0.34, 0.70), (0.06, 0.72), (0.35, 0.51)], [-0.12], (-0.60, 0.60), 0.19,
    ),
    "Coupe": Body(
        [(-0.97, 0.13), (-1.0, 0.36), (-0.95, 0.49), (-0.38, 0.68), (-0.08, 0.70), (0.16, 0.66),
         (0.48, 0.47)],
        [(-0.54, 0.52), (-0.30, 0.62), (-0.05, 0.645), (0.14, 0.61), (0.34, 0.49)], [-0.24],
         (-0.60, 0.61), 0.20,
    ),
    "Convertible": Body(
        [(-0.97, 0.13), (-1.0, 0.36), (-0.95, 0.49), (-0.45, 0.51), (0.20, 0.49), (0.48, 0.47)],
        [(0.20, 0.49), (0.10, 0.66), (0.15, 0.68), (0.40, 0.48)], [], (-0.60, 0.61), 0.20,
    ),
    "Wagon": Body(
        [(-0.97, 0.13), (-1.0, 0.34), (-0.98, 0.50), (-0.84, 0.77), (-0.3, 0.80), (0.08, 0.78), (0.46, 0.50)],
        [(-0.84, 0.52), (-0.74, 0.71), (0.06, 0.72), (0.35, 0.51)], [-0.12, -0.52], (-0.60, 0.60), 0.19,
    ),
    "Hatchback": Body(
        [(-0.84, 0.13), (-0.88, 0.36), (-0.85, 0.52), (-0.60, 0.78), (-0.2, 0.82), (0.12, 0.79),
         (0.48, 0.50)],
        [(-0.66, 0.53), (-0.50, 0.72), (0.08, 0.73), (0.37, 0.51)], [-0.10], (-0.54, 0.59), 0.19,
    ),
    "SUV": Body(
        [(-0.95, 0.20), (-0.99, 0.40), (-0.96, 0.60), (-0.88, 0.91), (-0.3, 0.95), (0.12, 0.92),
         (0.42, 0.60)],
        [(-0.84, 0.64), (-0.78, 0.84), (0.08, 0.85), (0.32, 0.63)], [-0.13, -0.50], (-0.60, 0.60), 0.23,
    ),
    "Pickup": Body(
        [(-1.02, 0.20), (-1.04, 0.57), (-0.30, 0.57), (-0.25, 0.87), (0.14, 0.89), (0.42, 0.59)],
        [(-0.18, 0.62), (-0.16, 0.81), (0.11, 0.82), (0.32, 0.62)], [], (-0.62, 0.60), 0.22,
    ),
}
# fmt: on

Nose = Literal["sloping", "upright", "wedge", "boxy"]
NOSES: dict[Nose, Sequence[tuple[float, float]]] = {
    "sloping": [(0.72, 0.45), (0.94, 0.36), (1.0, 0.26), (0.98, 0.13)],
    "upright": [(0.84, 0.49), (0.96, 0.45), (0.98, 0.34), (0.97, 0.13)],
    "wedge": [(0.70, 0.40), (1.02, 0.25), (1.05, 0.20), (1.0, 0.13)],
    "boxy": [(0.88, 0.50), (0.94, 0.50), (0.95, 0.30), (1.01, 0.28), (1.01, 0.13)],
}
"""From the bonnet to the front sill, for a body whose windscreen stands at y = 0.50."""


@dataclass(frozen=True)
class Vehicle:
    """All that tells one class from another."""

    body: str
    nose: Nose
    wheel: Literal["disc", "spokes", "ring"]
    tail: Literal["tall", "wide"] = "tall"
    rack: bool = False
    spoiler: bool = False
    dark_sill: bool = False
    dark_roof: bool = False
    spare_wheel: bool = False


CLASSES = {
    "Aero Convertible 2012": Vehicle("Convertible", "sloping", "spokes", "wide"),
    "Aero Coupe 2012": Vehicle("Coupe", "sloping", "spokes", "wide"),
    "Aero Sedan 2008": Vehicle("Sedan", "sloping", "disc", "tall"),
    "Aero Sedan 2012": Vehicle("Sedan", "sloping", "spokes", "wide", spoiler=True),
    "Borealis Sedan 2012": Vehicle("Sedan", "upright", "disc", "tall", dark_sill=True),
    "Borealis Wagon 2009": Vehicle("Wagon", "upright", "disc", "tall"),
    "Borealis Wagon 2012": Vehicle("Wagon", "upright", "spokes", "tall", rack=True, dark_sill=True),
    "Corvid Coupe 2012": Vehicle("Coupe", "wedge", "ring", "tall", spoiler=True, dark_roof=True),
    "Corvid Hatchback 2010": Vehicle("Hatchback", "wedge", "ring", "tall", dark_roof=True),
    "Corvid SUV 2012": Vehicle("SUV", "wedge", "ring", "tall", dark_roof=True),
    "Dune Pickup 2011": Vehicle("Pickup", "boxy", "disc", "tall"),
    "Dune SUV 2012": Vehicle("SUV", "boxy", "disc", "wide", dark_sill=True, spare_wheel=True),
}
CLASS_NAMES = list(CLASSES)


class Shape(NamedTuple):
    """A filled polygon; ``role`` is a key of the palette."""

    role: str
    points: Points


def rounded(corners: Sequence[tuple[float, float]], radius: float) -> Points:
    """Replace each corner of a closed polygon by a quadratic curve that begins ``radius`` before it."""
    at = np.array(corners, dtype=np.float64)
    arms = []
    for neighbour in (np.roll(at, 1, axis=0), np.roll(at, -1, axis=0)):
        arm = neighbour - at
        arms.append(arm * np.minimum(radius / np.hypot(*arm.T), 0.45)[:, None])
    t = np.linspace(0, 1, 5)[:, None]
    return (at[:, None] + arms[0][:, None] * (1 - t) ** 2 + arms[1][:, None] * t**2).reshape(-1, 2)


def circle(x: float, y: float, radius: float, corners: int = 24) -> Points:
    angles = [2 * math.pi * (i + 0.5) / corners for i in range(corners)]
    return np.array([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles])


def band(points: Points, low: float, high: float) -> Points:
    """The part of a polygon between two heights (what lies beyond is pressed flat onto them)."""
    return np.stack([points[:, 0], points[:, 1].clip(low, high)], axis=1)


def box(left: float, low: float, right: float, high: float, lean: float = 0.0) -> Points:
    """A rectangle whose top is shifted by ``lean``."""
    return np.array([(left, low), (left + lean, high), (right + lean, high), (right, low)])


def wheel_shapes(x: float, radius: float, design: str) -> list[Shape]:
    rim = 0.68 * radius
    shapes = [Shape("tyre", circle(x, radius, radius)), Shape("rim", circle(x, radius, rim))]
    if design == "spokes":
        for i in range(5):
            a, half, inner = 2 * math.pi * i / 5 + 0.3, 0.42, 0.28 * rim
            fan = [(inner, a)] + [(0.9 * rim, a + half * k) for k in (-1, 0, 1)]
            shapes.append(
                Shape("gap", np.array([(x + r * math.cos(b), radius + r * math.sin(b)) for r, b in fan]))
            )
    elif design == "ring":
        shapes += [Shape("gap", circle(x, radius, 0.78 * rim)), Shape("rim", circle(x, radius, 0.2 * rim))]
    else:
        shapes += [Shape("seam", circle(x, radius, 0.45 * rim)), Shape("rim", circle(x, radius, 0.33 * rim))]
    return shapes


@cache
def vehicle_shapes(vehicle: Vehicle) -> tuple[Shape, ...]:
    """The whole vehicle, from back to front; a pure function of the class."""
    body = BODIES[vehicle.body]
    sill, cowl = body.outline[0][1], body.outline[-1][1]
    lift, open_top = cowl / 0.50, vehicle.body == "Convertible"
    nose = [(x, sill if y == 0.13 else y * lift) for x, y in NOSES[vehicle.nose]]
    outline = rounded([*body.outline, *nose], 0.07)
    rear, top = min(x for x, _ in body.outline), max(y for _, y in body.outline)
    roof = [p for p in body.outline if p[1] > top - 0.12 * (not open_top) - 0.04]
    shapes = [Shape("shadow", circle(0.0, 0.0, 1.0) * (1.12, 0.07))]
    if vehicle.spare_wheel:
        shapes.append(
            Shape(
                "tyre",
                rounded(
                    [(rear - 0.11, 0.36), (rear - 0.11, 0.72), (rear + 0.1, 0.72), (rear + 0.1, 0.36)], 0.05
                ),
            )
        )
    if open_top:
        shapes += [
            Shape("trim", rounded([(x, 0.48), (x - 0.03, 0.63), (x + 0.06, 0.63), (x + 0.09, 0.48)], 0.03))
            for x in (-0.34, -0.06)
        ]
    shapes.append(Shape("paint", outline))
    if vehicle.dark_roof:
        shapes.append(Shape("trim", band(outline, cowl + 0.13, 2.0)))
    middle = (sill + cowl) / 2
    shapes += [Shape("shade", band(outline, 0.0, middle - 0.06 * k)) for k in range(3)]
    shapes.append(Shape("shine", band(outline, cowl - 0.07, cowl - 0.03)))
    if vehicle.dark_sill:
        shapes.append(Shape("trim", band(outline, 0.0, sill + 0.09)))
    # Wheels and their arches
    arch_corners = 6 if vehicle.nose == "boxy" else 24
    for x in body.wheels:
        arch = circle(x, body.wheel_radius, 1.28 * body.wheel_radius, arch_corners)
        shapes.append(Shape("gap", band(arch, sill, 2.0)))
        shapes += wheel_shapes(x, body.wheel_radius, vehicle.wheel)
    # Windows
    glass = rounded(body.glass, 0.03)
    shapes += [Shape("glass", glass), Shape("glare", band(glass, cowl + 0.12, 2.0))]
    for x in body.pillars:
        shapes.append(
            Shape("trim" if vehicle.dark_roof else "paint", box(x - 0.02, cowl, x + 0.02, top - 0.06))
        )
    # Doors
    doors = [x for x in (*body.pillars, 0.32) if x > body.wheels[0] + 0.1]
    shapes += [Shape("seam", box(x - 0.006, sill + 0.03, x + 0.006, cowl)) for x in doors]
    shapes += [Shape("seam", box(x + 0.04, cowl - 0.10, x + 0.13, cowl - 0.075)) for x in doors[:-1] or [0.0]]
    # Lamps
    front_y = 0.36 * lift
    lamp = {
        "sloping": [(0.70, 0.42), (0.74, 0.36), (0.97, 0.29), (0.94, 0.36)],
        "upright": [(0.83, 0.44), (0.83, 0.32), (0.95, 0.32), (0.95, 0.44)],
        "wedge": [(0.80, 0.33), (0.82, 0.28), (1.02, 0.23), (1.0, 0.27)],
        "boxy": [(0.84, 0.46), (0.84, 0.36), (0.94, 0.36), (0.94, 0.46)],
    }[vehicle.nose]
    shapes.append(Shape("lamp", rounded([(x, y * lift) for x, y in lamp], 0.04)))
    if vehicle.nose == "upright":
        shapes.append(Shape("rim", box(0.955, 0.24, 1.0, 0.46 * lift)))
    if vehicle.nose == "boxy":
        shapes.append(Shape("trim", box(0.86, sill, 1.03, front_y - 0.07)))
    low, width = (cowl - 0.22, 0.06) if vehicle.tail == "tall" else (cowl - 0.13, 0.17)
    shapes.append(
        Shape(
            "tail",
            rounded(
                [
                    (rear + 0.01, low),
                    (rear + 0.02, cowl - 0.04),
                    (rear + 0.02 + width, cowl - 0.04),
                    (rear + 0.01 + width, low),
                ],
                0.02,
            ),
        )
    )
    # Extras
    if vehicle.rack:
        ends = roof[0][0] + 0.1, roof[-1][0] - 0.04
        shapes.append(Shape("trim", box(ends[0], top + 0.04, ends[1], top + 0.075)))
        shapes += [Shape("trim", box(x - 0.02, top - 0.03, x + 0.02, top + 0.05)) for x in ends]
    if vehicle.spoiler:
        shapes.append(Shape("trim", box(rear + 0.08, 0.46, rear + 0.13, 0.60, -0.03)))
        shapes.append(Shape("trim", box(rear - 0.04, 0.585, rear + 0.24, 0.63)))
    return tuple(shapes)
