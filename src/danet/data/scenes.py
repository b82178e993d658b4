"""Street scenes drawn from a seed: the embedded data set, without a download and with exact labels.

What makes them worth having: road and pavement are paved from one distribution, and in each scene a coin decides which
paving is which. Neither colour nor place tells them apart, only what stands on them, maybe at the other end of the
picture: cars and bicyclists on road; pedestrians, trees, lamps and signs on pavement.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danet.data.canvas import (
    FRACTAL,
    NOISE,
    Array,
    Box,
    Canvas,
    Figure,
    Light,
    Size,
    clip,
    colours,
    lines,
    look_up,
    pixels,
    within,
)

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
STANDS_ON = {ROAD: (CAR, BICYCLIST), PAVEMENT: (PEDESTRIAN, TREE, SIGN, POLE)}
THINGS = (POLE, TREE, SIGN, CAR, PEDESTRIAN, BICYCLIST)
FOCAL = 0.95  # focal length, in widths of the picture
EXAMPLE = 1003, 4, 480, 640
"""A drawn street (seed, index, height, width) that is labelled right far away, as is its twin, which differs in what
stands on road and pavement alone."""


class Scene(NamedTuple):
    """A picture (uint8 H×W×3) and its labels (uint8 H×W, CamVid's order: 0 sky to 10 bicyclist; nothing is void)."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def far(self) -> NDArray[np.bool_]:
        """H×W: where only what stands far away tells road from pavement (`far_from_things`)."""
        return far_from_things(self.labels)


def far_from_things(labels: NDArray[np.uint8], distance: float = 40) -> NDArray[np.bool_]:
    """H×W: road and pavement farther than `distance` pixels (in 192 rows; else in proportion) from any thing."""
    (height, width), radius = labels.shape, labels.shape[0] * distance / 192
    thing, row = np.isin(labels, THINGS), np.arange(height)[:, None]
    above = row - np.maximum.accumulate(np.where(thing, row, -2 * height))
    below = np.minimum.accumulate(np.where(thing, row, 3 * height)[::-1])[::-1] - row
    rows_away, near = np.minimum(above, below), np.zeros_like(thing)
    for columns_away in range(min(int(radius) + 1, width)):
        reached = rows_away <= sqrt(radius * radius - columns_away * columns_away)
        near[:, columns_away:] |= reached[:, : width - columns_away]
        near[:, : width - columns_away] |= reached[:, columns_away:]
    return np.isin(labels, (ROAD, PAVEMENT)) & ~near


def scene(
    seed: int, index: int, height: int = 192, width: int = 256, *, twin: bool = False, things: bool = True
) -> Scene:
    """Draw one scene from (seed, index) alone, at any size of at least 32×32.

    A `twin` is the same street in the same light, with the roles of road and pavement exchanged and the things on them
    with the roles. Without `things` nothing tells the two apart: the control.
    """
    dice = Dice(seed, index)
    street = Street(dice, twin)
    vanish = (street.vanish * width, street.horizon * height)
    canvas = Canvas(height, width, FOCAL * width, vanish, street.eye, street.light, street.sun)
    paint_sky(canvas, street)
    paint_ground(canvas, street)
    for house in street.houses:
        paint_house(canvas, house)
    for thing in street.things if things else ():
        sunlit = float(street.sunlit(thing.x, thing.z))
        PAINT[thing.label](Figure(canvas, thing.x, thing.z, sunlit, thing.label), dice)
    return Scene(canvas.developed(), canvas.labels)


class Dice:
    """The random numbers of one scene. Ranges are taken in Python, as compiled code may fuse a product and a sum."""

    def __init__(self, seed: int, index: int) -> None:
        self.random = np.random.Generator(np.random.Philox(key=[seed, index])).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def pick(self, options: Sequence):
        return options[int(self.random() * len(options))]


HOURS = (
    Light(*colours("5c9ad0 dfe9e2 fff4dc 7d86a4 d3dfe4"), contrast=1.0, slope=1.30, lamps=0.00),  # noon
    Light(*colours("5f86bd ffd9a0 ffd696 79729a f0cfa6"), contrast=1.0, slope=0.55, lamps=0.05),  # golden hour
    Light(*colours("98a8b6 d6dcdc dfe3e6 a2aab6 c9d1d5"), contrast=0.1, slope=1.00, lamps=0.10),  # overcast
    Light(*colours("2c3b78 f2a07c c9a3a0 5d6796 a08a9c"), contrast=0.3, slope=0.40, lamps=0.50),  # dusk
    Light(*colours("86bccd fbe6c4 ffe6c2 808ca4 e6e0cf"), contrast=0.9, slope=0.75, lamps=0.02),  # morning
    Light(*colours("3f78bd b9d7ea fff0d2 707ea6 bcd2e0"), contrast=1.0, slope=0.95, lamps=0.00),  # clear afternoon
)
STONES = colours("b08868 c8b496 9298a0 d2c6b8 7e887e b88e72 74747e c09e80 9a7068 d8d0c0 8c8478 6a6e78")
WALLS = colours("d9b08c e8d5b5 c96f5a b9545a f0e6d8 a9b7b0 d8a05e 9aa7c0 cfc4b4 b4876e e3c77e 8f6a5e")
ROOFS = colours("8a4b3c 6b4a44 4f5560 5d6a72 a05a44 3f444e")
FENCES = colours("f2efe6 7a5236 3f6b5a 35506e b98552 d8d2c4")
PAINTS = colours("b8322c 24528a e8e6e0 2c2f36 d99a2b 3f7d62 8f9aa6 6d2f4a 7fb0c8")
CLOTHES = colours("c23b3b 2f5d9b e0b13c 2f8f6b e9e2d3 8a3f78 3b3f4a d9734a 4fa3b8 272a33")
TROUSERS = colours("2b3350 3d3a38 5a4a3c 4d5a6b 22242a")
SKINS = colours("f0c8a4 d9a077 a9714b 6f4630")
LEAVES = colours("4f8a3c 6c9a3a 3f7a4c 86a044 c98f34 b5602c")
BARK, STEEL, RUBBER, CHALK, KERB, GLASS = colours("5a4636 4a4f58 1c1d21 f2f0ea c4c0b8 35506a")
GLOW, HEADLIGHT, TAILLIGHT, RED, BLUE = colours("ffd27a fff3cf e0342a c62828 2058b0")


# The street


class Material:
    """Paving, masonry or boards: a random vector. Road and pavement are drawn with the same palette and sizes."""

    def __init__(self, dice: Dice, palette: Sequence[Array], smallest: float, largest: float) -> None:
        self.colour = dice.pick(palette) * dice.between(0.86, 1.1)
        self.tile, self.ratio = dice.between(smallest, largest), dice.pick((0.5, 1.0, 1.0, 2.0, 3.0))
        self.joint, self.shift = dice.between(0.03, 0.09), dice.pick((0.0, 0.5, 0.5, 0.33))  # of a row against the next
        self.contrast, self.grain = dice.between(0.04, 0.3), dice.between(0.1, 0.4)

    def at(self, x: Array, y: Array, wide: Size, tall: Size) -> Array:
        """The colour at (x, y); what is finer than a pixel, so wide and tall, fades."""
        v, du, dv = y / self.tile, wide / (self.tile * self.ratio), tall / self.tile
        u = x / (self.tile * self.ratio) + np.floor(v) * self.shift
        tiles = self.contrast * (look_up(NOISE, u, v) - 0.5) + self.grain * (look_up(FRACTAL, x * 100, y * 100) - 0.5)
        joints = np.maximum(lines(u, self.joint / self.ratio, du), lines(v, self.joint, dv))
        stains = 0.35 * (look_up(FRACTAL, x * 14, y * 14) - 0.5)
        return self.colour * (1 + stains + tiles * clip(1.4 - np.maximum(du, dv)) - 0.3 * joints)


class House:
    """A block of houses, or a fence before a yard, along z from near to end, its face at x = side * wall."""

    def __init__(
        self, dice: Dice, side: int, wall: float, near: float, end: float, depth: float, fence: bool = False
    ) -> None:
        self.side, self.wall, self.near, self.end, self.depth, self.fence = side, wall, near, end, depth, fence
        self.stone, self.roof = Material(dice, FENCES if fence else WALLS, 0.25, 0.6), dice.pick(ROOFS)
        self.trim = dice.pick((CHALK, CHALK, 0.6 * self.stone.colour, 1.15 * self.stone.colour))
        self.storey, self.bay, self.margin = dice.between(2.8, 3.3), dice.between(1.9, 2.9), dice.between(0.2, 0.3)
        self.eaves = dice.between(1.95, 2.4) if fence else self.storey * dice.pick((2, 2, 3, 3, 4)) + 0.5
        self.rise = 0.0 if fence else dice.between(2.0, 4.0)  # of the ridge over the eaves

    def facade(self, light: Light, x: Array, y: Array, wide: Size, tall: Size) -> Array:
        """Masonry with a cornice; doors and windows in bays and storeys."""
        u, v, du, dv = x / self.bay + self.depth, y / self.storey, wide / self.bay, tall / self.storey
        at_u, at_v, margin, below = u - np.floor(u), v - np.floor(v), self.margin, y < self.eaves
        door, chance = np.float32(1) * ((v < 1) & (np.floor(u) % 3 == 1)), look_up(NOISE, u + 31 * self.near, v)
        sill = margin + 0.06 - 2 * door
        pane = within(at_u, margin, 1 - margin, du) * within(at_v, sill, 0.82, dv) * below
        frame = within(at_u, margin - 0.06, 1.06 - margin, du) * within(at_v, sill - 0.05, 0.87, dv) * below
        glass = np.where(chance < light.lamps, 1.5 * GLOW, light.zenith * (0.3 + 0.4 * chance))
        cornice = within(y, self.eaves - 0.35, self.eaves, tall) - within(y, self.eaves - 0.6, self.eaves - 0.35, tall)
        colour = self.stone.at(x, y, wide, tall) * (np.minimum(0.8 + 0.1 * y, 1) + 0.15 * cornice)
        colour += frame * (self.trim - colour)
        return colour + pane * (glass + door * (0.8 * self.roof - glass) - colour)

    def boards(self, light: Light, x: Array, y: Array, wide: Size, tall: Size) -> Array:
        """Boards with gaps, posts and two rails."""
        rails = within(y, 0.35, 0.6, tall) + within(y, self.eaves - 0.6, self.eaves - 0.35, tall)
        solid = np.maximum(rails, lines(x / 2.4, 0.09, wide / 2.4))
        return self.stone.colour * (1.05 + 0.1 * solid - 0.6 * lines(x / 0.4, 0.25, wide / 0.4) * (1 - solid))


class Thing(NamedTuple):
    """What stands with its foot at (x, 0, z)."""

    label: int
    x: float
    z: float

    def apart(self, other: "Thing") -> bool:
        """Neither stands in the other, nor quite hides it."""
        seen = abs(self.x / self.z - other.x / other.z) * min(self.z, other.z)
        return seen > 0.8 and (abs(self.x - other.x) > 2 or abs(self.z - other.z) > 4.5)


class Street:
    """A street and what stands on it. A twin differs in its roles alone, and so in the kinds of its things."""

    def __init__(self, dice: Dice, twin: bool = False) -> None:
        self.light, self.sun = dice.pick(HOURS), dice.pick((-1, 1))  # the sun stands on the left or on the right
        self.eye = dice.between(1.45, 1.8)  # the camera's height
        self.horizon, self.vanish = dice.between(0.36, 0.47), dice.between(0.35, 0.65)  # shares of height and width
        widths = [dice.between(2.8, 6.2) for _ in range(4)]
        left = -sum(widths) * dice.between(0.35, 0.65)
        self.bounds = [left + x for x in accumulate(widths, initial=0.0)]  # four strips, paved by turns
        corner, self.end = dice.between(20, 34), dice.between(85, 120)
        self.crossing, self.crossing_paving = (corner, corner + dice.between(5, 8)), dice.pick((0, 1))
        first = second = Material(dice, STONES, 0.4, 1.5)
        while np.abs(first.colour - second.colour).max() < 0.14:
            second = Material(dice, STONES, 0.4, 1.5)
        self.pavings, heads = (first, second), dice.chance(0.5)
        self.roles = (ROAD, PAVEMENT) if heads != twin else (PAVEMENT, ROAD)
        left_side, right_side = self.row(dice, -1, -self.bounds[0]), self.row(dice, 1, self.bounds[-1])
        closing = House(dice, 1, -60.0, self.end, self.end + 1, 120.0)
        self.houses = [closing, *sorted(left_side + right_side, key=lambda house: -house.near)]
        self.skyline = np.zeros(int(self.end) + 1, np.float32)  # on the sun's side, a height for each metre
        for house in right_side if self.sun > 0 else left_side:
            self.skyline[int(house.near) : int(house.end)] = house.eaves + 0.5 * house.rise
        self.things = sorted(self.place(dice), key=lambda thing: -thing.z)

    def row(self, dice: Dice, side: int, wall: float) -> list[House]:
        """Houses and fences along one side, with a gap for the street across."""
        houses, near = [], 1.5
        while near < self.end - 4:
            corner, stop = near == self.crossing[1], self.end if near > self.crossing[0] else self.crossing[0]
            fence = not corner and dice.chance(0.4)
            end = near + dice.between(8, 16)
            end = stop if end > stop - 4 else end
            houses.append(House(dice, side, wall, near, end, 40.0 if corner else dice.between(9, 13), fence))
            near = self.crossing[1] if end == self.crossing[0] else end
        return houses

    def place(self, dice: Dice) -> list[Thing]:
        """Things by turns on either paving, in view and apart; what they are follows from the role."""
        first, nearest = dice.pick(range(4)), dice.between(8, 12)
        things: list[Thing] = []
        for turn in range(20):
            role = self.roles[turn % 2]
            kind = STANDS_ON[role][(first + turn // 2) % len(STANDS_ON[role])]
            for _ in range(20):
                z, strip = 1 / dice.between(1 / 32, 1 / nearest), dice.pick((0, 2)) + turn % 2
                low = max(self.bounds[strip] + 1.1, (0.03 - self.vanish) * z / FOCAL)
                high = min(self.bounds[strip + 1] - 1.1, (0.97 - self.vanish) * z / FOCAL)
                thing = Thing(kind, dice.between(low, high), z)
                crossing = self.crossing[0] - 5 < z < self.crossing[1] + 1
                if low < high and not crossing and all(map(thing.apart, things)):
                    things.append(thing)
                    break
        return things

    def role(self, x: float, z: float) -> int:
        """Whether the ground at (x, z) is road or pavement."""
        across = self.crossing[0] < z < self.crossing[1]
        return self.roles[self.crossing_paving if across else sum(x > bound for bound in self.bounds[1:-1]) % 2]

    def sunlit(self, x: Size, z: Size) -> Array:
        """How much sun comes over the roofs to the ground at (x, z), 0..1."""
        away = self.bounds[-1] - x if self.sun > 0 else x - self.bounds[0]
        metre = np.clip(np.floor(z + 0.4 * away), 0, len(self.skyline) - 1).astype(np.intp)
        return clip((away * self.light.slope - self.skyline[metre]) * 1.5 + 0.5)


# Painting


def paint_sky(canvas: Canvas, street: Street) -> None:
    """A gradient, the sun's glow, and clouds under a ceiling that recedes to the horizon."""
    light, rows = street.light, pixels(0, canvas.row, canvas.height)
    up, aside = -canvas.dy[rows], canvas.dx - 0.35 * street.sun
    colour = light.horizon + clip(2.2 * up) * (light.zenith - light.horizon)
    glow = clip(1 - 4 * (aside * aside + (up - 0.1) * (up - 0.1)))
    colour = colour + 0.6 * light.contrast * glow * glow * (light.sun - colour)
    z = 220 / (up + 0.15)
    x = canvas.dx * z + 9 * street.end  # each street has its own clouds
    cloud = look_up(FRACTAL, x, z)
    bright = clip(0.55 + 3 * (cloud - look_up(FRACTAL, x + 28 * street.sun, z - 20)))
    white = 0.82 * light.horizon + bright * (light.sun - 0.82 * light.horizon)
    canvas.image[:, rows] = colour + 0.85 * clip(7 * cloud - 3.5) * clip(9 * up) * (white - colour)


def paint_ground(canvas: Canvas, street: Street) -> None:
    """The strips along the street, the street across, the shadows of the houses, and kerbs."""
    rows = pixels(canvas.row + canvas.focal * canvas.eye / street.end, canvas.height, canvas.height)
    z = canvas.eye / np.maximum(canvas.dy[rows], canvas.eye / street.end)
    x, image = canvas.dx * z, canvas.image[:, rows]
    across = (z > street.crossing[0]) & (z < street.crossing[1])
    strip = np.sum([x > bound for bound in street.bounds[1:-1]], axis=0) % 2
    strip = np.where(across, street.crossing_paving, strip)
    spare, depth = 2 * z / canvas.focal, np.broadcast_to(z, x.shape)  # two pixels, for the walls to cover
    paved = across | ((x > street.bounds[0] - spare) & (x < street.bounds[-1] + spare))
    for paving, (stone, role) in enumerate(zip(street.pavings, street.roles, strict=True)):
        here = paved & (strip == paving)
        at_x, at_z = x[here][None], depth[here][None]
        colour = stone.at(at_x, at_z, at_z / canvas.focal, at_z * at_z / (canvas.focal * canvas.eye))
        image[:, here] = canvas.lit(colour, street.sunlit(at_x, at_z), at_z)[:, 0]
        canvas.labels[rows][here] = role
    border = np.minimum.reduce([np.abs(x - bound) for bound in street.bounds[1:-1]])
    kerb = within(border, -1, 0.12, z / canvas.focal) * ~across
    image += 0.8 * kerb * (canvas.lit(KERB, street.sunlit(x, z), z) - image)


def paint_house(canvas: Canvas, house: House) -> None:
    """The face that looks at the camera, the roof and the face on the street, as far as they show."""
    side, wall, near, end, focal = house.side, house.wall, house.near, house.end, canvas.focal
    ridge, lee = min(house.depth / 2, 5.0), canvas.sun == side
    pitch = house.rise / ridge

    def box(width: float, *depths: float) -> Box:
        outs, heights = (wall, wall + width), (0, house.eaves + house.rise)
        return canvas.box([canvas.project(side * out, y, z) for out in outs for y in heights for z in depths])

    def face(box: Box, along: Array, z: Size, wide: Size, tall: Size, cover: Array, top: Size, sunlit: float) -> None:
        if not cover.size:
            return
        y, look = canvas.eye - canvas.dy[box[0]] * z, house.boards if house.fence else house.facade
        colour = canvas.lit(look(canvas.light, along, y, wide, tall), sunlit, z)
        canvas.blend(box, cover * within(y, 0, top, tall), colour, FENCE if house.fence else BUILDING)

    front = box(house.depth, near)
    out, pixel = side * canvas.dx[front[1]] * near - wall, np.float32(near / focal)
    top = house.eaves + np.minimum(pitch * np.minimum(out, house.depth - out), house.rise)
    face(front, out, near, pixel, pixel, within(out, 0, house.depth, pixel), top, 0.55)
    if wall < 0:  # the house that closes the street shows no other face
        return

    flank = box(ridge, near, end)
    toward, down = side * canvas.dx[flank[1]], canvas.dy[flank[0]]
    over = pitch * wall + canvas.eye - house.eaves  # how far the camera is above the plane of the roof
    if not house.fence and over > 0:
        z = over / np.maximum(pitch * toward + down, 1e-3)
        out, step = toward * z - wall, z * z * ((1 + pitch) / (over * focal))
        pixel = z / focal + toward * step
        tiles = house.roof * (1 - 0.25 * lines(2 * out, 0.2, 2 * pixel))
        cover = within(out, 0, ridge, pixel) * within(z, near, end, step)
        canvas.blend(flank, cover, canvas.lit(tiles, 0.7 if lee else 0.9, z), BUILDING)

    z = wall / np.maximum(toward, 1e-3)
    wide = z * z / (wall * focal)
    tall = z / focal + np.abs(down) * wide
    cover = within(z, near - wide, end, wide)  # a pixel more, for the next house to cover
    face(flank, z, z, wide, tall, cover, house.eaves, 0.1 if lee else 0.95)


# Things


def shadow(figure: Figure, radius: float, depth: float, z: float = 0.0) -> None:
    """Darken the ground about the foot, and more on the side away from the sun."""
    canvas, (x, y) = figure.canvas, figure.project(-0.35 * figure.canvas.sun * radius, 0.0, z)
    flat = figure.scale * canvas.eye / figure.z
    box, dx, dy = canvas.oval(x, y, radius * figure.scale, depth * flat + 1)
    dark = (0.3 + 0.25 * figure.sunlit) * clip(1.3 - 1.3 * (dx * dx + dy * dy))
    canvas.image[:, *box] *= 1 - dark * np.isin(canvas.labels[box], (ROAD, PAVEMENT))


def car(figure: Figure, dice: Dice) -> None:
    paint, (tall, hood) = dice.pick(PAINTS), dice.pick(((1.5, 0.8), (1.55, 0.5), (2.1, 0.1)))
    lights = dice.pick((HEADLIGHT, TAILLIGHT))
    shadow(figure, 1.5, 3.2, 1.6)
    figure.frustum((0.86, 0.3, 0.0, 4.2), (0.86, 0.95, 0.0, 4.1), paint)
    for side in (-1, 1):
        for z in (0.8, 3.3):
            figure.polygon([(0.87 * side, 0.34 + 0.34 * y, z + 0.36 * x) for x, y in OCTAGON[::side]], RUBBER)
        figure.limb((0.66 * side, 0.0), (0.66 * side, 0.4), 0.3, 0.3, RUBBER)
    figure.frustum((0.82, 0.95, hood, 3.9), (0.66, tall, hood + 0.5, 3.5), paint, GLASS)
    figure.limb((0.0, 0.28), (0.0, 0.95), 1.72, 1.72, paint)
    figure.limb((0.0, 0.28), (0.0, 0.46), 1.72, 1.72, 0.45 * paint)
    figure.limb((0.0, 0.5), (0.0, 0.64), 0.56, 0.56, CHALK)
    for x in (-0.64, 0.64):
        figure.ellipse(x, 0.74, 0.17, 0.11, lights)


def bicyclist(figure: Figure, dice: Dice) -> None:
    shirt, legs, skin, paint, s = *map(dice.pick, (CLOTHES, TROUSERS, SKINS, PAINTS)), dice.pick((-1, 1))
    shadow(figure, 0.9, 0.7)
    for x in (-0.5, 0.5):
        figure.ellipse(x, 0.36, 0.34, 0.36, RUBBER, ring=0.1)
    figure.limb((-0.5 * s, 0.36), (-0.12 * s, 0.85), 0.08, 0.08, paint)
    figure.limb((-0.12 * s, 0.8), (0.4 * s, 0.85), 0.08, 0.08, paint)
    figure.limb((0.5 * s, 0.36), (0.38 * s, 1.02), 0.08, 0.08, paint)
    figure.limb((-0.12 * s, 0.95), (0.22 * s, 0.66), 0.26, 0.2, legs)
    figure.limb((0.22 * s, 0.72), (0.05 * s, 0.22), 0.19, 0.13, legs)
    figure.limb((-0.14 * s, 0.9), (0.14 * s, 1.5), 0.36, 0.44, shirt)
    figure.limb((0.14 * s, 1.42), (0.42 * s, 1.02), 0.15, 0.1, 0.85 * shirt)
    figure.ellipse(0.22 * s, 1.68, 0.13, 0.16, skin)
    figure.ellipse(0.2 * s, 1.77, 0.16, 0.1, paint)


def pedestrian(figure: Figure, dice: Dice) -> None:
    shirt, legs, skin, hair, stride = *map(dice.pick, (CLOTHES, TROUSERS, SKINS, TROUSERS)), dice.between(0.06, 0.22)
    shadow(figure, 0.5, 0.5)
    figure.limb((0.06, 0.9), (0.02 + stride, 0.0), 0.26, 0.16, 0.8 * legs)
    figure.limb((-0.06, 0.9), (-stride, 0.0), 0.26, 0.16, legs)
    figure.limb((0.22, 1.42), (0.28 + 0.5 * stride, 0.85), 0.15, 0.11, 0.8 * shirt)
    figure.limb((0.0, 0.78), (0.0, 1.5), 0.42, 0.52, shirt)
    figure.limb((-0.22, 1.42), (-0.28 - 0.5 * stride, 0.85), 0.15, 0.11, 0.92 * shirt)
    figure.ellipse(0.0, 1.67, 0.14, 0.18, hair)
    figure.ellipse(0.0, 1.63, 0.12, 0.14, skin)


def tree(figure: Figure, dice: Dice) -> None:
    leaf, tall = dice.pick(LEAVES), dice.between(0.8, 1.15)
    shadow(figure, 1.5, 1.4)
    figure.limb((0.0, 0.0), (0.0, 3.2 * tall), 0.42, 0.22, BARK)
    for k in range(10):
        x, y = dice.between(-1, 1) * (1.15 - 0.1 * abs(k - 3)), (2.6 + 0.24 * k) * tall
        figure.tuft(x, y, dice.between(0.75, 1.05), leaf * (0.6 + 0.06 * k))


def sign(figure: Figure, dice: Dice) -> None:
    shadow(figure, 0.4, 0.4)
    figure.limb((0.0, 0.0), (0.0, 2.5), 0.15, 0.15, STEEL, POLE)
    if dice.chance(0.3):
        figure.polygon([(-0.7, 2.0), (0.0, 3.2), (0.7, 2.0)], RED)
        figure.polygon([(-0.4, 2.17), (0.0, 2.85), (0.4, 2.17)], CHALK)
    elif dice.chance(0.5):
        figure.ellipse(0.0, 2.6, 0.6, 0.6, RED)
        figure.ellipse(0.0, 2.6, 0.4, 0.4, CHALK)
    else:
        figure.ellipse(0.0, 2.6, 0.6, 0.6, BLUE)
        figure.limb((0.0, 2.25), (0.0, 2.9), 0.17, 0.17, CHALK)


def lamp(figure: Figure, dice: Dice) -> None:
    s, lights = dice.pick((-1, 1)), GLOW * (1 + figure.canvas.light.lamps)
    shadow(figure, 0.5, 0.5)
    figure.limb((0.0, 0.0), (0.0, 0.7), 0.42, 0.34, STEEL)
    figure.limb((0.0, 0.0), (0.0, 5.2), 0.28, 0.2, STEEL)
    figure.limb((-0.1 * s, 5.15), (1.2 * s, 5.45), 0.18, 0.16, STEEL)
    figure.limb((0.75 * s, 5.28), (1.45 * s, 5.42), 0.24, 0.24, STEEL)
    figure.ellipse(1.1 * s, 5.25, 0.3, 0.1, lights)


OCTAGON = ((1.0, 0.0), (0.7, -0.7), (0.0, -1.0), (-0.7, -0.7), (-1.0, 0.0), (-0.7, 0.7), (0.0, 1.0), (0.7, 0.7))
PAINT = {CAR: car, BICYCLIST: bicyclist, PEDESTRIAN: pedestrian, TREE: tree, SIGN: sign, POLE: lamp}
