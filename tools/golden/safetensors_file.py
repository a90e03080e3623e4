"""A file of the official safetensors package with one tensor of each dtype we read
-> packages/model-zoo/src/golden/safetensors.json.

Run: python tools/golden/safetensors_file.py
"""

import base64

import torch
from safetensors.torch import save

from golden_file import versions, write

TENSORS = {
    "a.f32": torch.tensor([[1.5, -2.0], [3.0, 4.0]]),
    "b.f64": torch.tensor([0.1], dtype=torch.float64),
    "c.f16": torch.tensor([1, -0.5, 65504], dtype=torch.float16),
    "d.bf16": torch.tensor([1, -2], dtype=torch.bfloat16),
    "e.i64": torch.tensor([-5, 2**40]),
    "f.i32": torch.tensor(7, dtype=torch.int32),
    "g.i8": torch.tensor([-128, 127], dtype=torch.int8),
    "h.u8": torch.tensor([255], dtype=torch.uint8),
    "i.u16": torch.tensor([65535], dtype=torch.uint16),
    "j.bool": torch.tensor([True, False, True]),
    "k.empty": torch.zeros((0, 3)),
}


def main() -> None:
    file = save(TENSORS, {"format": "pt", "note": "\u00e9"})
    tensors = {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "bytes": tensor.reshape(-1).view(torch.uint8).numpy().tobytes().hex(),
        }
        for name, tensor in TENSORS.items()
    }
    write("model-zoo", "safetensors.json", {
        "description": "A file written by the official safetensors package (base64), and what it holds (bytes as hex).",
        "command": "python tools/golden/safetensors_file.py",
        "versions": versions("safetensors"),
        "metadata": {"format": "pt", "note": "\u00e9"},
        "tensors": tensors,
        "file": base64.b64encode(file).decode("ascii"),
    })


if __name__ == "__main__":
    main()
