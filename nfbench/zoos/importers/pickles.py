"""What `torch.save` wrote, read without running anything: dicts, lists, tensors and plain values.

A pickle is a program. torch's restricted unpickler (``weights_only=True``) runs no code of strangers, but through the
functions and classes that it allows, a few bytes ask for any amount of memory. Here the program is followed instruction
by instruction, and there is nothing that it could call: the few names that state dicts use stand for what this module
does in their place. Numbers take the memory that they have in the file, and the program has a limited length.
"""

from __future__ import annotations

import io
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from nfbench.zoos.importers.common import MAX_BYTES, Broken

_DTYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip
_DICT = "collections.OrderedDict"
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_BESIDE = ("torch.Size", "torch.device")  # may stand beside the tensors, and are read as nothing

# What torch's restricted unpickler allows besides: no code of strangers, and nothing that a state dict needs.
_NEEDLESS = re.compile(
    r"torch(\.\w+)*\.\w*(Tensor|Storage)|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout|torch\.per_\w+"
    r"|collections\.Counter|(builtins|__builtin__)\.(bytearray|set|complex)|_codecs\.encode"
)
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's format before the zip
_MOST_STEPS = 2**17  # of one pickle: a tensor takes about 25
_MOST_DIMS = 8
_DAMAGED = "is not a file of tensors, or damaged"

T = TypeVar("T")
Memory = Callable[[str, int, int], bytearray]  # of a key, with so many numbers of so many bytes


class CodeError(ValueError):
    """A pickle that asks for something that would run code where pickles are trusted."""


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle asks for; it is never looked up."""

    dotted: str


@dataclass(frozen=True)
class _Storage:
    """The numbers behind tensors."""

    memory: bytearray
    count: int
    dtype: torch.dtype


def load(data: bytes) -> object:
    """The object in a file of `torch.save`, of the zip or the older format.

    Raises:
        CodeError: it asks for something that would run code where pickles are trusted.
        Broken: too large, cut off, or with what no state dict needs; damage may raise other errors too.
    """
    return _load_zip(data) if data.startswith(b"PK") else _load_old(data)


def _load_zip(data: bytes) -> object:
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        if sum(part.file_size for part in parts.infolist()) > MAX_BYTES:
            raise Broken("unpacks to more than a network may have")
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):  # could be longer than it says
            raise Broken("is a compressed zip, which torch doesn't write")
        names = parts.namelist()
        (program,) = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        folder = program.removesuffix("data.pkl")
        order = parts.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in names else "little"
        _check_order(order == "little")
        known: dict[str, bytearray] = {}

        def memory(key: str, count: int, size: int) -> bytearray:
            if key not in known:
                known[key] = bytearray(parts.read(f"{folder}data/{key}"))
            if count * size > len(known[key]):
                raise Broken("is cut off: it has fewer numbers than its tensors")
            return known[key]

        return _follow(io.BytesIO(parts.read(program)), memory)


def _load_old(data: bytes) -> object:
    stream = io.BytesIO(data)
    known: dict[str, tuple[bytearray, int]] = {}
    left = len(data)

    def memory(key: str, count: int, size: int) -> bytearray:  # its numbers come behind the program
        nonlocal left
        if key not in known:
            left -= count * size
            if left < 0:
                raise Broken("is cut off: it has fewer numbers than its tensors")
            known[key] = bytearray(count * size), count
        if count * size > len(known[key][0]):
            raise Broken(_DAMAGED)
        return known[key][0]

    first = _follow(stream, memory)
    if not isinstance(first, int) or first != _MAGIC:
        if known:
            raise Broken(_DAMAGED)  # its numbers are in another file
        return first  # a plain pickle
    if _of(_follow(stream, memory), int) != _PROTOCOL:
        raise Broken(_DAMAGED)
    machine = _of(_follow(stream, memory), dict)
    _check_order(machine.get("little_endian") is True)
    if known:
        raise Broken(_DAMAGED)
    state, keys = _follow(stream, memory), _of(_follow(stream, memory), list)
    if {_of(key, str) for key in keys} != set(known):
        raise Broken(_DAMAGED)
    for key in keys:
        numbers, count = known[key]
        if int.from_bytes(stream.read(8), "little") != count or stream.readinto(numbers) != len(numbers):
            raise Broken("is cut off: it has fewer numbers than its tensors")
    return state


def _check_order(little: bool) -> None:
    if little != (sys.byteorder == "little"):
        raise Broken("was saved with another order of bytes than this machine has")


def _follow(stream: io.BytesIO, memory: Memory) -> object:
    """What the next pickle of a stream makes, by the instructions that `torch.save` writes and no others."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(count: int) -> list[Any]:
        start = len(stack) - count
        if start < 0:
            raise Broken(_DAMAGED)
        found = stack[start:]
        del stack[start:]
        return found

    def since_mark() -> list[Any]:
        return pop(len(stack) - marks.pop())

    value: Any
    for step, (code, value, _) in enumerate(pickletools.genops(stream)):
        if step == _MOST_STEPS:
            raise Broken(f"has a pickle of more than {_MOST_STEPS} steps, more than a network takes")
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(code.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(code.name[-1]))))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(value)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING":  # the last one in files of Python 2
                stack.append(value)
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "APPEND" | "APPENDS":
                items = since_mark() if code.name == "APPENDS" else pop(1)
                _of(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if code.name == "SETITEMS" else pop(2)
                _set_items(_of(stack[-1], dict), items)
            case "GLOBAL":
                stack.append(_name(value.replace(" ", ".")))
            case "STACK_GLOBAL":
                stack.append(_name(".".join(_of(part, str) for part in pop(2))))
            case "BINPERSID":
                stack.append(_storage(_of(pop(1)[0], tuple), memory))
            case "REDUCE":
                function, arguments = pop(2)
                stack.append(_call(_of(function, _Name).dotted, _of(arguments, tuple)))
            case "BUILD":  # attributes of a dict, such as the versions of its modules
                pop(1)
                _of(stack[-1], dict)
            case _:
                raise Broken(f"has the instruction {code.name} in its pickle, which no state dict needs")
    raise Broken(_DAMAGED)


def _of(value: object, wanted: type[T]) -> T:
    if not isinstance(value, wanted):
        raise Broken(_DAMAGED)
    return value


def _set_items(found: dict[object, object], items: Sequence[object]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashing a tuple of tuples can take for ever, and large numbers can have one hash.
        if not isinstance(key, (str, int, type(None))) or (isinstance(key, int) and abs(key) >= 2**53):
            raise Broken(f"has a {type(key).__name__} as a key, where the name of a tensor should be")
        found[key] = value


def _name(dotted: str) -> _Name:
    if dotted in (_DICT, *_TENSORS, *_PARAMETERS, *_BESIDE, *_DTYPES):
        return _Name(dotted)
    if isinstance(vars(torch).get(dotted.removeprefix("torch.")), torch.dtype):
        return _Name(dotted)  # beside the tensors
    if _NEEDLESS.fullmatch(dotted):
        raise Broken(f"asks for {dotted} when it is loaded, which no state dict needs")
    raise CodeError(f"it asks for {dotted}")


def _storage(given: tuple[Any, ...], memory: Memory) -> _Storage:
    if len(given) not in (5, 6):
        raise Broken(_DAMAGED)
    kind, name, key, _, count, *view = given
    if _of(kind, str) != "storage":
        raise CodeError(f"it asks for a {kind}")
    dtype = _DTYPES.get(_of(name, _Name).dotted)
    if dtype is None or view not in ([], [None]) or _of(count, int) < 0:
        raise Broken(_DAMAGED)
    return _Storage(memory(_of(key, str), count, dtype.itemsize), count, dtype)


def _call(function: str, arguments: tuple[Any, ...]) -> object:
    """What a function of `torch.save` would return."""
    if function == _DICT and len(arguments) < 2:
        found: dict[object, object] = {}
        for pair in _of(arguments[0], list) if arguments else ():  # in files of Python 2
            if len(_of(pair, list)) != 2:
                raise Broken(_DAMAGED)
            _set_items(found, pair)
        return found
    if function in _TENSORS and not (len(arguments) > 6 and _of(arguments[6], dict)):  # 6: a sign to be turned, ...
        return _tensor(*arguments[:4])
    if function in _PARAMETERS:
        return _of(arguments[0], Tensor)
    if function in _BESIDE:
        return None
    raise Broken(f"calls {function} in another way than a state dict does")


def _tensor(storage: object, offset: object, shape: object, strides: object) -> Tensor:
    numbers, offset, shape, strides = _of(storage, _Storage), _of(offset, int), _of(shape, tuple), _of(strides, tuple)
    if len(shape) > _MOST_DIMS:
        raise Broken(f"has a tensor of {len(shape)} dimensions")
    sizes = [(_of(size, int), _of(stride, int)) for size, stride in zip(shape, strides, strict=True)]
    empty = any(size == 0 for size, _ in sizes)
    end = offset + sum((size - 1) * stride for size, stride in sizes) + 1
    if min([offset, *(number for pair in sizes for number in pair)]) < 0 or (end > numbers.count and not empty):
        raise Broken("is cut off: it has fewer numbers than its tensors")
    if empty:
        return torch.empty(shape, dtype=numbers.dtype)
    return torch.frombuffer(numbers.memory, dtype=numbers.dtype, count=numbers.count).as_strided(shape, strides, offset)
