"""What is refused, what is counted as broken, and that no code is run."""

import codecs
import gzip
import io
import json
import os
import pickle
import stat
import struct
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from archives import NfnSiren, nfn_files, saved, write_folder, write_tar, write_zip
from torch.nn.utils import parameters_to_vector

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.importers import FolderLayout, NfnLayout, common, import_zoo
from nfbench.zoos.importers.common import Broken, members
from nfbench.zoos.importers.tensors import infer_spec, load_state, to_row
from nfbench.zoos.store import read_zoo

GOOD = "siren_mnist_wts/randinit_smaller_1s/net1.pth"
BAD = "siren_mnist_wts/randinit_smaller_1s/net2.pth"


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def attack(path: Path, protocol: int = 2) -> dict[str, bytes]:
    """Pickles that make a file when they are loaded: torch's zip, torch's old format, a plain pickle."""
    old = io.BytesIO()
    torch.save({"a": Attack(path)}, old, _use_new_zipfile_serialization=False)
    return {"zip": saved({"a": Attack(path)}), "old": old.getvalue(), "plain": pickle.dumps(Attack(path), protocol)}


@pytest.mark.parametrize("form", ["zip", "old", "plain"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, nfn_nets, form):
    data = attack(tmp_path / "harm")[form]
    path = write_tar(tmp_path / "siren_mnist_wts.tar", {**nfn_files(nfn_nets), BAD: data})
    with pytest.raises(ValueError, match=rf"(?s){BAD}.*would run code.*refused") as error:
        import_zoo(NfnLayout(path), tmp_path / "zoo.h5")
    assert not isinstance(error.value, Broken), "never counted as merely broken"
    assert not (tmp_path / "zoo.h5").exists()
    assert not (tmp_path / "harm").exists()
    pickle.loads(attack(tmp_path / "harm")["plain"])
    assert (tmp_path / "harm").exists(), "the attack works where pickles are trusted"


def test_newer_pickles_are_not_run_either(tmp_path):
    with pytest.raises(ValueError, match=r"would run code when it is loaded \(it asks for pathlib.*touch\)"):
        load_state(attack(tmp_path / "harm", protocol=5)["plain"], "x.pth")
    assert not (tmp_path / "harm").exists()


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


class Call:
    """A pickle that calls a function which torch's restricted unpickler allows."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return (self.function, self.arguments)


@pytest.mark.parametrize("form", ["zip", "old"])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Call(bytearray, 2**20), "bytearray"),
        (Call(codecs.encode, "x", "hex_codec"), "_codecs.encode"),
        (Call(torch._utils._rebuild_device_tensor_from_cpu_tensor, 1, 2, 3, 4), "_rebuild_device_tensor_from_cpu"),
        (Call(torch.Tensor, 3), "torch.Tensor"),
        (Call(Counter, torch.zeros(1).expand(9)), "collections.Counter"),
        (Call(set, torch.zeros(1).expand(9)), "set"),
    ],
)
def test_a_pickle_that_makes_memory_out_of_nothing_is_broken(value, name, form):
    data = saved({"a": torch.ones(2), "b": value}, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(Broken, match=rf"asks for .*{name}.* when it is loaded, which no state dict needs"):
        load_state(data, "x.pth")
    old_name = b"torch._utils\n_rebuild_device_tensor_from_cpu_tensor\n"
    if old_name in data and form == "old":  # which torch reads as the same function
        with pytest.raises(Broken, match=rf"asks for .*{name}"):
            load_state(data.replace(old_name, old_name.replace(b"._utils\n", b"\n_utils.")), "x.pth")


@pytest.mark.parametrize("form", ["zip", "old"])
def test_one_number_is_not_unpacked_into_many(form):
    """A tensor that repeats one number, given to what state dicts do use."""
    many = torch.zeros(1).expand(10**9)
    zipped, spec = form == "zip", NetworkSpec.parse("1-1:relu")
    for value, reason in (
        ({"b": Call(OrderedDict, many)}, "not a file of tensors"), ({"a": many}, "3815 MiB"),
        ({((1,),): many}, "has a tuple as a key"), ({"a": Call(torch.Size, many)}, "'a' is not a dense tensor"),
    ):  # fmt: skip
        data = saved(value, _use_new_zipfile_serialization=zipped)
        assert len(data) < 2000
        with pytest.raises(Broken, match=reason):
            to_row(load_state(data, "x.pth"), spec)


def pickled(*steps: bytes) -> bytes:
    return b"\x80\x02" + b"".join(steps) + b"."


NAME = b"ctorch._utils\n_rebuild_tensor\n"
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
MANY = NAME + b"(" + STORAGE + b"K\0(J\0\xca\x9a\x3bt(K\0ttR"  # a billion times the same number


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (pickled(NAME, b"(", STORAGE, b"K\0", MANY, b")tR"), "not a file of tensors"),  # as a shape
        (pickled(NAME, b"(", STORAGE, b"K\0(", 9 * b"K\x01", b"t(", 9 * b"K\x01", b"ttR"), "tensor of 9 dimensions"),
        (pickled(2**17 * b"}"), "more than 131072 steps"),
        (pickled(b"}\x8a\x08", (2**61 - 1).to_bytes(8, "little"), b"Ns"), "has a int as a key"),
        (pickled(b"(X\x07\0\0\0storage", 9 * b"N", b"tQ"), "not a file of tensors"),
        (pickled(b"ctorch\n_inductor\n"), "asks for torch._inductor"),
    ],
)
def test_programs_that_would_take_for_ever(program, reason):
    before = set(sys.modules)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as parts:
        parts.writestr("archive/data.pkl", program)
        parts.writestr("archive/data/0", bytes(4))
    with pytest.raises(ValueError, match=reason):
        load_state(data.getvalue(), "x.pth")
    assert set(sys.modules) == before
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    with pytest.raises(Broken, match=r"cut off|not a file of tensors"):
        load_state(magic + pickled(MANY), "x.pth")  # in place of the version, a number


def test_what_is_not_the_whole_tensor_is_refused():
    conjugate = torch.tensor([1 + 2j, 3 + 4j]).conj().imag  # saved with a sign that is still to be turned
    data = saved({"a": torch.ones(2)})
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        program = parts.read("archive/data.pkl")
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in parts.namelist():
            new.writestr(name, parts.read(name))
    for bad, reason in (
        (saved({"a": conjugate}), "in another way"), (program, "not a file of tensors"),
        (packed.getvalue(), "a compressed zip"),
    ):  # fmt: skip
        with pytest.raises(Broken, match=reason):
            load_state(bad, "x.pth")


def test_files_of_python_2_are_read():
    """Strings as bytes, and an OrderedDict as a list of pairs."""
    data = saved(OrderedDict(a=torch.ones(2)), _use_new_zipfile_serialization=False)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((U\7storagectorch\nFloatStorage\nU\1" + b"0U\3cpuK\2NtQ"
    tensor += b"K\0(K\2t(K\1t\x89ccollections\nOrderedDict\n)RtR"
    program = pickled(b"ccollections\nOrderedDict\n(]]U\1a" + b"a" + tensor + b"aatR")
    before = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    old = before + program + pickle.dumps(["0"], 2) + (2).to_bytes(8, "little")
    old += torch.ones(2).numpy().tobytes()
    for each in (data, old):
        assert torch.equal(load_state(each, "x.pth")["a"], torch.ones(2))


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}},
        {"a" + 5000 * "1" + ".weight": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}},
    ],
)
def test_safetensors_that_torch_has_nothing_for(header):
    text = json.dumps(header).encode()
    with pytest.raises(Broken, match="not a safetensors file that can be read"):
        load_state(struct.pack("<Q", len(text)) + text + bytes(4 * ("[4]" in str(header))), "x.safetensors")


def test_a_zip_is_what_its_own_directory_says():
    """Two directories: Python's zipfile reads the one before the end, torch the one that the end record names."""
    bad, good = (plain_zip(saved(each)) for each in ({"a": Call(bytearray, 9), "b": 999 * "x"}, {"a": torch.ones(2)}))
    (bad_members, bad_list), (members_of_good, good_list) = (split_zip(each) for each in (bad, good))
    moved, at = bytearray(good_list), 0
    while at < len(moved):  # zipfile adds what it takes for a preface to each place
        (place,) = struct.unpack("<L", moved[at + 42 : at + 46])
        struct.pack_into("<L", moved, at + 42, (place + len(bad_members) - len(members_of_good)) % 2**32)
        at += 46 + sum(struct.unpack("<HHH", moved[at + 28 : at + 34]))
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 2, 2, len(good_list), len(bad_members), 0)
    both = bad_members + bad_list + members_of_good + bytes(moved) + end
    assert torch.equal(load_state(both, "x.pth")["a"], torch.ones(2))


def plain_zip(data: bytes) -> bytes:
    """The pickle and the numbers of a saved file, in a zip without anything else."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(out, "w") as new:
        for name in ("archive/data.pkl", "archive/data/0"):
            new.writestr(zipfile.ZipInfo(name), parts.read(name) if name in parts.namelist() else b"")
    return out.getvalue()


def split_zip(data: bytes) -> tuple[bytes, bytes]:
    """Its members, and its directory."""
    size, place = struct.unpack("<LL", data[-10:-2])
    return data[:place], data[place : place + size]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_read_as_torch_reads_them(zipped, protocol):
    base = torch.arange(24.0).reshape(4, 6)
    net = torch.nn.BatchNorm1d(3)
    net.weight.note = "an attribute of a parameter"
    state = {
        "views": [base[1:, ::2], base.T, base[:0], torch.tensor(3.0), torch.zeros(0)], "label": 7, "none": None,
        "parts": {"big": 2**40, "text": "ü", "pair": (1, -2.5), "yes": True}, "net": net.state_dict(),
        "parameters": dict(net.named_parameters()), "device": torch.device("cpu"), "type": torch.float16,
        **{name: torch.tensor([0, 1, 5]).to(getattr(torch, name)) for name in (
            "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
        )},
    }  # fmt: skip
    data = saved(state, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = load_state(data, "x.pth")
    assert list(found) == list(state)
    leaves, wanted = (torch.utils._pytree.tree_leaves([each[k] for k in state if k not in ("device", "type")])
                      for each in (found, {**state, "net": dict(state["net"])}))  # fmt: skip
    assert len(leaves) == len(wanted)
    for one, other in zip(leaves, wanted, strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype if isinstance(other, torch.Tensor) else one == other
    for cut in range(0, len(data), 97):  # of a file of any length: an error of ours, never another
        with pytest.raises(Broken):
            load_state(data[:cut], "x.pth")


def test_what_people_save_is_read():
    net = NfnSiren()
    for state in (
        net.state_dict(), dict(net.named_parameters()), OrderedDict(net.state_dict()),
        {name: value.half() for name, value in net.state_dict().items()},
    ):  # fmt: skip
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(state, file, _use_new_zipfile_serialization=zipped)
            found = to_row(load_state(file.getvalue(), "x.pth"), NetworkSpec.parse("2-32-32-1:sine"))
            torch.testing.assert_close(
                torch.from_numpy(found), parameters_to_vector(net.parameters()).detach(), atol=1e-3, rtol=1e-3
            )


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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a file of tensors"),
        (b"junk" * 50, "not a file of tensors"),
        (saved({"a": torch.zeros(3)})[:300], "not a file of tensors"),
        (saved([torch.zeros(3)]), "holds a list"),
    ],
)
def test_damaged_files(data, reason):
    with pytest.raises(Broken, match=reason):
        load_state(data, "x.pth")


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
