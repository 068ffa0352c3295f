"""Image files: absent, corrupt, in every layout of CIFAR-10; small files made by the tests."""

import gzip
import io
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from nfbench.zoos import download, images


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.delenv("NFBENCH_DATA_DIR", raising=False)

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Five training and two test images in the official layout, with the checksums to match."""
    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, 256, (5, 28, 28), np.uint8),
        np.arange(5, dtype=np.uint8),
        random.integers(0, 256, (2, 28, 28), np.uint8),
        np.array([7, 8], np.uint8),
    ]
    folder = tmp_path / "mnist"
    folder.mkdir()
    checksums = []
    for name, array in zip(images._IDX_NAMES, arrays, strict=True):
        (folder / name).write_bytes(idx_bytes(array))
        checksums.append(images.hashlib.sha256((folder / name).read_bytes()).hexdigest())
    monkeypatch.setitem(images._IDX, "mnist", ("https://example.org/", tuple(checksums)))
    monkeypatch.setitem(images.SOURCES, "mnist", images.SourceInfo((28, 28, 1), 7, 10, "mnist"))
    return tmp_path, arrays


def test_digits_need_no_files(tmp_path):
    data = images.load_images("digits", tmp_path)
    assert data.pixels.shape == (1797, 8, 8, 1)
    assert (data.pixels.min(), data.pixels.max()) == (0.0, 1.0)


def test_idx_files_are_read_train_first(small_mnist, monkeypatch):
    folder, arrays = small_mnist
    data = images.load_images("mnist", folder)
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 3, 4, 7, 8])
    np.testing.assert_allclose(data.pixels[5:, ..., 0] * 255, arrays[2], atol=1e-4)
    monkeypatch.setenv("NFBENCH_DATA_DIR", str(folder))
    assert len(images.load_images("mnist", "/nowhere").labels) == 7


def test_a_chosen_folder_comes_first(monkeypatch):
    monkeypatch.setenv("NFBENCH_DATA_DIR", "/env")
    for data_dir, roots in (("data", ["/env", "data"]), ("/mine", ["/mine", "/env", "data"])):
        assert images.search_folders("mnist", data_dir) == [Path(root) / "mnist" for root in roots]
    monkeypatch.delenv("NFBENCH_DATA_DIR")
    assert images.search_folders("mnist", "data") == [Path("data/mnist")]


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("NFBENCH_DATA_DIR", str(tmp_path / "mine"))
    with pytest.raises(ValueError, match="cannot be downloaded") as error:
        images.load_images("fashion", tmp_path / "data")
    text = str(error.value)
    for part in ("train-images-idx3-ubyte.gz", str(tmp_path / "mine/fashion-mnist"), str(tmp_path / "data"), "http://"):
        assert part in text


def test_corrupt_file_is_kept_and_named(small_mnist):
    folder, _ = small_mnist
    path = folder / "mnist" / images._IDX_NAMES[2]
    path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="SHA-256") as error:
        images.load_images("mnist", folder)
    assert path.name in str(error.value)
    assert path.read_bytes() == before


def test_download_is_checked_and_renamed(small_mnist, monkeypatch, tmp_path):
    folder, _ = small_mnist
    target = tmp_path / "elsewhere"

    class Response(io.BytesIO):
        headers = {}  # noqa: RUF012

    def serve(url, timeout):
        return Response((folder / "mnist" / url.rsplit("/", 1)[1]).read_bytes())

    monkeypatch.setattr(download.urllib.request, "urlopen", serve)
    assert len(images.load_images("mnist", target).labels) == 7
    assert sorted(p.name for p in (target / "mnist").iterdir()) == sorted(images._IDX_NAMES)
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda url, timeout: Response(b"an error page"))
    with pytest.raises(ValueError, match="not the official file"):
        images.load_images("mnist", tmp_path / "third")
    assert list((tmp_path / "third" / "mnist").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TimeoutError("timed out"), r"cannot be downloaded \(timed out\)[^$]*Run again"),
        (ConnectionResetError("reset"), r"cannot be downloaded \(reset\)[^$]*Run again"),
        (PermissionError(13, "Permission denied"), r"Permission denied[^$]*data_dir="),
    ],
)
def test_failed_downloads_say_what_to_do(small_mnist, monkeypatch, tmp_path, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(download.urllib.request, "urlopen", fail)
    monkeypatch.setattr(Path, "unlink", fail)  # must not hide the first error
    with pytest.raises(ValueError, match=message):
        images.load_images("mnist", tmp_path / "elsewhere")


BROKEN = {
    "empty": b"",
    "text": b"no gzip",
    "short": gzip.compress(b"\0\0\x08\x03abc"),
    "foreign": gzip.compress(b"x" * 50),
    "cut": idx_bytes(np.zeros((4, 5, 5), np.uint8))[:-10],
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_idx_is_refused(tmp_path, content):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a whole"):
        images.read_idx(path)


def cifar_rows(random, count):
    pixels = random.integers(0, 256, (count, 3, 32, 32), np.uint8)
    labels = random.integers(0, 10, count).astype(np.uint8)
    return pixels, labels, np.concatenate([labels[:, None], pixels.reshape(count, -1)], axis=1).tobytes()


def test_cifar_layouts_agree(tmp_path, monkeypatch):
    """Binary archive, its unpacked files, and the residual-coded npz files give the same images."""
    random = np.random.default_rng(1)
    blocks = [cifar_rows(random, 3) for _ in range(6)]
    monkeypatch.setitem(images.SOURCES, "cifar10", images.SourceInfo((32, 32, 3), 18, 10, "cifar10"))
    expected = np.concatenate([b[0] for b in blocks]).transpose(0, 2, 3, 1)

    plain = tmp_path / "plain" / "cifar10" / "cifar-10-batches-bin"
    plain.mkdir(parents=True)
    packed = tmp_path / "packed" / "cifar10"
    packed.mkdir(parents=True)
    coded = tmp_path / "coded" / "cifar10"
    coded.mkdir(parents=True)
    with tarfile.open(packed / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, block in zip(images.CIFAR_MEMBERS, blocks, strict=True):
            (plain / name).write_bytes(block[2])
            archive.add(plain / name, f"cifar-10-batches-bin/{name}")
    archive_sum = images.hashlib.sha256((packed / "cifar-10-binary.tar.gz").read_bytes()).hexdigest()
    source = images.FileSource("cifar-10-binary.tar.gz", "https://example.org/", archive_sum)
    monkeypatch.setattr(images, "CIFAR_ARCHIVE", source)
    for name, (pixels, labels, _) in zip(images.CIFAR_NPZ, blocks, strict=True):
        red, green, blue = pixels.transpose(1, 0, 2, 3)
        planes = np.stack([green, red - green, blue - green])
        rows = np.diff(planes, axis=2, prepend=np.zeros_like(planes[:, :, :1]))
        residual = np.diff(rows, axis=3, prepend=np.zeros_like(rows[..., :1]))
        np.savez(coded / name, residual=residual, labels=labels, approx=np.array([False, True, False]))
    with pytest.raises(ValueError, match=r"cifar10_train_1\.npz is not the official file"):
        images.load_images("cifar10", tmp_path / "coded")
    sums = {name: images.hashlib.sha256((coded / name).read_bytes()).hexdigest() for name in images.CIFAR_NPZ}
    monkeypatch.setattr(images, "CIFAR_NPZ", sums)

    # A pickle in an earlier folder is neither opened nor in the way of the archive in a later one.
    pickle = tmp_path / "pickle" / "cifar10" / "cifar-10-python.tar.gz"
    pickle.parent.mkdir(parents=True)
    pickle.write_bytes(b"whatever")
    monkeypatch.setenv("NFBENCH_DATA_DIR", str(tmp_path / "packed"))
    np.testing.assert_array_equal(np.rint(images.load_images("cifar10", tmp_path / "pickle").pixels * 255), expected)
    monkeypatch.delenv("NFBENCH_DATA_DIR")

    fingerprints = set()
    for folder in ("plain", "packed", "coded"):
        data = images.load_images("cifar10", tmp_path / folder)
        np.testing.assert_array_equal(np.rint(data.pixels * 255), expected)
        np.testing.assert_array_equal(data.labels, np.concatenate([b[1] for b in blocks]))
        fingerprints.add(data.fingerprint)
    assert len(fingerprints) == 1, "the same images in other files"
    assert "6 of 18 images approximate" in data.origin


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"whatever")
    with pytest.raises(ValueError, match="could run code"):
        images.load_images("cifar10", tmp_path)


def test_unknown_source_lists_the_known():
    with pytest.raises(ValueError, match="digits, mnist, fashion, cifar10"):
        images.load_images("imagenet")
