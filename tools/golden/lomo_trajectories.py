"""Loss trajectories of the official `lomo-optim` package on a real model and real data
-> packages/training/src/golden/lomo-trajectories.json; its loss scaler -> packages/optimizers/src/golden/loss-scaler.json.

Each case trains stories260K for 40 steps in float32 on the CPU, on the batches of badam_trajectories.py (they are stored
there), with the calls of LOMO's own trainer: grad_norm(loss) where the norm is clipped, then fused_backward(loss, lr). Each
case is run again under variations that change nothing but rounding; the largest difference is the case's noise.

Run: python tools/golden/lomo_trajectories.py
"""

import random
from dataclasses import dataclass, field
from typing import Optional
from unittest import mock

import torch
from lomo_optim import AdaLomo, Lomo
from lomo_optim.lomo import DynamicLossScaler
from transformers import get_cosine_schedule_with_warmup

from badam_trajectories import STEPS, VARIATIONS, Variation, largest_difference, load_model, quietly, real_batches
from golden_file import numbers, versions, write


@dataclass
class Case:
    """One run. `options` are the official constructor's; `warmup_steps` makes the rate a cosine over STEPS."""

    name: str
    optimizer: str
    options: dict = field(default_factory=dict)
    warmup_steps: Optional[int] = None


CASES = [
    Case("lomo", "Lomo", {"lr": 0.01}),
    Case("lomo-higher-rate", "Lomo", {"lr": 0.02}),
    Case("lomo-clip-norm", "Lomo", {"lr": 0.05, "clip_grad_norm": 1.0}),
    Case("lomo-clip-value", "Lomo", {"lr": 0.05, "clip_grad_value": 0.005}),
    Case("lomo-clip-both", "Lomo", {"lr": 0.1, "clip_grad_norm": 1.0, "clip_grad_value": 0.01}),
    Case("lomo-weight-decay", "Lomo", {"lr": 0.01, "weight_decay": 0.3}),
    Case("lomo-cosine", "Lomo", {"lr": 0.03, "clip_grad_norm": 2.0}, warmup_steps=4),
    Case("adalomo", "AdaLomo", {"lr": 1e-3}),
    Case("adalomo-higher-rate", "AdaLomo", {"lr": 1e-2}),
    Case("adalomo-clip-norm", "AdaLomo", {"lr": 5e-3, "clip_grad_norm": 1.0}),
    Case("adalomo-clip-value", "AdaLomo", {"lr": 5e-3, "clip_grad_value": 0.003}),
    Case("adalomo-weight-decay", "AdaLomo", {"lr": 5e-3, "weight_decay": 10.0}),
    Case("adalomo-eps", "AdaLomo", {"lr": 5e-4, "eps": (1e-8, 0.5)}),
    Case("adalomo-threshold", "AdaLomo", {"lr": 1e-2, "clip_threshold": 0.3}),
    Case("adalomo-decay-rate", "AdaLomo", {"lr": 5e-3, "decay_rate": -0.4}),
    Case("adalomo-cosine", "AdaLomo", {"lr": 1e-2}, warmup_steps=4),
]


def learning_rates(case: Case) -> list:
    lr = case.options["lr"]
    if case.warmup_steps is None:
        return [lr] * STEPS
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = get_cosine_schedule_with_warmup(optimizer, case.warmup_steps, STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def official_optimizer(case: Case, model):
    # AdaLomo puts its states on a GPU without asking: here they stay where they are made.
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):
        return {"Lomo": Lomo, "AdaLomo": AdaLomo}[case.optimizer](model, **case.options)


def train(case: Case, variation: Variation, batches: list) -> dict:
    """One run: losses, and gradient norms before clipping where the norm is clipped."""
    torch.manual_seed(0)
    model = load_model(False, variation.attention)
    optimizer = official_optimizer(case, model)
    losses, norms = [], []
    for batch, lr in zip(batches, learning_rates(case)):
        ids, labels, mask = (torch.tensor(batch[key]) for key in ("inputIds", "labels", "attentionMask"))
        if variation.swap_rows:
            ids, labels, mask = ids.flip(0), labels.flip(0), mask.flip(0)
        loss = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
        losses.append(loss.item())
        if "clip_grad_norm" in case.options:
            optimizer.grad_norm(loss)
            norms.append(torch.norm(optimizer.grad_norms).item())
        optimizer.fused_backward(loss, lr)
    return {"losses": losses, "gradientNorms": norms}


def golden(case: Case, batches: list) -> dict:
    run = quietly(train, case, Variation(), batches)
    noises = {
        name: largest_difference(run["losses"], quietly(train, case, variation, batches)["losses"])
        for name, variation in VARIATIONS.items()
    }
    print(f"{case.name:24} {run['losses'][0]:.4f} -> {sum(run['losses'][-5:]) / 5:.4f}", noises, flush=True)
    return {
        "name": case.name,
        "optimizer": case.optimizer,
        "options": case.options,
        "warmupSteps": case.warmup_steps,
        "learningRates": learning_rates(case),
        "losses": numbers(run["losses"]),
        "gradientNorms": numbers(run["gradientNorms"]),
        "noise": {"losses": max(noises.values()), "by": noises},
    }


def scaler_history(options: dict, seed: int) -> dict:
    """200 steps of the official DynamicLossScaler, told of every step: about one in ten overflows."""
    draw = random.Random(seed)
    scaler = DynamicLossScaler(**options)
    overflows, scales = [], []
    for _ in range(200):
        overflows.append(int(draw.random() < 0.1))
        # It asks torch.distributed, which has no process group here, whether to print.
        with mock.patch.object(torch.distributed, "get_rank", return_value=0):
            quietly(scaler.update_scale, bool(overflows[-1]))
        scales.append(scaler.loss_scale)
    return {"options": options, "overflows": overflows, "scales": scales}


def main() -> None:
    torch.set_num_threads(1)
    command = "python tools/golden/lomo_trajectories.py"
    write("optimizers", "loss-scaler.json", {
        "description": "lomo_optim.lomo.DynamicLossScaler: its scale after each update_scale(overflow).",
        "command": command,
        "versions": versions("lomo-optim"),
        "cases": [scaler_history(options, seed) for seed, options in enumerate([
            {"init_scale": 2**16, "scale_window": 10},
            {"init_scale": 2**20, "scale_window": 7, "delayed_shift": 3},
            {"init_scale": 2**20, "scale_window": 7, "delayed_shift": 2, "consecutive_hysteresis": True},
            {"init_scale": 64, "scale_factor": 4.0, "scale_window": 15, "min_scale": 0.25, "raise_error_at_min_scale": False},
        ])],
    })
    batches = real_batches()
    write("training", "lomo-trajectories.json", {
        "description": "40 steps of the official lomo-optim package on stories260K and Alpaca-GPT4, float32 on CPU.",
        "command": command,
        "versions": versions("transformers", "tokenizers", "lomo-optim"),
        "batches": "those of badam-trajectories.json",
        "cases": [golden(case, batches) for case in CASES],
    })


if __name__ == "__main__":
    main()
