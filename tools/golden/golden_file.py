"""Encoding and writing of golden files: small JSON records that our tests read as truth from outside."""

import base64
import contextlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

PACKAGES = Path(__file__).resolve().parents[2] / "packages"
SHARED_DATA = Path(os.environ.get("BLOCKWISE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def array(tensor: torch.Tensor) -> dict:
    """A float32 tensor as {shape, float32}: `float32` is base64 of its little-endian bytes in row-major order."""
    values = tensor.detach().to(torch.float32).contiguous().numpy().astype("<f4")
    return {"shape": list(values.shape), "float32": base64.b64encode(values.tobytes()).decode("ascii")}


def number(value) -> float:
    """A float32 value as the shortest decimal that reads back to the same float32."""
    return float(str(np.float32(value.item() if isinstance(value, torch.Tensor) else value)))


def numbers(values) -> list:
    """`number` for each element of a one-dimensional sequence or tensor."""
    return [number(v) for v in values]


def versions(*packages: str) -> dict:
    """Versions of Python, torch and the named packages, as a golden's `versions`."""
    return {"python": platform.python_version(), "torch": torch.__version__, **{p: version(p) for p in packages}}


def write(package: str, name: str, record: dict) -> None:
    """Writes `packages/<package>/src/golden/<name>`, aside first, one top-level field (or list item, or case) a line."""
    path = PACKAGES / package / "src" / "golden" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".json.part")
    aside.write_text(_lines(record) + "\n", encoding="utf-8")
    os.replace(aside, path)
    print(f"{path.relative_to(PACKAGES.parent)}: {path.stat().st_size:,} bytes")


def _lines(value, depth: int = 0) -> str:
    nested = isinstance(value, dict) and depth < 1 or isinstance(value, list) and value and isinstance(value[0], dict)
    if not nested:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_lines(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n}"
    return "[\n" + ",\n".join(_lines(item, depth + 1) for item in value) + "\n]"


@contextlib.contextmanager
def exact_products(wanted: bool = True):
    """Linear layers multiply in float64 and round once: the same mathematics with other rounding, to see what hangs on it."""
    plain = torch.nn.functional.linear

    def exact(x, weight, bias=None):
        return plain(x.double(), weight.double(), None if bias is None else bias.double()).to(x.dtype)

    if wanted:
        torch.nn.functional.linear = exact
    try:
        yield
    finally:
        torch.nn.functional.linear = plain
