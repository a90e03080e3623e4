"""The official `badam` package on given bfloat16 gradients -> packages/optimizers/src/golden/official-blocks.json.

No model: 19 small parameters under Hugging Face names. Shows which are trained at each step, and all weights after it.

Run: python tools/golden/official_blocks.py
"""

import base64
import contextlib
import io
import warnings

import torch
from badam import BlockOptimizer

from golden_file import versions, write

STEPS = 23
SHAPE = [3, 2]
LAYERS = 4
MODULES = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm"]
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{module}.weight" for i in range(LAYERS) for module in MODULES),
    "model.norm.weight",
    "lm_head.weight",
]
ATTENTION = [[f"model.layers.{i}.self_attn."] for i in range(LAYERS)]


def block(switch_mode: str, every: int, **options) -> dict:
    return {"switch_mode": switch_mode, "switch_block_every": every, **options}


# Name, torch.optim class, its options, BlockOptimizer's options.
CASES = [
    ("ascending", "AdamW", {}, block("ascending", 4)),
    ("descending", "AdamW", {"weight_decay": 0.2}, block("descending", 3)),
    ("every-step", "AdamW", {}, block("ascending", 1)),
    ("fixed", "Adam", {"weight_decay": 0.2}, block("fixed", 5, start_block=2)),
    ("start-block", "SGD", {"momentum": 0.9, "nesterov": True}, block("ascending", 5, start_block=3)),
    ("embedding-head", "AdamW", {}, block("ascending", 3, include_embedding=True, include_lm_head=True)),
    ("active-head", "AdamW", {}, block("ascending", 3, active_modules=["lm_head."])),
    ("list", "AdamW", {}, block("descending", 3, block_prefix_list=ATTENTION, active_modules=["model.norm.weight"])),
    ("decay-groups", "AdamW", {"groups": True}, block("ascending", 4)),
]


def learning_rate(step: int) -> float:
    return 0.05 / (1 + step / 10)


def flat(tensors: list) -> str:
    """bfloat16 tensors one after the other, base64 of their little-endian bytes."""
    return base64.b64encode(torch.stack(tensors).view(torch.uint8).numpy().tobytes()).decode("ascii")


def base_optimizer(name: str, options: dict, named: list):
    if not options.pop("groups", False):
        return getattr(torch.optim, name)([p for _, p in named], **options)
    groups = [
        {"params": [p for n, p in named if "norm" not in n], "weight_decay": 0.5},
        {"params": [p for n, p in named if "norm" in n], "weight_decay": 0.0},
    ]
    return getattr(torch.optim, name)(groups, **options)


def run(initial: list, gradients: list, optimizer: str, options: dict, block_options: dict) -> dict:
    named = [(n, torch.nn.Parameter(tensor.clone())) for n, tensor in zip(NAMES, initial)]
    wrapped = BlockOptimizer(base_optimizer(optimizer, dict(options), named), named, **block_options)
    trained, after = [], []
    for step, given in enumerate(gradients):
        trained.append([i for i, (_, p) in enumerate(named) if p.requires_grad])
        for i in trained[-1]:
            named[i][1].grad = given[i].clone()
        wrapped.param_groups[0]["lr"] = learning_rate(step)
        wrapped.step()
        after.append(flat([p.detach() for _, p in named]))
    return {"blocks": wrapped.block_prefix_list, "trained": trained, "parameters": after}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda: [torch.randn(SHAPE, generator=generator).bfloat16() for _ in NAMES]  # noqa: E731
    initial, gradients = draw(), [draw() for _ in range(STEPS)]
    cases = []
    for name, optimizer, options, block_options in CASES:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = run(initial, gradients, optimizer, options, block_options)
        cases.append({"name": name, "optimizer": optimizer, "options": options, "blockOptions": block_options, **record})
    write("optimizers", "official-blocks.json", {
        "description": "bfloat16 parameters after each step of the official badam package on given gradients, on CPU.",
        "command": "python tools/golden/official_blocks.py",
        "versions": versions("badam"),
        "names": NAMES,
        "shape": SHAPE,
        "learningRates": [learning_rate(step) for step in range(STEPS)],
        "initial": flat(initial),
        "gradients": [flat(step) for step in gradients],
        "cases": cases,
    })


if __name__ == "__main__":
    main()
