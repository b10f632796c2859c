"""Stage 1, beside `label.py`: render things on a table before a painted wall, with their exact inverse depth.

    python training/embedded/render.py --textures DIR [DIR ...] --out CACHE --count 700

Boxes, cones, balls, vases, rings, rods, lattices and cards stand on a table, one behind the other, and wear crops of
the photographs below DIR. So what is painted on a surface says nothing about its depth, but shape, shadow and what
hides what do. Each scene is stored as CACHE/scenes/NUMBER.npz, like the pictures of `label.py`, and depends on the
seed, its number and the photographs alone. Needs embreex (in `[dev]`).

The idea of random things with random photographs on them is that of Mayer et al., "A Large Dataset to Train
Convolutional Networks for Disparity, Optical Flow, and Scene Flow Estimation", CVPR 2016 (FlyingThings3D).
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import trimesh
from cache import write
from numpy.random import Generator
from trimesh import creation, transformations

from fathom.export.parity import find_pictures

SHAPES = ((336, 448), (336, 448), (448, 336), (336, 336))
"""Sizes [px]."""
FINER = 1.3
"""Rays a pixel in each direction."""


@dataclass
class Body:
    """A mesh in the world, the way back into its own coordinates, and what it wears."""

    mesh: trimesh.Trimesh
    place: np.ndarray
    texture: np.ndarray
    scale: float
    is_round: bool


def texture(files: list[Path], rng: Generator, painted: float) -> np.ndarray:
    """Return a picture (H, W, 3) in [0, 1]: part of a photograph, stripes, checks or one colour."""
    kind = rng.random()
    if kind < painted:
        image = cv2.imread(str(files[rng.integers(len(files))]), cv2.IMREAD_COLOR)
        height, width = image.shape[:2]
        rows, columns = int(height * rng.uniform(0.4, 1)), int(width * rng.uniform(0.4, 1))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        image = image[top : top + rows, left : left + columns, ::-1]
        return cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    first, second = rng.uniform(0.05, 0.95, (2, 3))
    if kind < painted + 0.6 * (1 - painted):
        second = first * rng.uniform(0.85, 1.0)
    waves = rng.integers(1, 9, 2)
    rows, columns = np.meshgrid(*(np.sin(np.arange(256) * 2 * np.pi * n / 256) for n in waves), indexing="ij")
    sign = (rows > 0) ^ (columns > 0) if rng.random() < 0.5 else rows > rng.uniform(-0.7, 0.7)
    out = np.where(sign[..., None], first, second)
    return np.clip(out + rng.normal(0, 0.015, out.shape), 0, 1).astype(np.float32)


def vase(rng: Generator) -> trimesh.Trimesh:
    """Turn a random smooth profile: bottles, bowls, vases, cups."""
    count = int(rng.integers(4, 7))
    radius = np.interp(np.linspace(0, count - 1, 24), np.arange(count), rng.uniform(0.15, 0.5, count))
    radius = np.convolve(np.pad(radius, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    height = np.linspace(0, rng.uniform(0.6, 1.5), 24)
    profile = np.concatenate([[[0, 0]], np.stack([radius, height], 1), [[0.0, height[-1]]]])
    return creation.revolve(profile, sections=28)


def lattice(rng: Generator) -> trimesh.Trimesh:
    """Cross thin bars."""
    bars, thick = int(rng.integers(2, 6)), rng.uniform(0.02, 0.07)
    offsets = np.linspace(-0.5, 0.5, bars)
    parts = [creation.box((thick, 0.02, 1)).apply_translation((x, 0, 0.5)) for x in offsets]
    parts += [creation.box((1, 0.02, thick)).apply_translation((0, 0, x + 0.5)) for x in offsets]
    turn = transformations.rotation_matrix(rng.choice([0, np.pi / 4]), (0, 1, 0), (0, 0, 0.5))
    return trimesh.util.concatenate(parts).apply_transform(turn)


def mug(rng: Generator) -> trimesh.Trimesh:
    """Give a cylinder a ring as handle."""
    body = creation.cylinder(0.35, 0.9, sections=28).apply_translation((0, 0, 0.45))
    ring = creation.torus(0.25, rng.uniform(0.03, 0.07), major_sections=24, minor_sections=10)
    ring.apply_transform(transformations.rotation_matrix(np.pi / 2, (1, 0, 0))).apply_translation((0.4, 0, 0.45))
    return trimesh.util.concatenate([body, ring])


def rods(rng: Generator) -> trimesh.Trimesh:
    """Put thin rods, a little apart, into one place: brushes in a cup."""
    parts = []
    for _ in range(int(rng.integers(1, 6))):
        rod = creation.cylinder(rng.uniform(0.008, 0.03), rng.uniform(0.8, 1.6), sections=10)
        rod.apply_translation((0, 0, 0.6))
        lean = transformations.rotation_matrix(rng.normal(0, 0.35), (*rng.normal(size=2), 0.01))
        parts.append(rod.apply_transform(lean).apply_translation((*rng.normal(0, 0.05, 2), 0)))
    return trimesh.util.concatenate(parts)


def shape(rng: Generator) -> tuple[trimesh.Trimesh, bool]:
    """Return a body about 1 large that stands on z = 0, and whether its surface is round."""
    kind = rng.choice(["box", "cone", "ball", "vase", "ring", "rods", "lattice", "card", "mug", "roll"], p=SHARES)
    if kind == "box":
        sides = rng.uniform(0.2, 1.0, 3)
        return creation.box(sides).apply_translation((0, 0, sides[2] / 2)), False
    if kind == "cone":
        return creation.cone(rng.uniform(0.2, 0.5), rng.uniform(0.6, 1.4), sections=32), True
    if kind == "ball":
        sides = rng.uniform(0.3, 0.6, 3) if rng.random() < 0.6 else np.full(3, 0.45)
        return creation.icosphere(3).apply_scale(sides).apply_translation((0, 0, sides[2])), True
    if kind == "vase":
        return vase(rng), True
    if kind == "ring":
        ring = creation.torus(0.45, rng.uniform(0.03, 0.14), major_sections=36, minor_sections=12)
        if rng.random() < 0.7:
            ring.apply_transform(transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
        return ring.apply_translation((0, 0, -ring.bounds[0, 2])), True
    if kind == "rods":
        return rods(rng), True
    if kind == "lattice":
        return lattice(rng), False
    if kind == "card":
        card = creation.box((rng.uniform(0.4, 1.2), 0.015, rng.uniform(0.4, 1.2)))
        card.apply_translation((0, 0, -card.bounds[0, 2]))
        return card.apply_transform(transformations.rotation_matrix(rng.uniform(-0.4, 0.1), (1, 0, 0))), False
    if kind == "mug":
        return mug(rng), True
    roll = creation.cylinder(rng.uniform(0.1, 0.25), rng.uniform(0.5, 1.3), sections=28)
    roll.apply_transform(transformations.rotation_matrix(np.pi / 2, (0, 1, 0)))
    return roll.apply_translation((0, 0, -roll.bounds[0, 2])), True


SHARES = (0.22, 0.13, 0.12, 0.16, 0.06, 0.06, 0.06, 0.10, 0.05, 0.04)


def cloth(size: float, depth: float, rng: Generator) -> trimesh.Trimesh:
    """Return a crumpled sheet of `size` x `depth` around z = 0."""
    rows = cv2.resize(rng.normal(size=(6, 6)), (64, 64), interpolation=cv2.INTER_CUBIC)
    rows += 0.4 * cv2.resize(rng.normal(size=(14, 14)), (64, 64), interpolation=cv2.INTER_CUBIC)
    y, x = np.meshgrid(np.linspace(0, depth, 64), np.linspace(-size / 2, size / 2, 64), indexing="ij")
    points = np.stack([x, y, rows * rng.uniform(0.01, 0.05)], -1).reshape(-1, 3)
    index = np.arange(64 * 64).reshape(64, 64)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return trimesh.Trimesh(points, faces, process=False)


def scene(files: list[Path], rng: Generator) -> list[Body]:
    """Furnish a table: x to the right, y away, z up, the camera above the origin."""
    wall_at = rng.uniform(1.6, 4.5)
    half = wall_at * 1.2

    def body(mesh: trimesh.Trimesh, place: np.ndarray, scale: float, is_round: bool, painted: float = 0.5) -> Body:
        return Body(mesh.copy().apply_transform(place), place, texture(files, rng, painted), scale, is_round)

    def at(x: float, y: float, z: float, turn: float = 0.0, size: float = 1.0) -> np.ndarray:
        matrix = transformations.rotation_matrix(turn, (0, 0, 1))
        matrix[:3, :3] *= size
        matrix[:3, 3] = x, y, z
        return matrix

    table = cloth(4 * half, wall_at, rng) if rng.random() < 0.3 else creation.box((4 * half, wall_at + 1, 0.02))
    table_place = at(0, 0 if len(table.vertices) > 8 else (wall_at - 1) / 2, -0.01)
    bodies = [body(table, table_place, rng.uniform(0.5, 2.5), True)]
    wall = creation.box((8 * half, 0.02, 12)).apply_translation((0, 0, 3))
    bodies.append(body(wall, at(0, wall_at, 0, rng.normal(0, 0.2)), rng.uniform(0.3, 1.5), False, 0.7))
    bodies.append(body(creation.box((60, 0.1, 60)), at(0, wall_at + 8, 0), 0.1, False))
    if rng.random() < 0.35:  # a wall or a shelf at one side
        side = creation.box((0.02, wall_at, rng.uniform(0.5, 4)))
        bodies.append(body(side, at(rng.choice([-1, 1]) * rng.uniform(0.4, 1.0) * half, wall_at / 2, 0), 1, False))
    near, floating = rng.uniform(0.5, 0.9), rng.choice([0.1, 0.25, 0.8], p=[0.5, 0.3, 0.2])
    for _ in range(int(rng.integers(6, 36))):
        mesh, is_round = shape(rng)
        y = 1 / rng.uniform(1 / (wall_at - 0.05), 1 / near) if rng.random() < 0.5 else rng.uniform(near, wall_at - 0.05)
        x = y * rng.uniform(-0.7, 0.7)
        size = rng.uniform(0.12, 0.5) * (0.5 + 0.5 * y)
        z = 0.0 if rng.random() > floating else rng.uniform(0, 0.6) * y
        tipped = transformations.rotation_matrix(np.pi / 2, (1, 0, 0)) if rng.random() < 0.08 else np.eye(4)
        place = at(x, y, z, rng.uniform(0, 2 * np.pi), size) @ tipped
        bodies.append(body(mesh, place, rng.uniform(0.6, 2.0), is_round))
    return bodies


def look(height: int, width: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the camera's place (3,) and the rays (H * W, 3), which are 1 long along the optical axis."""
    focal = max(height, width) / (2 * np.tan(np.radians(rng.uniform(32, 62)) / 2))
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = (columns - width / 2) / focal, (rows - height / 2) / focal
    pitch, roll = rng.uniform(-0.05, 0.45), rng.normal(0, 0.03)
    rays = np.stack([x, np.ones_like(x), -y], -1).reshape(-1, 3)
    turn = transformations.rotation_matrix(-pitch, (1, 0, 0)) @ transformations.rotation_matrix(roll, (0, 1, 0))
    origin = np.array([0, 0, rng.uniform(0.15, 0.5) + max(pitch, 0) * rng.uniform(0.7, 1.3)])
    return origin, rays @ turn[:3, :3].T


def wear(body: Body, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Return the colours (N, 3) of points (N, 3) of a body, its texture laid on from the side that they face."""
    back = np.linalg.inv(body.place)
    local = points @ back[:3, :3].T + back[:3, 3]
    facing = np.abs(normals @ body.place[:3, :3]).argmax(1)
    others = np.array([[1, 2], [0, 2], [0, 1]])[facing]
    uv = np.take_along_axis(local, others, 1) * body.scale * 200
    uv = np.abs((uv + 256) % 512 - 256).astype(np.float32)  # mirrored again and again
    uv = np.pad(uv, ((0, -len(uv) % 1024), (0, 0))).reshape(-1, 1024, 2)  # OpenCV takes no more than 32 767 in a row
    found = cv2.remap(body.texture, uv[..., 0], 255 - uv[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(-1, 3)[: len(points)]


def render(files: list[Path], size: tuple[int, int], rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return picture (H, W, 3), 8 bits, and inverse depth (H, W) of one scene."""
    height, width = (round(side * FINER) for side in size)
    bodies = scene(files, rng)
    whole = trimesh.util.concatenate([body.mesh for body in bodies])
    owner = np.repeat(np.arange(len(bodies)), [len(body.mesh.faces) for body in bodies])
    origin, rays = look(height, width, rng)
    first = whole.ray.intersects_first(np.broadcast_to(origin, rays.shape), rays)
    faces = np.maximum(first, 0)
    flat = whole.face_normals[faces]
    corner = whole.vertices[whole.faces[faces, 0]]
    slope = (rays * flat).sum(1)
    depth = ((corner - origin) * flat).sum(1) / np.where(np.abs(slope) < 1e-6, 1e-6, slope)
    depth = np.where(first < 0, 50.0, np.clip(depth, 0.05, 50.0))
    points = origin + depth[:, None] * rays

    normals = flat.copy()
    colours = np.zeros_like(points)
    round_of = np.array([body.is_round for body in bodies])
    smooth = round_of[owner[faces]]
    if smooth.any():
        weights = trimesh.triangles.points_to_barycentric(whole.triangles[faces[smooth]], points[smooth])
        soft = (whole.vertex_normals[whole.faces[faces[smooth]]] * np.clip(weights, 0, 1)[..., None]).sum(1)
        normals[smooth] = soft / np.maximum(np.linalg.norm(soft, axis=1, keepdims=True), 1e-6)
    normals *= -np.sign((normals * rays).sum(1, keepdims=True))
    for index in np.unique(owner[faces]):
        mask = owner[faces] == index
        colours[mask] = wear(bodies[index], points[mask], flat[mask])

    light = np.array([rng.normal(0, 0.7), rng.normal(-0.8, 0.5), rng.uniform(0.5, 1.5)])
    light /= np.linalg.norm(light)
    lit = np.zeros(len(points))
    for _ in range(2):  # a lamp has a size
        towards = light + rng.normal(0, 0.04, 3)
        hidden = whole.ray.intersects_any(points + 2e-3 * normals, np.broadcast_to(towards, points.shape))
        lit += 0.5 * ~hidden * np.maximum(normals @ towards, 0)
    ambient = rng.uniform(0.3, 0.7)
    fill = 0.5 + 0.5 * normals @ np.array([0.3, -0.5, 0.8])
    shade = ambient * np.clip(fill, 0.2, 1) + (1.2 - ambient) * lit
    shade /= np.sqrt(1 + 0.05 * depth)
    tint = rng.uniform(0.88, 1.12, 3)
    image = (np.clip(colours * shade[:, None] * tint, 0, 1) ** rng.uniform(0.75, 1.05)).reshape(height, width, 3)
    image = cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    inverse = (1 / depth).reshape(height, width).astype(np.float32)
    inverse = cv2.resize(inverse, size[::-1], interpolation=cv2.INTER_AREA)
    return (image * 255).round().astype(np.uint8), inverse


def make(number: int, target: Path, seed: int, files: list[Path]) -> None:
    """Render one scene and store it."""
    rng = np.random.default_rng([seed, number])
    write(target, *render(files, SHAPES[rng.integers(len(SHAPES))], rng))


def main() -> None:
    """Render every scene that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    args = parser.parse_args()
    files = [path for folder in args.textures for path in find_pictures(folder)]
    targets = {number: args.out / "scenes" / f"{number:05d}.npz" for number in range(args.count)}
    todo = {number: target for number, target in targets.items() if not target.exists()}
    begin = time.time()
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        job = partial(make, seed=args.seed, files=files)
        for count, _ in enumerate(pool.map(job, todo, todo.values(), chunksize=10), 1):
            if count % 50 == 0:
                print(f"{count} of {len(todo)}, {count / (time.time() - begin):.2f} scenes/s", flush=True)


if __name__ == "__main__":
    main()
