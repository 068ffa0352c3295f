"""What a SIREN zoo is made of: the recipe, its canonical JSON and hash, and the published recipes by name."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # of Adam: parts of every recipe, for both fitters
INITS = ("siren", "uniform")
BIAS_INITS = ("default", "zero")
GRIDS = ("ij", "xy")


@dataclass(frozen=True)
class SirenRecipe:
    """Everything that decides the weights of a SIREN fitted to an image, beside the image, its index and the view.

    The network is ``h_1 = sin(w0_first (W_1 x + b_1))``, ``h_i = sin(w0_hidden (W_i h_{i-1} + b_i))``, and linear at
    the end, plus ``output_offset``. It is fitted to all pixels of its image at once by Adam on the mean squared error.

    Attributes:
        widths: hidden widths.
        w0_first, w0_hidden: frequencies of the sines.
        init: ``siren``: first layer U(+-1/in), all others U(+-sqrt(6/in)/w0_hidden); ``uniform``: no special first
            layer (U(+-sqrt(6/in)/w0)), last layer as in ``torch.nn.Linear``, U(+-1/sqrt(in)).
        init_scale: factor on the random start of all weights and biases after the first layer. Small starts leave less
            of the randomness in the fitted weights, so networks of like images are more alike.
        bias_init: ``default`` as in ``torch.nn.Linear``, U(+-1/sqrt(in)); ``zero``: zeros in the sine layers, and the
            linear last layer as in ``torch.nn.Linear``.
        output_offset: added to the last layer's output.
        pixel_min, pixel_max: the targets' range; images in [0, 1] are mapped to it linearly.
        grid: ``ij``: the first coordinate goes down the rows; ``xy``: along the columns. From -1 to 1.
        optimizer: ``adam`` (betas 0.9 and 0.999, eps 1e-8), the only one.
        lr, num_steps: step size; number of full-batch steps.
        stop_psnr: a network is done at this PSNR in dB (peak 1, on [0, 1] pixels); None: never.
        seed: of the random inits.
        dtype: of the fit.
    """

    widths: tuple[int, ...]
    w0_first: float = 30.0
    w0_hidden: float = 30.0
    init: str = "siren"
    init_scale: float = 1.0
    bias_init: str = "default"
    output_offset: float = 0.0
    pixel_min: float = 0.0
    pixel_max: float = 1.0
    grid: str = "ij"
    optimizer: str = "adam"
    lr: float = 5e-4
    num_steps: int = 1000
    stop_psnr: float | None = None
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(w) for w in self.widths))
        if not 1 <= len(self.widths) <= 8 or not all(1 <= w <= 4096 for w in self.widths):
            raise ValueError(f"zoo.widths={list(self.widths)}: give 1 to 8 hidden widths between 1 and 4096.")
        for name, allowed in (
            ("init", INITS),
            ("bias_init", BIAS_INITS),
            ("grid", GRIDS),
            ("optimizer", ("adam",)),
            ("dtype", ("float32",)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"zoo.{name}={value!r} is not known. Choose one of: {', '.join(allowed)}.")
        for name in ("w0_first", "w0_hidden", "init_scale", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"zoo.{name}={value} must be a positive number.")
        for name in ("output_offset", "pixel_min", "pixel_max", "stop_psnr"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"zoo.{name}={value} must be a finite number.")
        if self.num_steps < 0:
            raise ValueError(f"zoo.num_steps={self.num_steps} must be 0 or more.")
        if not self.pixel_max > self.pixel_min:
            raise ValueError(f"zoo.pixel_max={self.pixel_max} must be above zoo.pixel_min={self.pixel_min}.")

    @property
    def stop_mse(self) -> float:
        """``stop_psnr`` as a mean squared error in the targets' range; -1 for never."""
        if self.stop_psnr is None:
            return -1.0
        return 10 ** (-self.stop_psnr / 10) * (self.pixel_max - self.pixel_min) ** 2

    def to_plain(self) -> dict[str, Any]:
        """A dict that JSON gives back unchanged: whole numbers given for real ones are made real, tuples lists."""
        values = {**asdict(self), "widths": list(self.widths)}
        return {k: float(v) if isinstance(v, int) and k in _FLOATS else v for k, v in values.items()}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal recipes give equal text."""
        return json.dumps(self.to_plain(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


_FLOATS = {f.name for f in fields(SirenRecipe) if f.type in ("float", "float | None")}

# The recipes that `definition` names. `nfn`: Zhou et al., Permutation Equivariant Neural Functionals, arXiv
# 2302.14040, appendix D.3. `dws`: Navon et al., DWSNets, arXiv 2301.12780, as the authors state it, with the grid and
# initialisation of their public code. It leaves weights up to 50 % smaller than those they published; `dws_mnist` and
# `dws_fashion` have the step size and number of steps that reproduce the published statistics (docs/zoos.md).
# `digits` is ours: small, quick to fit to 8x8 images, easy to classify after canonicalisation.
_DWS = {
    "widths": (32, 32),
    "init": "uniform",
    "bias_init": "zero",
    "output_offset": 0.5,
    "grid": "xy",
    "stop_psnr": 40.0,
}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "digits": {
        "widths": (8, 8),
        "w0_first": 10.0,
        "w0_hidden": 5.0,
        "init_scale": 0.1,
        "lr": 5e-3,
        "num_steps": 200,
    },
    "nfn": {
        "widths": (32, 32),
        "pixel_min": -1.0,
        "pixel_max": 1.0,
        "lr": 5e-5,
        "num_steps": 5000,
    },
    "dws": {**_DWS, "lr": 5e-4, "num_steps": 1000},
    "dws_mnist": {**_DWS, "lr": 1e-3, "num_steps": 1500},
    "dws_fashion": {**_DWS, "lr": 5e-4, "num_steps": 10_000},
    "shapes": {  # NFN's 3-D shapes: width, Adam and steps as stated there; w0, lr and init_scale are ours
        "widths": (128,),
        "w0_first": 10.0,
        "w0_hidden": 10.0,
        "init_scale": 0.1,
        "lr": 5e-3,
        "num_steps": 1000,
    },
}


def make_recipe(definition: str, **overrides: Any) -> tuple[SirenRecipe, str]:
    """The recipe that ``definition`` names with some fields replaced, and a label that shows what was replaced.

    Args:
        definition: a key of `DEFINITIONS`, or ``custom`` (all fields' own defaults; ``widths`` must be given).
        overrides: fields of `SirenRecipe`; None means "as the definition says". ``stop_psnr=0`` means never.

    Returns:
        recipe, and a label such as ``dws`` or ``dws+num_steps=200``; the seed is not part of the label.

    Raises:
        ValueError: unknown definition or value.
    """
    if definition not in DEFINITIONS and definition != "custom":
        allowed = ", ".join([*DEFINITIONS, "custom"])
        raise ValueError(f"zoo.definition={definition!r} is not known. Choose one of: {allowed}.")
    base = DEFINITIONS.get(definition, {})
    given = {k: v for k, v in overrides.items() if v is not None}
    if given.get("stop_psnr") == 0:
        given["stop_psnr"] = None
    if definition == "custom" and "widths" not in given:
        raise ValueError("zoo.definition=custom needs zoo.widths, for example zoo.widths=[32,32].")
    recipe = SirenRecipe(**{**base, **given})
    if definition == "custom":
        return recipe, "custom"
    plain = SirenRecipe(**{**base, "seed": recipe.seed})
    changed = [f.name for f in fields(SirenRecipe) if getattr(plain, f.name) != getattr(recipe, f.name)]
    return recipe, "+".join([definition, *(f"{name}={_show(getattr(recipe, name))}" for name in changed)])


def _show(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
