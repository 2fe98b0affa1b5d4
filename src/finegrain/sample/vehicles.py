"""The vehicles of the embedded sample: their classes, and the polygons that draw them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""``[N, 2]``: x forward, y up, in half lengths of a sedan; the ground is at y = 0, the middle at x = 0."""


class Body(NamedTuple):
    """The part of a vehicle that its body type determines."""

    outline: Sequence[tuple[float, float]]
    """From the rear sill over the roof to the foot of the windshield."""
    glass: Sequence[tuple[float, float]]
    pillars: Sequence[float]
    wheels: tuple[float, float]
    wheel_radius: float

    @property
    def sill(self) -> float:
        """Height of the lower edge."""
        return self.outline[0][1]

    @property
    def cowl(self) -> float:
        """Height of the foot of the windshield."""
        return self.outline[-1][1]

    @property
    def rear(self) -> float:
        return min(x for x, _ in self.outline)

    @property
    def top(self) -> float:
        return max(y for _, y in self.outline)

    @property
    def lift(self) -> float:
        """Factor of the heights of nose and lamps, which are given for a cowl at y = 0.50."""
        return self.cowl / 0.50


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
"""From the hood to the front sill, for a body whose cowl is at y = 0.50."""

HEADLAMPS: dict[Nose, Sequence[tuple[float, float]]] = {
    "sloping": [(0.70, 0.42), (0.74, 0.36), (0.97, 0.29), (0.94, 0.36)],
    "upright": [(0.83, 0.44), (0.83, 0.32), (0.95, 0.32), (0.95, 0.44)],
    "wedge": [(0.80, 0.33), (0.82, 0.28), (1.02, 0.23), (1.0, 0.27)],
    "boxy": [(0.84, 0.46), (0.84, 0.36), (0.94, 0.36), (0.94, 0.46)],
}
"""For a body whose cowl is at y = 0.50."""


@dataclass(frozen=True)
class Vehicle:
    """Everything that distinguishes one class from another."""

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
    points = np.array(corners, dtype=np.float64)
    arms = []
    for neighbor in (np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)):
        arm = neighbor - points
        arms.append(arm * np.minimum(radius / np.hypot(*arm.T), 0.45)[:, None])
    t = np.linspace(0, 1, 5)[:, None]
    return (points[:, None] + arms[0][:, None] * (1 - t) ** 2 + arms[1][:, None] * t**2).reshape(-1, 2)


def circle(x: float, y: float, radius: float, corners: int = 24) -> Points:
    angles = [2 * math.pi * (i + 0.5) / corners for i in range(corners)]
    return np.array([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles])


def band(points: Points, low: float, high: float) -> Points:
    """The part of a polygon between two heights; points beyond them are moved onto them."""
    return np.stack([points[:, 0], points[:, 1].clip(low, high)], axis=1)


def box(left: float, low: float, right: float, high: float, lean: float = 0.0) -> Points:
    """A rectangle whose top is shifted by ``lean``."""
    return np.array([(left, low), (left + lean, high), (right + lean, high), (right, low)])


def wheel_shapes(x: float, radius: float, design: str) -> list[Shape]:
    rim = 0.68 * radius
    shapes = [Shape("tire", circle(x, radius, radius)), Shape("rim", circle(x, radius, rim))]
    if design == "spokes":
        for i in range(5):
            angle, half, inner = 2 * math.pi * i / 5 + 0.3, 0.42, 0.28 * rim
            fan = [(inner, angle)] + [(0.9 * rim, angle + half * k) for k in (-1, 0, 1)]
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
    """The whole vehicle from back to front: a pure function of the class."""
    body = BODIES[vehicle.body]
    return (
        *_behind_body(vehicle, body),
        *_body_shapes(vehicle, body),
        *_wheels_and_arches(vehicle, body),
        *_windows(vehicle, body),
        *_doors(body),
        *_lamps_and_grille(vehicle, body),
        *_rack_and_spoiler(vehicle, body),
    )


def _behind_body(vehicle: Vehicle, body: Body) -> Iterator[Shape]:
    """Shadow, spare wheel and the seats of a convertible."""
    yield Shape("shadow", circle(0.0, 0.0, 1.0) * (1.12, 0.07))
    if vehicle.spare_wheel:
        left, right = body.rear - 0.11, body.rear + 0.1
        yield Shape("tire", rounded([(left, 0.36), (left, 0.72), (right, 0.72), (right, 0.36)], 0.05))
    if vehicle.body == "Convertible":
        for x in (-0.34, -0.06):
            seat = [(x, 0.48), (x - 0.03, 0.63), (x + 0.06, 0.63), (x + 0.09, 0.48)]
            yield Shape("trim", rounded(seat, 0.03))


def _body_shapes(vehicle: Vehicle, body: Body) -> Iterator[Shape]:
    """Painted body with its light and shade, dark roof and dark sill."""
    nose = [(x, body.sill if y == 0.13 else y * body.lift) for x, y in NOSES[vehicle.nose]]
    outline = rounded([*body.outline, *nose], 0.07)
    yield Shape("paint", outline)
    if vehicle.dark_roof:
        yield Shape("trim", band(outline, body.cowl + 0.13, 2.0))
    middle = (body.sill + body.cowl) / 2
    for k in range(3):
        yield Shape("shade", band(outline, 0.0, middle - 0.06 * k))
    yield Shape("shine", band(outline, body.cowl - 0.07, body.cowl - 0.03))
    if vehicle.dark_sill:
        yield Shape("trim", band(outline, 0.0, body.sill + 0.09))


def _wheels_and_arches(vehicle: Vehicle, body: Body) -> Iterator[Shape]:
    corners = 6 if vehicle.nose == "boxy" else 24
    for x in body.wheels:
        arch = circle(x, body.wheel_radius, 1.28 * body.wheel_radius, corners)
        yield Shape("gap", band(arch, body.sill, 2.0))
        yield from wheel_shapes(x, body.wheel_radius, vehicle.wheel)


def _windows(vehicle: Vehicle, body: Body) -> Iterator[Shape]:
    glass = rounded(body.glass, 0.03)
    yield Shape("glass", glass)
    yield Shape("glare", band(glass, body.cowl + 0.12, 2.0))
    for x in body.pillars:
        pillar = box(x - 0.02, body.cowl, x + 0.02, body.top - 0.06)
        yield Shape("trim" if vehicle.dark_roof else "paint", pillar)


def _doors(body: Body) -> Iterator[Shape]:
    """Gaps and handles."""
    doors = [x for x in (*body.pillars, 0.32) if x > body.wheels[0] + 0.1]
    for x in doors:
        yield Shape("seam", box(x - 0.006, body.sill + 0.03, x + 0.006, body.cowl))
    for x in doors[:-1] or [0.0]:
        yield Shape("seam", box(x + 0.04, body.cowl - 0.10, x + 0.13, body.cowl - 0.075))


def _lamps_and_grille(vehicle: Vehicle, body: Body) -> Iterator[Shape]:
    """Headlamp, grille or bumper, and tail lamp."""
    headlamp = [(x, y * body.lift) for x, y in HEADLAMPS[vehicle.nose]]
    yield Shape("lamp", rounded(headlamp, 0.04))
    if vehicle.nose == "upright":
        yield Shape("rim", box(0.955, 0.24, 1.0, 0.46 * body.lift))
    if vehicle.nose == "boxy":
        yield Shape("trim", box(0.86, body.sill, 1.03, 0.36 * body.lift - 0.07))
    low, width = (body.cowl - 0.22, 0.06) if vehicle.tail == "tall" else (body.cowl - 0.13, 0.17)
    left, high = body.rear + 0.01, body.cowl - 0.04
    tail_lamp = [(left, low), (body.rear + 0.02, high), (body.rear + 0.02 + width, high), (left + width, low)]
    yield Shape("tail", rounded(tail_lamp, 0.02))


def _rack_and_spoiler(vehicle: Vehicle, body: Body) -> Iterator[Shape]:
    top, rear = body.top, body.rear
    if vehicle.rack:
        roof = [x for x, y in body.outline if y > top - (0.04 if vehicle.body == "Convertible" else 0.16)]
        ends = roof[0] + 0.1, roof[-1] - 0.04
        yield Shape("trim", box(ends[0], top + 0.04, ends[1], top + 0.075))
        for x in ends:
            yield Shape("trim", box(x - 0.02, top - 0.03, x + 0.02, top + 0.05))
    if vehicle.spoiler:
        yield Shape("trim", box(rear + 0.08, 0.46, rear + 0.13, 0.60, -0.03))
        yield Shape("trim", box(rear - 0.04, 0.585, rear + 0.24, 0.63))
