"""Point clouds: what is read and refused, the built-in shapes, folders, and sampled distances."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from nfbench.zoos.clouds import NEAR, BuiltInClouds, FolderClouds, read_cloud, sample_distances
from nfbench.zoos.procedural import FAMILIES, _rotation, make_cloud, to_unit_ball

CLOUD = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def ply(kind: str, cloud=CLOUD, header: str | None = None) -> bytes:
    """A file with a comment, a colour between the coordinates, and a face after the vertices."""
    lines = ["ply", f"format {kind} 1.0", "comment by hand", f"element vertex {len(cloud)}", "property float x",
             "property uchar red", "property double y", "property float z", "element face 1",
             "property list uchar int vertex_indices", "end_header"]  # fmt: skip
    head = (header or "\n".join(lines) + "\n").encode()
    if kind == "ascii":
        rows = "".join(f"{float(x)!r} 7 {float(y)!r} {float(z)!r}\n" for x, y, z in cloud)
        return head + rows.encode() + b"3 0 1 2\n"
    order = "<" if "little" in kind else ">"
    row = np.dtype([("x", order + "f4"), ("red", "u1"), ("y", order + "f8"), ("z", order + "f4")])
    values = np.zeros(len(cloud), row)
    for k, axis in enumerate("xyz"):
        values[axis] = cloud[:, k]
    return head + values.tobytes() + b"\3" + np.arange(3, dtype=order + "i4").tobytes()


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_files(tmp_path, kind):
    path = tmp_path / "cloud.ply"
    path.write_bytes(ply(kind))
    np.testing.assert_array_equal(read_cloud(path), CLOUD.astype(np.float64))
    path.write_bytes(ply(kind).replace(b"\n", b"\r\n", 11))
    np.testing.assert_array_equal(read_cloud(path), CLOUD.astype(np.float64))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i4", "<f2"])
def test_npy_files(tmp_path, dtype):
    path = tmp_path / "cloud.npy"
    np.save(path, (100 * CLOUD).astype(dtype))
    np.testing.assert_array_equal(read_cloud(path), (100 * CLOUD).astype(dtype).astype(np.float64))


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("how", ["array of objects", "plain pickle"])
def test_a_pickle_is_never_opened(tmp_path, how):
    path, mark = tmp_path / "cloud.npy", tmp_path / "mark"
    if how == "array of objects":
        np.save(path, np.array([Evil(mark)] * 3, dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as a point cloud")):
        read_cloud(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the pickle does run code where somebody loads it"


BAD_ARRAYS = {
    "(N, 2)": (CLOUD[:, :2], r"shape \(20, 2\); a cloud is \(N, 3\)"),
    "flat": (CLOUD.ravel(), r"shape \(60,\)"),
    "normals": (np.hstack([CLOUD, CLOUD]), r"shape \(20, 6\)"),
    "few": (CLOUD[:15], "15 points; a cloud has at least 16"),
    "none": (CLOUD[:0], "cannot be read|0 points"),
    "nan": (np.where(np.arange(20)[:, None] == 4, np.nan, CLOUD), r"1 points \(of 20\) with NaN"),
    "inf": (np.where(np.arange(20)[:, None] < 2, np.inf, CLOUD), r"2 points \(of 20\) with NaN or infinite"),
    "one place": (np.ones((20, 3)), "20 points at one place"),
    "text": (np.full((20, 3), "x"), "its numbers are of type <U1"),
    "complex": (CLOUD.astype(complex), "complex128"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_are_no_clouds(tmp_path, name):
    array, message = BAD_ARRAYS[name]
    path = tmp_path / "cloud.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match=message) as error:
        read_cloud(path)
    assert str(path) in str(error.value)


HEAD = "ply\nformat {kind} 1.0\nelement vertex 20\n{rest}end_header\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"
BAD_PLY = {
    "no header": (b"hello", "no ply header"),
    "format": (ply("ascii", header=HEAD.format(kind="text", rest=XYZ)), "format 'text' is none of ascii, binary_l"),
    "no z": (ply("ascii", header=HEAD.format(kind="ascii", rest=XYZ[:34])), "have the properties x, y; x, y and z"),
    "type": (ply("ascii", header=HEAD.format(kind="ascii", rest=XYZ + "property half w\n")), "unknown type: half"),
    "faces first": (ply("ascii").replace(b"element vertex", b"element face"), "first element is not `vertex`"),
    "list": (ply("ascii").replace(b"uchar red", b"list uchar int red"), "no lists are expected"),
    "text": (ply("ascii").replace(b" 7 ", b" seven "), "seven"),
    "short ascii": (ply("ascii").replace(b"vertex 20", b"vertex 22"), "cannot be read"),
    "short binary": (ply("binary_little_endian")[:-60], "cannot be read"),
    "count": (ply("ascii").replace(b"vertex 20", b"vertex many"), "many"),
    "negative": (ply("binary_little_endian").replace(b"vertex 20", b"vertex -1"), "0 of -1 vertices"),
}


@pytest.mark.parametrize("name", BAD_PLY)
def test_ply_files_that_are_no_clouds(tmp_path, name):
    content, message = BAD_PLY[name]
    path = tmp_path / "cloud.ply"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_cloud(path)
    assert str(path) in str(error.value)


def test_a_truncated_npy_file(tmp_path):
    path = tmp_path / "cloud.npy"
    np.save(path, CLOUD)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cannot be read as a point cloud"):
        read_cloud(path)


def make_folder(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            cloud = np.random.default_rng(i).normal(size=(30, 3)) + 5
            if i % 2:
                (folder / name / f"{i}.ply").write_bytes(ply("ascii", cloud))
            else:
                np.save(folder / name / f"{i}.npy", cloud)
    (folder / "notes.txt").write_text("not a cloud")
    (folder / next(iter(counts)) / "notes.txt").write_text("not a cloud")
    return folder


def test_a_folder_of_clouds(tmp_path):
    folder = make_folder(tmp_path / "clouds", {"b": 3, "a": 5})
    clouds = FolderClouds(folder)
    assert clouds.class_names == ("a", "b")
    assert clouds.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 0]
    assert clouds.ranks.tolist() == [0, 0, 1, 1, 2, 2, 3, 4]
    assert [path.parent.name for path in clouds.paths] == [clouds.class_names[k] for k in clouds.labels]
    assert len({path for path in clouds.paths}) == 8
    some = FolderClouds(folder, 5)
    assert some.paths == clouds.paths[:5]
    cloud = clouds.load(3)
    np.testing.assert_allclose(cloud.mean(0), 0, atol=1e-12)
    assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1)
    before = clouds.identity, clouds.fingerprint()
    np.save(next(path for path in clouds.paths if path.suffix == ".npy"), np.random.default_rng(99).random((30, 3)))
    assert FolderClouds(folder).identity == before[0], "names and sizes are the same"
    assert FolderClouds(folder).fingerprint() != before[1]
    np.save(folder / "a" / "new.npy", CLOUD)
    assert FolderClouds(folder).identity != before[0]


def test_folders_without_clouds(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        FolderClouds(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds 0 clouds"):
        FolderClouds(tmp_path)
    folder = make_folder(tmp_path / "one", {"a": 5})
    with pytest.raises(ValueError, match=r"5 clouds .* in 1 classes; at least 2"):
        FolderClouds(folder)
    folder = make_folder(tmp_path / "two", {"a": 2, "b": 2})
    with pytest.raises(ValueError, match=r"zoo\.num_shapes=5, but .* holds 4 clouds"):
        FolderClouds(folder, 5)
    bad = FolderClouds(folder).paths[2]
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(str(bad))):
        FolderClouds(folder).fingerprint()


def test_built_in_shapes_depend_on_their_index_alone():
    few, many = BuiltInClouds(30, 64, 0.01, "any"), BuiltInClouds(50, 64, 0.01, "any")
    np.testing.assert_array_equal(few.load(17), many.load(17))
    assert not np.allclose(few.load(17), few.load(27)), "another shape of the same family"
    assert few.class_names[few.labels[17]] == list(FAMILIES)[7] == "chair"
    assert few.ranks[17] == 1
    assert few.identity == many.identity != BuiltInClouds(30, 65, 0.01, "any").identity


@pytest.mark.parametrize("index", range(10))
def test_built_in_shapes_are_clouds(index):
    clean = make_cloud(index, 500, 0.0, "none")
    assert clean.shape == (500, 3)
    assert np.linalg.norm(clean, axis=1).max() == pytest.approx(1)
    noisy = make_cloud(index, 500, 0.05, "none") - clean
    assert noisy.std() == pytest.approx(0.05, rel=0.1)
    upright, turned = make_cloud(index, 500, 0.0, "upright"), make_cloud(index, 500, 0.0, "any")
    assert np.ptp(upright[:, 2]) == pytest.approx(np.ptp(clean[:, 2]), rel=0.05)
    assert not np.allclose(np.ptp(turned, axis=0), np.ptp(clean, axis=0), rtol=0.01)


def test_surfaces():
    """A torus and a cone satisfy their equations; points of a cylinder go by area."""
    torus = make_cloud(4, 2000, 0.0, "none")
    ring = np.hypot(torus[:, 0], torus[:, 1])
    radius = (ring.max() + ring.min()) / 2
    tube = np.hypot(ring - radius, torus[:, 2])
    assert np.ptp(tube) < 0.05 * tube.mean() + 0.02
    cylinder = make_cloud(2, 20000, 0.0, "none")
    low, high = cylinder[:, 2].min(), cylinder[:, 2].max()
    radius = np.hypot(cylinder[:, 0], cylinder[:, 1]).max()
    caps = ((cylinder[:, 2] < low + 1e-9) | (cylinder[:, 2] > high - 1e-9)).mean()
    assert caps == pytest.approx(radius / (radius + high - low), abs=0.02)


def test_rotations():
    random = np.random.default_rng(0)
    for pose in ("any", "upright", "none"):
        turned = np.array([_rotation(random, pose) for _ in range(500)])
        np.testing.assert_allclose(
            turned @ turned.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (500, 3, 3)), atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(turned), 1, atol=1e-12)
        assert np.allclose(turned[:, 2, 2], 1) == (pose != "any")
        if pose == "any":  # uniform: the mean vanishes, and where z goes is uniform in height
            assert np.abs(turned.mean(0)).max() < 0.1
            assert np.histogram(turned[:, 2, 2], 4, (-1, 1))[0].min() > 90


def test_distances_are_those_to_the_nearest_point():
    cloud = to_unit_ball(CLOUD.astype(np.float64))
    coords, distances = sample_distances(cloud, 201, 3)
    assert (coords.shape, distances.shape) == ((201, 3), (201, 1))
    expected = np.linalg.norm(coords.astype(np.float64)[:, None] - cloud, axis=2).min(1)
    np.testing.assert_allclose(distances[:, 0], expected, rtol=1e-6)
    assert np.linalg.norm(coords[:101], axis=1).max() <= 1 + 1e-6
    near = np.linalg.norm(coords[101:, None] - cloud, axis=2).min(1)
    assert near.max() < 6 * NEAR
    assert near.mean() < distances[:101].mean() / 1.5
    np.testing.assert_array_equal(sample_distances(cloud, 201, 3)[0], coords)
    assert not np.array_equal(sample_distances(cloud, 201, 4)[0], coords)
