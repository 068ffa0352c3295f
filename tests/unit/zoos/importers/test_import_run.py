"""What all importers share: going on after a kill, repeated networks, manifests, another zoo in the way."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from archives import NfnSiren, nfn_files, write_folder, write_tar

from nfbench.zoos.importers import NfnLayout, SmallCnnLayout, import_zoo, run
from nfbench.zoos.importers.tensors import load_state
from nfbench.zoos.store import read_zoo

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "import_zoo.py"


def same(first: Path, second: Path) -> bool:
    a, b = read_zoo(first), read_zoo(second)
    assert a.extra.keys() == b.extra.keys()
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("params", "index", "view", "label")
    ) and all(
        np.array_equal(a.extra[name], b.extra[name], equal_nan=a.extra[name].dtype.kind == "f") for name in a.extra
    )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """70 networks in a mixed order, one of them broken."""
    net = NfnSiren()
    order = np.random.default_rng(0).permutation(70).tolist()
    files = {}
    for i in order:
        net.net[2].bias.data.fill_(i)
        files |= nfn_files({(i % 10, i // 2, i % 2 - 1): net})
    files[sorted(files)[30]] = b"junk"
    return write_tar(tmp_path / "siren_mnist_wts.tar", files)


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MOST_ROWS", 16)


def test_an_import_goes_on_where_it_was_stopped(many, tmp_path, monkeypatch, capsys):
    small_blocks(monkeypatch)
    import_zoo(NfnLayout(many), tmp_path / "whole.h5")
    decoded = []

    class Stopped(NfnLayout):
        def row(self, name, data):
            if len(decoded) == 40:
                raise KeyboardInterrupt
            decoded.append(name)
            return super().row(name, data)

    with pytest.raises(KeyboardInterrupt):
        import_zoo(Stopped(many), tmp_path / "zoo.h5")
    assert "2 blocks of 16 networks are kept" in capsys.readouterr().err
    assert not (tmp_path / "zoo.h5").exists()
    first, decoded[:] = list(decoded), []
    line = import_zoo(Stopped(many), tmp_path / "zoo.h5")
    assert "69 networks" in line
    assert "(2 blocks kept from an earlier import), 1 broken" in line
    assert not set(first[:32]) & set(decoded), "blocks that are there are not read again"
    assert same(tmp_path / "zoo.h5", tmp_path / "whole.h5")
    assert not (tmp_path / "zoo.h5.partial").exists()
    data = read_zoo(tmp_path / "zoo.h5")
    pairs = list(zip(data.index.tolist(), data.view.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert data.params[:, -1].tolist() == [2 * index + view for index, view in pairs]


def test_kill_minus_nine(many, tmp_path, monkeypatch):
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from nfbench.zoos.importers import NfnLayout, import_zoo, run\n"
        "run.MOST_ROWS = 16\n"
        "class Killed(NfnLayout):\n    count = 0\n    def row(self, name, data):\n        Killed.count += 1\n"
        "        if Killed.count == 40:\n            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().row(name, data)\n"
        "import_zoo(Killed(Path(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(many), str(tmp_path / "zoo.h5")],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((tmp_path / "zoo.h5.partial").glob("chunk-*"))) == 2
    small_blocks(monkeypatch)
    assert "2 blocks kept" in import_zoo(NfnLayout(many), tmp_path / "zoo.h5")
    import_zoo(NfnLayout(many), tmp_path / "whole.h5")
    assert same(tmp_path / "zoo.h5", tmp_path / "whole.h5")


def test_another_archive_does_not_go_on(many, tmp_path, monkeypatch):
    small_blocks(monkeypatch)

    class Stopped(NfnLayout):
        def row(self, name, data):
            if name.endswith("net1.pth"):
                raise KeyboardInterrupt
            return super().row(name, data)

    with pytest.raises(KeyboardInterrupt):
        import_zoo(Stopped(many), tmp_path / "zoo.h5")
    content = bytearray(many.read_bytes())
    content[-1] ^= 1
    many.write_bytes(content)
    with pytest.raises(ValueError, match=r"unfinished build of another zoo[^$]*sha256: asked for"):
        import_zoo(NfnLayout(many), tmp_path / "zoo.h5")


def test_the_same_import_again_and_another_in_the_way(many, tmp_path):
    out = tmp_path / "zoo.h5"
    import_zoo(NfnLayout(many), out)
    before = out.read_bytes()
    assert "is there already: the same import of the same files, 69 networks" in import_zoo(NfnLayout(many), out)
    with pytest.raises(ValueError, match="is another zoo or damaged"):
        import_zoo(NfnLayout(many, source="fashion"), out)
    assert out.read_bytes() == before
    with h5py.File(out, "r+") as file:
        said = json.loads(file.attrs["manifest"])
        file.attrs["manifest"] = json.dumps({key: value for key, value in said.items() if key != "split"})
    with pytest.raises(ValueError, match=r"an older version of nfbench \(it lacks split\).*Move it away"):
        import_zoo(NfnLayout(many), out)
    out.write_bytes(b"hello")
    with pytest.raises(ValueError, match="is another zoo or damaged"):
        import_zoo(NfnLayout(many), out)


def test_strict_does_not_take_what_was_imported_without_it(many, tmp_path):
    import_zoo(NfnLayout(many), tmp_path / "zoo.h5")
    with pytest.raises(ValueError, match=r"there already, without 1 networks that are broken, and strict allows none"):
        import_zoo(NfnLayout(many), tmp_path / "zoo.h5", strict=True)


def test_a_damaged_chunk_that_was_deleted_is_read_again(many, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    import_zoo(NfnLayout(many), tmp_path / "whole.h5")
    assemble = run.PartialImport.assemble
    monkeypatch.setattr(run.PartialImport, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        import_zoo(NfnLayout(many), tmp_path / "zoo.h5")
    monkeypatch.setattr(run.PartialImport, "assemble", assemble)
    chunk = tmp_path / "zoo.h5.partial" / "chunk-00001.npz"
    chunk.write_bytes(chunk.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"chunk-00001\.npz is damaged .*delete this file and run again"):
        import_zoo(NfnLayout(many), tmp_path / "zoo.h5")
    chunk.unlink()
    assert "(1 blocks kept" in import_zoo(NfnLayout(many), tmp_path / "zoo.h5")
    assert same(tmp_path / "zoo.h5", tmp_path / "whole.h5")


def test_repeated_networks(tmp_path, nfn_nets, capsys):
    files = nfn_files(nfn_nets)
    again = nfn_files({(3, 5, -1): NfnSiren()}, "other")  # image 5, view 0 under another label
    path = write_tar(tmp_path / "siren_mnist_wts.tar", files | again)
    line = import_zoo(NfnLayout(path), tmp_path / "zoo.h5")
    assert "6 networks" in line
    assert "1 broken" in line
    assert "index 5, view 0: comes again; the first is kept" in capsys.readouterr().err
    data = read_zoo(tmp_path / "zoo.h5")
    assert data.label[data.index == 5].tolist() == [7, 7]
    with pytest.raises(ValueError, match="1 networks are broken, and strict allows none"):
        import_zoo(NfnLayout(path), tmp_path / "strict.h5", strict=True)


def test_manifest_of_an_archive(many, tmp_path):
    import_zoo(NfnLayout(many), tmp_path / "zoo.h5")
    side = json.loads((tmp_path / "zoo.manifest.json").read_text())
    sha = hashlib.sha256(many.read_bytes()).hexdigest()
    assert side["import"]["sha256"] == sha
    assert side["networks"] == 69
    assert len(side["broken"]) == 1
    assert side["broken"][0].endswith("is not a file of tensors, or damaged")
    data = read_zoo(tmp_path / "zoo.h5")
    assert data.manifest["import"] == side["import"]
    assert data.manifest["broken_first"] == side["broken"]
    assert data.manifest["num_networks"] == 69
    assert data.attributes["origin"] == f"imported from siren_mnist_wts.tar ({sha[:12]})"


def test_manifest_of_a_folder(nfn_nets, small_cnn, tmp_path):
    files = nfn_files(nfn_nets)
    folder = write_folder(tmp_path / "mnist", files)
    import_zoo(NfnLayout(folder), tmp_path / "zoo.h5")
    side = json.loads((tmp_path / "zoo.manifest.json").read_text())
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}" for name in sorted(files)]
    assert sorted(side["files"]) == sorted(lines)
    combined = hashlib.sha256("".join(f"{line}\n" for line in side["files"]).encode()).hexdigest()
    assert side["import"]["sha256"] == combined
    cnns = small_cnn()
    import_zoo(SmallCnnLayout(cnns), tmp_path / "cnn.h5")
    side = json.loads((tmp_path / "cnn.manifest.json").read_text())
    assert f"{hashlib.sha256((cnns / 'weights.npy').read_bytes()).hexdigest()}  weights.npy" in side["files"]


def test_resuming_a_memory_mapped_zoo(small_cnn, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    folder = small_cnn(runs=25)
    import_zoo(SmallCnnLayout(folder, step=None), tmp_path / "whole.h5")

    class Stopped(SmallCnnLayout):
        def blocks(self, rows, skip):
            for number, block in enumerate(super().blocks(rows, skip)):
                if number == 3:
                    raise KeyboardInterrupt
                yield block

    with pytest.raises(KeyboardInterrupt):
        import_zoo(Stopped(folder, step=None), tmp_path / "zoo.h5")
    assert "3 blocks kept" in import_zoo(SmallCnnLayout(folder, step=None), tmp_path / "zoo.h5")
    assert same(tmp_path / "zoo.h5", tmp_path / "whole.h5")


def test_no_network_at_all(tmp_path):
    path = write_tar(tmp_path / "mnist.tar", {"README": b"hello"})
    with pytest.raises(ValueError, match=r"no file has the name of a network.\nThis layout has files such as"):
        import_zoo(NfnLayout(path), tmp_path / "zoo.h5")


def run_script(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)


def test_script(many, tmp_path):
    done = run_script("nfn", many, "--out", tmp_path / "zoo.h5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"imported {tmp_path / 'zoo.h5'}: 69 networks of 2-32-32-1:sine, 1 broken, 0 other files"
    )
    assert done.stdout.count("\n") == 1
    done = run_script("nfn", many, "--out", tmp_path / "strict.h5", "--strict")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_script_help():
    done = run_script("small_cnn", "--help")
    assert done.returncode == 0
    for option in ("--strict", "--step", "--split-csv", "--activation"):
        assert option in done.stdout


def test_pickle_names_are_in_the_message(tmp_path):
    with pytest.raises(ValueError, match=r"a/b\.pth"):
        load_state(b"cos\nsystem\n(S'echo'\ntR.", "a/b.pth")
