"""Min-max quantisation and fake quantisation by torch, ternary weights and packing by transformers
-> packages/quantization/src/golden/quantization-formats.json.

Run: python tools/golden/quantization_formats.py
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # transformers' functions are decorated with torch.compile

import torch
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver
from transformers.integrations.bitnet import ActQuant, WeightQuant, pack_weights

from golden_file import array, versions, write

ROWS, COLUMNS, GROUP = 6, 16, 8
RANGES = {8: (-128, 127), 4: (-8, 7)}


def weight() -> torch.Tensor:
    """Rows of very different range: all positive, all negative, all zero, one outlier, two ordinary ones."""
    values = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    values[0] = values[0].abs() + 0.5
    values[1] = -values[1].abs()
    values[2] = 0
    values[3, 5] = 40
    return values


def min_max(bits: int, symmetric: bool, granularity: str) -> dict:
    """Scale, zero point, codes and meaning of the weight, by the observer that torch's quantisation uses for it."""
    low, high = RANGES[bits]
    blocks = weight().reshape(-1, GROUP) if granularity == "group" else weight()
    options = dict(dtype=torch.qint8, quant_min=low, quant_max=high)
    if granularity == "tensor":
        scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
        observer = MinMaxObserver(qscheme=scheme, **options)
    else:
        scheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
        observer = PerChannelMinMaxObserver(ch_axis=0, qscheme=scheme, **options)
    observer(blocks)
    scale, zero_point = observer.calculate_qparams()
    if granularity == "tensor":
        meaning = torch.fake_quantize_per_tensor_affine(blocks, scale.item(), int(zero_point.item()), low, high)
    else:
        meaning = torch.fake_quantize_per_channel_affine(blocks, scale, zero_point.to(torch.int32), 0, low, high)
    codes = torch.round(meaning / scale.reshape(-1, 1)) + zero_point.reshape(-1, 1)
    shape = {"tensor": (1, 1), "channel": (ROWS, 1), "group": (ROWS, COLUMNS // GROUP)}[granularity]
    return {
        "bits": bits,
        "symmetric": symmetric,
        "granularity": granularity,
        "scale": array(scale.reshape(shape)),
        "zeroPoint": zero_point.reshape(shape).int().tolist(),
        "codes": codes.reshape(ROWS, COLUMNS).int().tolist(),
        "meaning": array(meaning.reshape(ROWS, COLUMNS)),
    }


def fake_quantize(name: str, bits: int, scale: list, zero_point: list) -> dict:
    """Value and gradient of torch's fake quantisation; some values are clamped, some lie halfway between two codes."""
    low, high = RANGES[bits]
    x = torch.linspace(-9, 9, 8 * 25).reshape(8, 25)
    x[:, :9] = (torch.arange(-4, 5) + 0.5) * 0.5
    x.requires_grad_(True)
    if len(scale) == 1:
        y = torch.fake_quantize_per_tensor_affine(x, scale[0], zero_point[0], low, high)
    else:
        points = torch.tensor(zero_point, dtype=torch.int32)
        y = torch.fake_quantize_per_channel_affine(x, torch.tensor(scale), points, 0, low, high)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    y.backward(upstream)
    assert 0.05 < (x.grad == 0).float().mean() < 0.95, "some values must be clamped and some not"
    return {
        "name": name, "bits": bits, "scale": scale, "zeroPoint": zero_point,
        "x": array(x), "y": array(y), "upstream": array(upstream), "gradient": array(x.grad),
    }


def bitnet(rows: int) -> dict:
    generator = torch.Generator().manual_seed(rows)
    w = torch.randn(rows, 5, generator=generator).requires_grad_(True)
    x = (3 * torch.randn(4, 7, generator=generator)).detach()
    x[2] = 0
    x.requires_grad_(True)
    ternary, rounded = WeightQuant.apply(w), ActQuant.apply(x)
    (ternary.sum() + (2 * rounded).sum()).backward()
    codes = torch.sign(ternary.detach())
    return {
        "weight": array(w), "ternary": array(ternary), "weightGradient": array(w.grad),
        "codes": codes.int().tolist(), "packed": pack_weights(codes.clone()).tolist(),
        "activations": array(x), "rounded": array(rounded), "activationGradient": array(x.grad),
    }


def main() -> None:
    eight = [0.01, 0.02, 0.05, 0.5, 1.0, 0.03, 0.04, 0.06]
    write("quantization", "quantization-formats.json", {
        "description": "Min-max and fake quantisation by torch; ternary weights, 8-bit tokens and packing by transformers.",
        "command": "python tools/golden/quantization_formats.py",
        "versions": versions("transformers"),
        "groupSize": GROUP,
        "weight": array(weight()),
        "minMax": [
            min_max(bits, symmetric, granularity)
            for bits in (8, 4) for symmetric in (True, False) for granularity in ("tensor", "channel", "group")
        ],
        "fakeQuantize": [
            fake_quantize("per tensor, 8 bits", 8, [0.05], [3]),
            fake_quantize("per tensor, 4 bits", 4, [0.5], [0]),
            fake_quantize("per channel, 8 bits", 8, eight, [0, 1, -3, 0, 2, -128, 127, 5]),
            fake_quantize("per channel, 4 bits", 4, [0.5, 0.25, 1.0, 0.7, 0.3, 2.0, 0.9, 0.5], [0, 1, -3, 7, -8, 0, 2, 4]),
        ],
        "bitnet": [bitnet(8), bitnet(6)],
    })


if __name__ == "__main__":
    main()
