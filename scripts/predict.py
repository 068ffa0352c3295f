"""Applies a trained model to networks of your own.

python scripts/predict.py checkpoint=outputs/inr_cls/nft-siren_digits-seed0-1a2b3c4d network=my_net.pth
python scripts/predict.py checkpoint=best.ckpt network=a.pth,b.safetensors      # several
python scripts/predict.py checkpoint=best.ckpt network=data/zoos/NAME.h5 index=3 view=0

checkpoint  a run folder (its best epoch is taken) or a .ckpt file of one
network     state dicts (.pth, .pt, .safetensors) or a zoo (.h5), separated by commas or given again; nothing in them
            is run
index       of a zoo: whose networks, separated by commas; view: which of an item's networks (all)
out         folder for edited networks, pictures and latents (.)
encoder     task=inr2array_cls: run folder of the encoder, if it was moved since the training

What it gives: inr_cls, inr2array_cls: probabilities of the classes; cnn_gen: the predicted test accuracy; inr_edit: the
edited network and a picture of before and after; inr2array: the latent vectors. docs/predict.md says which networks can
be read.
"""

import re
import sys
from pathlib import Path
from typing import Any

KEYS = ("checkpoint", "network", "index", "view", "out", "encoder")
SHOWN = 3  # classes that are printed


def read_arguments(words: list[str]) -> dict[str, list[str]]:
    """key=value words; values are split at commas, and a key may come again.

    Raises:
        ValueError: another word, or a key that is missing.
    """
    given: dict[str, list[str]] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in KEYS or not value:
            raise ValueError(f"{word!r} is not understood: write key=value, with a key of {', '.join(KEYS)}")
        given.setdefault(key, []).extend(value.split(","))
    for key in ("checkpoint", "network"):
        if key not in given:
            raise ValueError(f"{key}=... is missing; --help shows examples")
    if several := [key for key in ("checkpoint", "view", "out", "encoder") if len(given.get(key, [])) > 1]:
        raise ValueError(f"{several[0]} takes one value, not {','.join(given[several[0]])}")
    if wrong := [value for key in ("index", "view") for value in given.get(key, []) if not value.isdecimal()]:
        raise ValueError(f"index and view are whole numbers, not {wrong[0]!r}")
    return given


def said(prediction: Any, trained: Any, out: Path) -> str:
    """What to print of a prediction; files are written to the folder `out`."""
    network = prediction.network
    stem = re.sub(r"[^\w.-]+", "-", network.name).replace(".h5", "").removesuffix(Path(network.name).suffix or " ")
    if prediction.probabilities is not None:
        values, classes = prediction.probabilities.topk(min(SHOWN, len(prediction.probabilities)))
        first, *others = (f"{c} ({100 * p:.1f} %)" for p, c in zip(values.tolist(), classes.tolist(), strict=True))
        return f"class {first}, then {', '.join(others)}"
    if prediction.accuracy is not None:
        return f"predicted test accuracy {100 * prediction.accuracy:.2f} %"
    out.mkdir(parents=True, exist_ok=True)
    if prediction.latents is not None:
        import numpy as np

        path = free(out / f"{stem}-latents.npy")
        np.save(path, prediction.latents.numpy())
        count, width = prediction.latents.shape
        return f"{count} latent vectors of {width}, written to {path}"
    return write_edited(prediction, trained, out, stem)


def free(path: Path) -> Path:
    """This path, or one with a number where a file is there already, of another network or of an earlier command."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def write_edited(prediction: Any, trained: Any, out: Path, stem: str) -> str:
    """The edited network as a state dict, and what it draws beside what the network drew before."""
    import torch
    from safetensors.torch import save_file

    network, reader = prediction.network, trained.reader
    state = network.with_weights(reader.spec, prediction.weights)
    path = free(out / f"{stem}-edited{'.safetensors' if network.name.endswith('.safetensors') else '.pth'}")
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    text = f"{trained.saved['task']['edit']}, written to {path}"
    if not reader.draws:
        return f"{text}; no picture: it is not known what these networks show"
    import numpy as np
    from PIL import Image

    pictures = reader.render(torch.stack([network.raw, prediction.weights])).numpy()  # (2, H, W, channels)
    zoom = max(1, 160 // pictures.shape[1])
    both = np.concatenate([np.rint(255 * each).astype(np.uint8) for each in pictures], axis=1)
    picture = path.with_suffix(".png")
    Image.fromarray(np.squeeze(both).repeat(zoom, 0).repeat(zoom, 1)).save(picture)
    return f"{text}; before and after: {picture}"


def main(words: list[str]) -> None:
    """Prints a line a network.

    Raises:
        ValueError: for what the person who typed the command can put right.
    """
    given = read_arguments(words)
    from nfbench.config.trained import load_trained  # here, so that --help and typos answer at once
    from nfbench.predict import predict, read_file

    encoder = given.get("encoder", [None])[0]
    trained = load_trained(Path(given["checkpoint"][0]), Path(encoder) if encoder else None)
    print(trained.describe())
    index, view = [int(value) for value in given.get("index", [])], given.get("view")
    networks = [
        network
        for name in given["network"]
        for network in read_file(Path(name), trained, index, int(view[0]) if view else None)
    ]
    for prediction in predict(trained, networks):
        print(f"{prediction.network.name}: {said(prediction, trained, Path(given.get('out', ['.'])[0]))}")
        for note in prediction.notes:
            print(f"  note: {note}")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
