"""bitsandbytes' 8-bit block-wise and NF4 codes -> packages/quantization/src/golden/bitsandbytes-codes.json.

Run: python tools/golden/bitsandbytes_codes.py
"""

import base64

import bitsandbytes.functional as F
import torch

from golden_file import array, number, versions, write

BLOCK = 64


def codes(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.contiguous().numpy().tobytes()).decode("ascii")


def edge_cases() -> dict:
    """Tensors by name: what quantisation may stumble over."""
    generator = torch.Generator().manual_seed(7)
    normal = lambda *shape: torch.randn(shape, generator=generator)
    outliers = normal(6, 128)
    outliers[1, 5], outliers[4, 70] = 1e4, -3e5
    zeros = normal(4, BLOCK)
    zeros[1] = 0
    # Halfway between two NF4 levels, and the levels themselves, in blocks whose largest magnitude is 1.
    levels = F.get_4bit_type("nf4", device="cpu")
    ties = torch.zeros(4, BLOCK)
    ties[:, 0] = 1
    ties[0, 1:17], ties[1, 1:16] = levels, (levels[1:] + levels[:-1]) / 2
    dynamic = F.create_dynamic_map()
    ties[2, 1:], ties[3, 1:] = dynamic[96:159], (dynamic[96:159] + dynamic[97:160]) / 2
    spread = normal(5, 256) * 10.0 ** torch.linspace(-12, 3, 256)
    return {
        "normal": normal(12, 192) * 0.02,
        "outliers": outliers,
        "zeros": zeros,
        "ties": ties,
        "spread over 15 orders of magnitude": spread,
        "ragged": normal(7, 45) * 3,
        "odd": normal(3, 3),
        "one block of a few": normal(5, 2),
        "many blocks": normal(258, 64) * torch.rand(258, 1, generator=generator),
    }


def meaning(values: torch.Tensor) -> dict:
    """What codes stand for, of tensors that are small."""
    return {"meaning": array(values)} if values.numel() <= 1000 else {}


def blockwise(name: str, x: torch.Tensor, signed: bool, block_size: int) -> dict:
    out, state = F.quantize_blockwise(
        x if signed else x.abs(), code=F.create_dynamic_map(signed), blocksize=block_size
    )
    return {
        "tensor": name, "signed": signed, "blockSize": block_size,
        "codes": codes(out), "absmax": array(state.absmax), **meaning(F.dequantize_blockwise(out, state)),
    }


def nf4(name: str, x: torch.Tensor, double: bool) -> dict:
    out, state = F.quantize_4bit(x, blocksize=BLOCK, compress_statistics=double, quant_type="nf4")
    record = {"tensor": name, "dtype": str(x.dtype).removeprefix("torch."), "double": double, "codes": codes(out)}
    if double:
        record |= {
            "absmaxCodes": codes(state.absmax), "nestedAbsmax": array(state.state2.absmax), "offset": number(state.offset),
        }
    else:
        record["absmax"] = array(state.absmax)
    return record | meaning(F.dequantize_4bit(out, state))


def main() -> None:
    torch.set_num_threads(1)
    tensors = edge_cases()
    eight = [(name, signed, 256) for name in tensors for signed in (True, False)]
    eight += [(name, signed, BLOCK) for name in ("ragged", "zeros", "outliers") for signed in (True, False)]
    write("quantization", "bitsandbytes-codes.json", {
        "description": "Codes of bitsandbytes on the CPU, base64 of bytes; NF4 codes are two a byte. Unsigned: of magnitudes.",
        "command": "python tools/golden/bitsandbytes_codes.py",
        "versions": versions("bitsandbytes"),
        "dynamicMap": {"signed": array(F.create_dynamic_map(True)), "unsigned": array(F.create_dynamic_map(False))},
        "tensors": {name: array(x) for name, x in tensors.items()},
        "blockwise": [blockwise(name, tensors[name], signed, size) for name, signed, size in eight],
        "nf4": [nf4(name, x, double) for name, x in tensors.items() for double in (False, True)]
        + [nf4("normal", tensors["normal"].bfloat16(), True)],
    })


if __name__ == "__main__":
    main()
