"""bitsandbytes' Adam8bit and AdamW8bit
-> packages/optimizers/src/golden/adam8bit.json (given gradients) and
   packages/training/src/golden/adam8bit-trajectories.json (stories260K, the batches of badam_trajectories.py).

Run: python tools/golden/adam8bit.py
"""

import base64

import bitsandbytes as bnb
import torch

from badam_trajectories import VARIATIONS, Variation, largest_difference, load_model, quietly, real_batches
from golden_file import array, number, numbers, versions, write

STEPS = 40
SHAPES = [[64, 80], [4097], [10]]  # blocks of 256: whole ones, a rest of one, and one that stays in float32
CASES = [
    ("adam8bit", "Adam8bit", {"lr": 1e-2}),
    ("adamw8bit", "AdamW8bit", {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
]
TRAJECTORIES = [
    ("adam8bit", "Adam8bit", {"lr": 1e-3}),
    ("adamw8bit-weight-decay", "AdamW8bit", {"lr": 1e-3, "weight_decay": 0.5}),
]


def given() -> tuple:
    """Initial tensors, and numbers of which step t takes those from 37 t on, cyclically, times 2^-(t mod 5)."""
    generator = torch.Generator().manual_seed(5)
    initial = [torch.randn(shape, generator=generator) for shape in SHAPES]
    numbers = [torch.randn(shape, generator=generator) * 10 ** torch.empty(shape).uniform_(-4, 0, generator=generator) for shape in SHAPES]
    return initial, numbers


def run(name: str, options: dict, scale: float = 1.0) -> list:
    """Parameters and states after the first and the last step. `scale` of 1 + 2^-22 changes nothing but rounding."""
    initial, base = given()
    parameters = [torch.nn.Parameter(x.clone()) for x in initial]
    optimizer = getattr(bnb.optim, name)(parameters, **options)
    records = []
    for step in range(STEPS):
        for parameter, x in zip(parameters, base):
            parameter.grad = x.flatten().roll(-37 * step).reshape(x.shape) * 2.0 ** -(step % 5) * scale
        optimizer.step()
        if step in (0, STEPS - 1):
            records.append([record(p, optimizer.state[p]) for p in parameters])
    return records


def record(parameter, state) -> dict:
    values = {"parameter": array(parameter)}
    for key in ("state1", "state2", "absmax1", "absmax2"):
        tensor = state.get(key)
        if tensor is not None and tensor.dtype == torch.uint8:
            values[key] = base64.b64encode(tensor.numpy().tobytes()).decode("ascii")
        elif tensor is not None:
            values[key] = array(tensor)
    return values


def final_parameters(records: list) -> torch.Tensor:
    import numpy as np

    arrays = [np.frombuffer(base64.b64decode(r["parameter"]["float32"]), "<f4") for r in records[-1]]
    return torch.from_numpy(np.concatenate(arrays))


def golden(label: str, name: str, options: dict) -> dict:
    records = run(name, options)
    noise = (final_parameters(records) - final_parameters(run(name, options, 1 + 2**-22))).abs()
    print(label, "noise: largest", noise.max().item(), "mean", noise.mean().item(), flush=True)
    return {
        "name": label, "optimizer": name, "options": options, "noise": {"largest": number(noise.max()), "mean": number(noise.mean())},
        "afterFirst": records[0], "afterLast": records[1],
    }


def train(name: str, options: dict, variation: Variation, batches: list) -> list:
    torch.manual_seed(0)
    model = load_model(False, variation.attention)
    optimizer = getattr(bnb.optim, name)(model.parameters(), **options)
    losses = []
    for batch in batches:
        ids, labels, mask = (torch.tensor(batch[key]) for key in ("inputIds", "labels", "attentionMask"))
        if variation.swap_rows:
            ids, labels, mask = ids.flip(0), labels.flip(0), mask.flip(0)
        loss = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def trajectory(label: str, name: str, options: dict, batches: list) -> dict:
    losses = quietly(train, name, options, Variation(), batches)
    noises = {
        key: largest_difference(losses, quietly(train, name, options, variation, batches))
        for key, variation in VARIATIONS.items()
    }
    print(f"{label:24} {losses[0]:.4f} -> {sum(losses[-5:]) / 5:.4f}", noises, flush=True)
    return {
        "name": label, "optimizer": name, "options": options, "losses": numbers(losses),
        "noise": {"losses": max(noises.values()), "by": noises},
    }


def main() -> None:
    torch.set_num_threads(1)
    command = "python tools/golden/adam8bit.py"
    initial, base = given()
    write("optimizers", "adam8bit.json", {
        "description": "bitsandbytes' 8-bit Adam on the CPU after the first and the last of 40 steps on given gradients.",
        "command": command,
        "versions": versions("bitsandbytes"),
        "steps": STEPS,
        "initial": [array(x) for x in initial],
        "gradientNumbers": [array(x) for x in base],
        "cases": [golden(*case) for case in CASES],
    })
    batches = real_batches()
    write("training", "adam8bit-trajectories.json", {
        "description": "40 steps of bitsandbytes' 8-bit Adam on stories260K and Alpaca-GPT4, float32 on CPU.",
        "command": command,
        "versions": versions("transformers", "tokenizers", "bitsandbytes"),
        "batches": "those of badam-trajectories.json",
        "cases": [trajectory(*case, batches) for case in TRAJECTORIES],
    })


if __name__ == "__main__":
    main()
