"""Points and meshes: positions, edges, axes, what other programs read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fathom.errors import ConfigError, EmptyMaskError, KindError, OutputError, ShapeError
from fathom.pointcloud import MAX_RELATIVE_JUMP, PointCloud, flying_pixels, point_cloud, write_glb, write_ply
from fathom.types import Camera, Depth, DepthKind, FocalSource, InvalidReason, Provenance

CAMERA = Camera.from_focal(20.0, height=16, width=24, source=FocalSource.USER)


def slanted(**fields: object) -> Depth:
    """A wall 2 to 2.5 m away that recedes to the right."""
    values = np.tile(np.linspace(2.0, 2.5, 24, dtype=np.float32), (16, 1))
    return Depth(values, DepthKind.METRIC_DEPTH, camera=CAMERA, provenance=Provenance("küche"), **fields)


def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (16, 24, 3)).astype(np.uint8)


class TestPoints:
    def test_every_point_projects_onto_its_pixel(self) -> None:
        cloud = point_cloud(slanted(), photo())
        assert cloud.points.dtype == np.float32 and cloud.points.shape == (384, 3)
        projected = cloud.points @ CAMERA.intrinsics.T
        projected = projected[:, :2] / projected[:, 2:]
        rows, columns = np.mgrid[0:16, 0:24]
        assert np.allclose(projected, np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5, atol=1e-4)
        assert np.array_equal(cloud.colors, photo().reshape(-1, 3))

    def test_sky_and_holes_are_left_out(self) -> None:
        reason = np.zeros((16, 24), np.uint8)
        reason[:2], reason[2, :5] = InvalidReason.SKY, InvalidReason.UNKNOWN
        depth = slanted(valid_mask=reason == 0, invalid_reason=reason)
        cloud = point_cloud(depth)
        assert len(cloud.points) == 384 - 48 - 5 and np.isfinite(cloud.points).all()
        assert cloud.metadata["num_sky_removed"] == 48
        assert (cloud.colors == 200).all()

    @pytest.mark.parametrize("kind", [DepthKind.SCALE_INVARIANT_DEPTH, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH])
    def test_relative_maps_are_refused(self, kind: DepthKind) -> None:
        with pytest.raises(KindError, match="point cloud in metres cannot be had"):
            point_cloud(replace(slanted(), kind=kind))
        with pytest.raises(KindError):
            flying_pixels(replace(slanted(), kind=kind))

    def test_no_camera(self) -> None:
        with pytest.raises(KindError, match="no camera is set"):
            point_cloud(replace(slanted(), camera=None))

    def test_inverse_depth_gives_the_same_points(self) -> None:
        assert np.allclose(point_cloud(slanted().to_inverse_depth()).points, point_cloud(slanted()).points, rtol=1e-5)

    def test_refusals(self) -> None:
        with pytest.raises(ShapeError, match="same size"):
            point_cloud(slanted(), photo()[1:])
        with pytest.raises(EmptyMaskError, match="No point is left of 384 pixels: 384 are not valid"):
            point_cloud(Depth(np.full((16, 24), np.nan), DepthKind.METRIC_DEPTH, camera=CAMERA))
        with pytest.raises(ConfigError, match="must be positive"):
            point_cloud(slanted(), max_relative_jump=0.0)
        lone = Depth(np.array([[1.0, np.nan]]), DepthKind.METRIC_DEPTH, camera=CAMERA)
        with pytest.raises(EmptyMaskError, match="No triangle"):
            point_cloud(lone, mesh=True)


class TestFlyingPixels:
    def test_a_smeared_step_is_taken_out_and_the_planes_stay(self) -> None:
        row = np.r_[np.full(8, 1.0), 1.4, 2.0, 2.6, np.full(8, 3.0)]
        flying = flying_pixels(Depth(np.tile(row, (6, 1)), DepthKind.METRIC_DEPTH))
        assert flying[3].tolist() == [False] * 7 + [True] * 5 + [False] * 7

    def test_the_rule_itself(self) -> None:
        """Compare with the sentence of the docstring, pixel by pixel."""
        rng = np.random.default_rng(2)
        values = rng.uniform(1.0, 1.1, (9, 11)).astype(np.float32)
        valid = rng.random((9, 11)) > 0.2
        depth = Depth(np.where(valid, values, np.nan), DepthKind.METRIC_DEPTH)
        expected = np.zeros((9, 11), bool)
        for row, column in zip(*np.nonzero(valid), strict=True):
            near = (slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
            around = values[near][valid[near]]
            expected[row, column] = around.max() - around.min() > np.float32(0.06) * values[row, column]
        assert 0 < expected.sum() < valid.sum()
        assert np.array_equal(flying_pixels(depth, max_relative_jump=0.06), expected)

    def test_holes_are_not_steps(self) -> None:
        values = np.full((5, 5), 2.0)
        values[2, 2] = np.nan
        assert not flying_pixels(Depth(values, DepthKind.METRIC_DEPTH)).any()

    def test_a_floor_from_eye_height_stays_to_eight_metres(self) -> None:
        """Depth of a floor 1.5 m below a level camera, focal length 500 px: 750 / rows below the horizon."""
        rows = np.arange(94, 480)  # 8 m and nearer
        floor = np.tile((750 / rows)[:, None], (1, 10))
        assert not flying_pixels(Depth(floor, DepthKind.METRIC_DEPTH), max_relative_jump=MAX_RELATIVE_JUMP).any()

    def test_they_are_counted(self) -> None:
        values = np.full((4, 10), 1.0)
        values[:, 5:] = 2.0
        cloud = point_cloud(Depth(values, DepthKind.METRIC_DEPTH, camera=CAMERA))
        assert cloud.metadata["num_flying_removed"] == 8 and len(cloud.points) == 32


class TestMesh:
    def test_triangles_face_the_camera_and_cover_the_grid(self) -> None:
        cloud = point_cloud(slanted(), photo(), mesh=True)
        assert cloud.faces.shape == (2 * 15 * 23, 3) and cloud.faces.dtype == np.int32
        a, b, c = (cloud.points[cloud.faces[:, corner]].astype(np.float64) for corner in range(3))
        normals = np.cross(b - a, c - a)
        # In axes with y down, a normal towards the camera has a negative component along the ray.
        assert (np.sum(normals * a, axis=1) < 0).all()

    def test_no_triangle_spans_a_step(self) -> None:
        values = np.full((6, 10), 1.0)
        values[:, 5:] = 2.0
        cloud = point_cloud(Depth(values, DepthKind.METRIC_DEPTH, camera=CAMERA), mesh=True)
        corners = cloud.points[cloud.faces][..., 2]
        assert np.ptp(corners, axis=1).max() == 0

    def test_a_lost_corner_costs_only_its_triangles(self) -> None:
        values = np.ones((2, 2))
        values[0, 0] = np.nan
        cloud = point_cloud(Depth(values, DepthKind.METRIC_DEPTH, camera=CAMERA), mesh=True)
        assert cloud.faces.tolist() == [[0, 1, 2]]


class TestFiles:
    @pytest.fixture(params=[False, True], ids=["points", "mesh"])
    def cloud(self, request: pytest.FixtureRequest) -> PointCloud:
        return point_cloud(slanted(), photo(), mesh=request.param)

    def test_ply(self, cloud: PointCloud, tmp_path: Path) -> None:
        path = write_ply(cloud, tmp_path / "a.ply")
        loaded = trimesh.load(path, process=False)
        assert np.array_equal(loaded.vertices.astype(np.float32), cloud.points)
        colors = loaded.colors if cloud.faces is None else loaded.visual.vertex_colors
        assert np.array_equal(colors[:, :3], cloud.colors)
        if cloud.faces is not None:
            assert np.array_equal(loaded.faces, cloud.faces)
        header = path.read_bytes().split(b"end_header\n")[0].decode("ascii").split("\n")
        assert header[:2] == ["ply", "format binary_little_endian 1.0"]
        assert "comment x right, y down, z forward, metres; camera at the origin" in header
        [stated] = [line for line in header if line.startswith("comment fathom ")]
        metadata = json.loads(stated.removeprefix("comment fathom "))
        assert metadata["kind"] == "metric_depth" and metadata["provenance"]["model"] == "küche"
        assert metadata["points_unit"] == "m" and metadata["max_relative_jump"] == MAX_RELATIVE_JUMP

    def test_glb(self, cloud: PointCloud, tmp_path: Path) -> None:
        path = write_glb(cloud, tmp_path / "a.glb")
        # trimesh shows colours of points only where no material is set.
        [loaded] = trimesh.load(path, process=False, skip_materials=True).geometry.values()
        assert np.array_equal(loaded.vertices.astype(np.float32), cloud.points * np.float32([1, -1, -1]))
        assert (loaded.vertices[:, 2] < 0).all(), "the camera looks along -z"
        content = path.read_bytes()
        length = int.from_bytes(content[12:16], "little")
        tree = json.loads(content[20 : 20 + length])
        assert tree["asset"]["extras"]["kind"] == "metric_depth" and tree["asset"]["version"] == "2.0"
        assert "KHR_materials_unlit" in tree["extensionsUsed"]
        [primitive] = tree["meshes"][0]["primitives"]
        assert tree["materials"][primitive["material"]]["extensions"] == {"KHR_materials_unlit": {}}
        colors = loaded.colors if cloud.faces is None else loaded.visual.vertex_colors
        linear = np.asarray(colors)[:, :3] / 255
        back = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
        assert np.abs(back - cloud.colors).mean() < 2

    @pytest.mark.parametrize("write", [write_ply, write_glb])
    def test_same_bytes_every_time(self, write: object, cloud: PointCloud, tmp_path: Path) -> None:
        assert write(cloud, tmp_path / "a").read_bytes() == write(cloud, tmp_path / "b").read_bytes()  # type: ignore[operator]

    @pytest.mark.parametrize("write", [write_ply, write_glb])
    def test_unwritable(self, write: object, cloud: PointCloud, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OutputError, match="Cannot write"):
            write(cloud, tmp_path / "file" / "a")  # type: ignore[operator]
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
