"""torch.optim on given gradients -> packages/optimizers/src/golden/torch-optimizers.json.

Run: python tools/golden/torch_optimizers.py
"""

import torch

from golden_file import array, versions, write

STEPS = 10
SHAPES = [[3, 4], [5], [2, 2, 2]]
# A learning rate for every step, so that an update which reads a stale rate is seen.
LEARNING_RATES = [0.1, 0.08, 0.06, 0.05, 0.05, 0.04, 0.03, 0.02, 0.02, 0.01]
CASES = [
    ("adamw", torch.optim.AdamW, {}),
    ("adamw-weight-decay", torch.optim.AdamW, dict(weight_decay=0.3)),
    ("adamw-no-weight-decay", torch.optim.AdamW, dict(weight_decay=0.0)),
    ("adamw-betas-eps", torch.optim.AdamW, dict(betas=(0.8, 0.95), eps=0.1, weight_decay=0.1)),
    ("adam", torch.optim.Adam, {}),
    ("adam-l2", torch.optim.Adam, dict(weight_decay=0.3)),
    ("sgd", torch.optim.SGD, {}),
    ("sgd-weight-decay", torch.optim.SGD, dict(weight_decay=0.3)),
    ("sgd-momentum", torch.optim.SGD, dict(momentum=0.9)),
    ("sgd-momentum-dampening", torch.optim.SGD, dict(momentum=0.9, dampening=0.5, weight_decay=0.1)),
    ("sgd-nesterov", torch.optim.SGD, dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
]


def given() -> tuple:
    """Initial tensors and the gradients of each step, spread over eight orders of magnitude, some exactly zero."""
    generator = torch.Generator().manual_seed(3)
    initial = [torch.randn(shape, generator=generator) for shape in SHAPES]
    gradients = []
    for _ in range(STEPS):
        step = []
        for shape in SHAPES:
            gradient = torch.randn(shape, generator=generator)
            flat = gradient.view(-1)
            flat[0] *= 1e-8  # comparable to eps: shows where eps is added
            flat[1] *= 1e-4
            flat[2] = 0
            step.append(gradient)
        gradients.append(step)
    return initial, gradients


def run(optimizer_class, options: dict) -> list:
    initial, gradients = given()
    parameters = [tensor.clone().requires_grad_() for tensor in initial]
    optimizer = optimizer_class(parameters, lr=LEARNING_RATES[0], foreach=False, **options)
    after = []
    for lr, step in zip(LEARNING_RATES, gradients):
        optimizer.param_groups[0]["lr"] = lr
        for parameter, gradient in zip(parameters, step):
            parameter.grad = gradient.clone()
        optimizer.step()
        after.append([array(p) for p in parameters])
    return after


def main() -> None:
    initial, gradients = given()
    write("optimizers", "torch-optimizers.json", {
        "description": "Parameters after each of 10 steps of torch.optim on given gradients, float32 on CPU.",
        "command": "python tools/golden/torch_optimizers.py",
        "versions": versions(),
        "learningRates": LEARNING_RATES,
        "initial": [array(t) for t in initial],
        "gradients": [[array(t) for t in step] for step in gradients],
        "cases": [
            {"name": name, "optimizer": cls.__name__, "options": options, "parameters": run(cls, options)}
            for name, cls, options in CASES
        ],
    })


if __name__ == "__main__":
    main()
