"""State dicts from strangers: what is read, what is refused, and that no pickle runs code or takes memory."""

import codecs
import io
import json
import pickle
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from archives import NfnSiren, nfn_files, saved, write_tar
from torch.nn.utils import parameters_to_vector

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.importers import NfnLayout, import_zoo
from nfbench.zoos.importers.common import Broken
from nfbench.zoos.importers.tensors import load_state, to_row

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


NAME = b"ctorch._utils\n_rebuild_tensor\n"
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ"
MANY = NAME + b"(" + STORAGE + b"K\0(J\0\xca\x9a\x3bt(K\0ttR"  # a billion times the same number


def pickled(*steps: bytes) -> bytes:
    return b"\x80\x02" + b"".join(steps) + b"."


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
    assert not [name for name in sys.modules.keys() - before if name.startswith("torch")], "nothing is looked up"
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
