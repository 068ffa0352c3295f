"""What is refused, what is counted as broken, and that no code is run."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from archives import NfnSiren, nfn_files, saved, write_folder, write_tar, write_zip

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.importers import FolderLayout, NfnLayout, common, import_zoo
from nfbench.zoos.importers.common import Broken, members
from nfbench.zoos.importers.tensors import infer_spec, load_state, to_row
from nfbench.zoos.store import read_zoo

GOOD = "siren_mnist_wts/randinit_smaller_1s/net1.pth"
BAD = "siren_mnist_wts/randinit_smaller_1s/net2.pth"


def tar_with(path: Path, **fields) -> Path:
    """A tar with a good network, then a member with these fields."""
    write_tar(path, nfn_files({(1, 1, -1): NfnSiren()}))
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(fields.pop("name", BAD))
        for name, value in fields.items():
            setattr(info, name, value)
        tar.addfile(info)
    return path


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "../net1.pth"}, "leaves the folder"),
        ({"name": "a/../../net1.pth"}, "leaves the folder"),
        ({"name": "/etc/net1.pth"}, "leaves the folder"),
        ({"name": "C:/net1.pth"}, "leaves the folder"),
        ({"name": "a\\..\\..\\net1.pth"}, "leaves the folder"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link to '/etc/passwd'"),
        ({"type": tarfile.LNKTYPE, "linkname": GOOD}, "is a link to"),
        ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}, "is a device"),
        ({"type": tarfile.FIFOTYPE}, "is a device"),
    ],
)
def test_tar_members_that_are_refused(tmp_path, fields, reason):
    path = tar_with(tmp_path / "siren_mnist_wts.tar", **fields)
    with pytest.raises(ValueError, match=rf"{reason}.*this one is refused"):
        import_zoo(NfnLayout(path), tmp_path / "zoo.h5")
    assert not (tmp_path / "zoo.h5").exists()


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("../x.pth", stat.S_IFREG, "leaves the folder"),
        (BAD, stat.S_IFLNK, "is a link"),
        (BAD, stat.S_IFIFO, "a device"),
    ],
)
def test_zip_members_that_are_refused(tmp_path, name, mode, reason):
    path = tmp_path / "mnist.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, (mode | 0o644) << 16
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(ValueError, match=f"{reason}.*refused"):
        list(members(path))


def test_folder_links_and_devices_are_refused(tmp_path):
    (tmp_path / "outside.pth").write_bytes(b"secret")
    folder = write_folder(tmp_path / "zoo", {"a.pth": b"a"})
    (folder / "inside.pth").symlink_to(folder / "a.pth")
    assert [m.name for m in members(folder)] == ["a.pth", "inside.pth"], "a link within the folder is a file of it"
    for link, target in (("out.pth", tmp_path / "outside.pth"), ("sub", tmp_path)):
        (folder / link).symlink_to(target)
        with pytest.raises(ValueError, match=r"is a link to .* refused"):
            list(members(folder))
        (folder / link).unlink()
    os.mkfifo(folder / "pipe.pth")
    with pytest.raises(ValueError, match="is a device"):
        list(members(folder))


def test_members_that_are_too_large(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "MAX_BYTES", 20_000)
    files = {**nfn_files({(1, 1, -1): NfnSiren()}), BAD: bytes(20_001)}
    for path in (write_tar(tmp_path / "mnist.tar", files), write_zip(tmp_path / "mnist.zip", files)):
        assert "1 networks" in import_zoo(NfnLayout(path), tmp_path / f"{path.name}.h5")
        assert f"{BAD}: has 0 MiB, more than" in capsys.readouterr().err


def test_a_bomb_inside_a_file(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(common.MAX_BYTES + 1))
    assert len(file.getvalue()) < 100_000
    with pytest.raises(Broken, match="unpacks to more than"):
        load_state(file.getvalue(), "x.pth")


@pytest.mark.parametrize("how", ["in the header", "in a header before it"])
def test_a_member_of_negative_size_is_refused(tmp_path, how):
    """Where Python itself doesn't, tarfile goes back by it and reads the member again for ever (CVE-2025-8194)."""
    path = write_tar(tmp_path / "siren_mnist_wts.tar", nfn_files({(1, 1, -1): NfnSiren()}))
    info = tarfile.TarInfo(BAD)
    if how == "in the header":
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = (256**12 - 512).to_bytes(12, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    else:
        info.pax_headers = {"size": "-512"}
        header = bytearray(info.tobuf(tarfile.PAX_FORMAT))
    content = path.read_bytes()
    end = len(content) - len(content) % 512
    while content[end - 512 : end] == bytes(512):
        end -= 512
    path.write_bytes(content[:end] + header + bytes(1024))
    with pytest.raises(ValueError, match=r"negative size|damaged or cut off"):
        list(members(path))


def test_one_number_that_claims_to_be_four_tebibytes(tmp_path):
    """Its shapes are those of a network, so that they pass for its spec."""
    one = torch.zeros(1)
    huge = {"a": one.expand(2**20, 2**20), "b": one.expand(2**20)}
    state = load_state(saved(huge), "x.pth")
    with pytest.raises(Broken, match="claims 4194308 MiB of numbers"):
        to_row(state, NetworkSpec.parse("1048576-1048576:relu"))
    folder = write_folder(tmp_path / "nets", {"a.pth": saved(huge), "labels.csv": b"file\na.pth\n"})
    with pytest.raises(ValueError, match=r"the last: a\.pth claims 4194308 MiB"):
        FolderLayout(folder)


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (tarfile.GNUTYPE_LONGNAME, True),
        (tarfile.GNUTYPE_LONGNAME, False),
        (tarfile.GNUTYPE_LONGLINK, False),
        (tarfile.XHDTYPE, True),
        (tarfile.XHDTYPE, False),
        (tarfile.XGLTYPE, False),
    ],
)
def test_large_headers_are_refused_before_they_are_read(tmp_path, monkeypatch, kind, first):
    """64 MiB of zeros are 65 KB in a compressed tar, and tarfile reads them before it shows the member."""
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 64 * 2**20
    path = tmp_path / "siren_mnist_wts.tar.gz"
    with gzip.open(path, "wb") as file:
        plain = io.BytesIO()
        if not first:
            with tarfile.open(fileobj=plain, mode="w") as tar:
                tar.addfile(tarfile.TarInfo(GOOD))
        file.write(plain.getvalue().rstrip(b"\0").ljust(0 if first else 512, b"\0"))
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(info.size))
    assert path.stat().st_size < 70_000
    read = gzip.GzipFile.read

    def bounded(self, size=-1):
        assert 0 <= size <= 2**20, "read a header as a whole"
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", bounded)
    with pytest.raises(ValueError, match=r"'long' has a header of 67108864 bytes\. .*this one is refused"):
        list(members(path))


def test_many_global_headers_are_refused(tmp_path):
    """Each is small, but tarfile keeps them all."""
    path = tmp_path / "many.tar"
    with path.open("wb") as file:
        for number in range(4):
            info = tarfile.TarInfo(f"{number}.pth")
            head = tarfile.TarInfo.create_pax_global_header({f"comment{number}": "x" * 30_000})
            file.write(head + info.tobuf())
        file.write(bytes(1024))
    with pytest.raises(ValueError, match=r"'2\.pth' comes after too many headers"):
        list(members(path))


@pytest.mark.parametrize("newer", [False, True])
def test_sparse_files_are_refused(tmp_path, newer):
    """Their maps can be of any length."""
    info = tarfile.TarInfo("a.pth")
    if newer:
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        data = info.tobuf(tarfile.PAX_FORMAT)
    else:
        info.type = tarfile.GNUTYPE_SPARSE
        data = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "sparse.tar").write_bytes(data + bytes(2048))
    with pytest.raises(ValueError, match=r"'a\.pth' is a sparse file\. .*refused"):
        list(members(tmp_path / "sparse.tar"))


def test_ordinary_long_names_and_headers_are_read(tmp_path):
    name = "/".join(["long" * 20] * 5) + "/a.pth"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form, pax_headers={"comment": "0" * 40}) as tar:
            tar.addfile(tarfile.TarInfo(name))
        assert [member.name for member in members(path)] == [name]


@pytest.mark.parametrize("end", [-1024, -3000, -9000])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_that_is_cut_off(tmp_path, nfn_nets, end, mode):
    path = write_tar(tmp_path / "siren_mnist_wts.tar", nfn_files(nfn_nets), mode)
    content = path.read_bytes()
    path.write_bytes(content[: len(content.rstrip(b"\0")) + end] if mode == "w" else content[:end])
    with pytest.raises(ValueError, match="damaged or cut off after"):
        import_zoo(NfnLayout(path), tmp_path / "zoo.h5")
    assert not (tmp_path / "zoo.h5").exists()


def test_a_damaged_header_is_not_the_end(tmp_path, nfn_nets):
    """tarfile itself takes it for the end and would silently lose the rest."""
    path = write_tar(tmp_path / "siren_mnist_wts.tar", nfn_files(nfn_nets))
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[third + 5] ^= 1
    path.write_bytes(content)
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 2
    with pytest.raises(ValueError, match=r"damaged or cut off after .*net5\.pth"):
        import_zoo(NfnLayout(path), tmp_path / "zoo.h5")


def test_no_archive(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        list(members(tmp_path / "absent.tar"))
    (tmp_path / "text.tar").write_text("hello")
    (tmp_path / "short.tar.gz").write_bytes(gzip.compress(bytes(range(256)) * 4)[:100])
    with pytest.raises(ValueError, match="neither a tar, nor a zip, nor a folder"):
        list(members(tmp_path / "short.tar.gz"))
    with pytest.raises(ValueError, match="neither a tar, nor a zip, nor a folder"):
        list(members(tmp_path / "text.tar"))


def test_rows_are_checked():
    spec = NetworkSpec.parse("2-3-1:sine")
    good = {"a": torch.ones(3, 2), "b": torch.ones(3), "c": torch.ones(1, 3), "d": torch.ones(1)}
    assert to_row(good, spec).tolist() == [1.0] * 13
    for bad, reason in [
        ({**good, "b": torch.ones(4)}, "'b' has the shape"),
        ({**good, "b": 3}, "'b' is not a dense tensor"),
        ({**good, "b": torch.ones(3, device="meta")}, "'b' is not a dense tensor"),
        ({i: value for i, value in enumerate(good.values())}, "has the key 0, where the name"),
        ({**good, "b": torch.ones(3, dtype=torch.int64)}, "'b' is not a dense tensor"),
        ({**good, "b": torch.tensor([1.0, float("nan"), 1.0])}, "1 weights that are NaN"),
        ({"a": good["a"]}, "has 1 tensors"),
    ]:
        with pytest.raises(Broken, match=reason):
            to_row(bad, spec)


def test_spec_from_shapes():
    conv = {"a": torch.ones(4, 1, 3, 5), "b": torch.ones(4), "c": torch.ones(2, 4), "d": torch.ones(2)}
    assert str(infer_spec(conv, "relu")) == "1-4c3x5-2:relu"
    with pytest.raises(Broken, match="not a chain"):
        infer_spec({"a": torch.ones(4, 1)}, "relu")
    with pytest.raises(Broken, match="do not follow each other"):
        infer_spec({"a": torch.ones(4, 1), "b": torch.ones(4), "c": torch.ones(2, 3), "d": torch.ones(2)}, "relu")


def test_zoo_of_the_good_ones_is_whole(tmp_path, nfn_nets, capsys):
    """Broken files between good ones: named and counted, and only they are missing."""
    files = nfn_files(nfn_nets)
    names = list(files)
    files[names[1]] = b"junk" * 100
    files[names[4]] = saved({"net.0.linear.weight": torch.ones(2, 2)})
    path = write_tar(tmp_path / "siren_mnist_wts.tar", files)
    assert "4 networks of 2-32-32-1:sine, 2 broken" in import_zoo(NfnLayout(path), tmp_path / "zoo.h5")
    error = capsys.readouterr().err
    assert f"{names[1]}: is not a file of tensors, or damaged" in error
    assert f"{names[4]}: the state dict has 1 tensors" in error
    assert read_zoo(tmp_path / "zoo.h5").index.tolist() == [0, 5, 59_999, 59_999]
    with pytest.raises(ValueError, match=rf"{names[1]}.*Without strict"):
        import_zoo(NfnLayout(path), tmp_path / "strict.h5", strict=True)
    assert not (tmp_path / "strict.h5").exists()
