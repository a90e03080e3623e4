"""Loss trajectories of the official `badam` package on a real model and real data
-> packages/training/src/golden/badam-trajectories.json.

Each case trains stories260K for 40 steps in float32 on the CPU with the package as its readme uses it. Each case is run
again under variations that change nothing but rounding; the largest difference is the case's noise.

Run: python tools/golden/badam_trajectories.py
"""

import contextlib
import io
import json
import warnings
from dataclasses import dataclass, field
from typing import Optional

import torch
from badam import BlockOptimizer
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from golden_file import SHARED_DATA, number, numbers, versions, write

STEPS = 40
BATCH_SIZE = 2
MODEL = SHARED_DATA / "models" / "stories260K"
DATASET = SHARED_DATA / "alpaca_gpt4" / "alpaca_gpt4_data_en_999.json"
SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)


@dataclass
class Case:
    """One run. `block` holds the official BlockOptimizer's arguments (None: the bare torch optimizer)."""

    name: str
    block: Optional[dict]
    optimizer: str = "AdamW"
    options: dict = field(default_factory=lambda: {"lr": 1e-3})
    untied: bool = False  # give lm_head its own copy of the embedding's weights
    decay_groups: bool = False  # weights in a group with weight_decay 0.5, norms in a group with 0
    warmup_steps: Optional[int] = None  # with it: a cosine schedule over STEPS, stepped after every step
    max_grad_norm: Optional[float] = None
    seed: Optional[int] = None  # of torch's generator, which the `random` order draws from


@dataclass
class Variation:
    """A change of rounding only."""

    swap_rows: bool = False
    attention: str = "eager"


def by_attention_and_mlp() -> list:
    return [[f"model.layers.{i}.{part}."] for i in range(5) for part in ("self_attn", "mlp")]


def by_matrix() -> list:
    matrices = [f"self_attn.{m}_proj." for m in "qkvo"] + [f"mlp.{m}_proj." for m in ("gate", "up", "down")]
    return [[f"model.layers.{i}.{matrix}"] for i in range(5) for matrix in matrices]


def ascending(**options) -> dict:
    return {"switch_mode": "ascending", "switch_block_every": 5, **options}


# Learning rates (and the seed of `random`) are such that rounding stays small: at ten times the rate of `sgd-nesterov`
# another attention kernel moves its losses by 20%.
CASES = [
    Case("ascending", ascending()),
    Case("descending", ascending(switch_mode="descending")),
    Case("embedding-head-tied", ascending(include_embedding=True, include_lm_head=True)),
    Case("embedding-head-untied", ascending(include_embedding=True, include_lm_head=True), untied=True),
    Case("head-alone-untied", ascending(switch_mode="descending", include_lm_head=True), untied=True),
    Case("active-norm", ascending(active_modules=["model.norm."])),
    Case("active-head-untied", ascending(switch_mode="descending", active_modules=["lm_head."]), untied=True),
    Case("attention-mlp", ascending(switch_block_every=4, block_prefix_list=by_attention_and_mlp())),
    Case("matrix-every-step", ascending(switch_block_every=1, block_prefix_list=by_matrix())),
    Case("random", ascending(switch_mode="random"), seed=3),
    Case("fixed", ascending(switch_mode="fixed", start_block=2)),
    Case("start-block", ascending(start_block=3)),
    Case("weight-decay", ascending(), options={"lr": 1e-3, "weight_decay": 0.5}),
    Case("weight-decay-groups", ascending(), decay_groups=True),
    Case("cosine", ascending(), options={"lr": 2e-3}, warmup_steps=4),
    Case("sgd-nesterov", ascending(), "SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    Case("sgd-momentum", ascending(switch_mode="descending"), "SGD", {"lr": 0.01, "momentum": 0.9}),
    Case("sgd-dampened", ascending(), "SGD", {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    # Clipping with SGD: Adam hardly sees the scale of a gradient, so a missing clip would pass there.
    Case("sgd-clipped", ascending(), "SGD", {"lr": 0.03}, max_grad_norm=1.0),
    Case("full-adamw", None),
    Case("full-sgd-nesterov", None, "SGD", {"lr": 0.003, "momentum": 0.9, "nesterov": True}),
]
VARIATIONS = {
    "swappedRows": Variation(swap_rows=True),
    "sdpaAttention": Variation(attention="sdpa"),
}


def real_batches() -> list:
    """The shortest Alpaca-GPT4 records in LLaMA-Factory's `alpaca` template, shuffled, all padded to the longest.

    Returns {records: index of each row in the dataset, inputIds, labels, attentionMask: each [B, T]}: labels are not
    shifted and are -100 on prompts and padding; padding is id 0 on the right.
    """
    tokenizer = AutoTokenizer.from_pretrained(MODEL, model_max_length=None)
    rows = []
    for index, record in enumerate(json.loads(DATASET.read_text(encoding="utf-8"))):
        query = record["instruction"] + ("\n" + record["input"] if record["input"] else "")
        prompt = tokenizer(f"{SYSTEM}### Instruction:\n{query}\n\n### Response:\n")["input_ids"]
        answer = tokenizer(record["output"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((index, prompt, answer))
    rows.sort(key=lambda row: len(row[1]) + len(row[2]))
    rows = rows[: STEPS * BATCH_SIZE]
    length = max(len(prompt) + len(answer) for _, prompt, answer in rows)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    batches = []
    for first in range(0, len(rows), BATCH_SIZE):
        batch = {"records": [], "inputIds": [], "labels": [], "attentionMask": []}
        for index, prompt, answer in (rows[i] for i in order[first : first + BATCH_SIZE]):
            padding = length - len(prompt) - len(answer)
            batch["records"].append(index)
            batch["inputIds"].append(prompt + answer + [0] * padding)
            batch["labels"].append([-100] * len(prompt) + answer + [-100] * padding)
            batch["attentionMask"].append([1] * (length - padding) + [0] * padding)
        batches.append(batch)
    return batches


def load_model(untied: bool, attention: str):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation=attention)
    if untied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    return model.train()


def base_optimizer(case: Case, model):
    parameters = list(model.parameters())
    if case.decay_groups:
        parameters = [
            {"params": [p for n, p in model.named_parameters() if "norm" not in n], "weight_decay": 0.5},
            {"params": [p for n, p in model.named_parameters() if "norm" in n], "weight_decay": 0.0},
        ]
    return getattr(torch.optim, case.optimizer)(parameters, **case.options)


def train(case: Case, variation: Variation, batches: list, wrapper=BlockOptimizer) -> dict:
    """One run: losses, gradient norms (before clipping), learning rates and active block per step, blocks, final weights."""
    torch.manual_seed(case.seed or 0)
    model = load_model(case.untied, variation.attention)
    initial = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = base_optimizer(case, model)
    if case.block is not None:
        optimizer = wrapper(optimizer, named_parameters_list=list(model.named_parameters()), **case.block)
    scheduler = None
    if case.warmup_steps is not None:
        scheduler = get_cosine_schedule_with_warmup(optimizer, case.warmup_steps, STEPS)
    losses, norms, rates, active = [], [], [], []
    for batch in batches:
        ids, labels, mask = (torch.tensor(batch[key]) for key in ("inputIds", "labels", "attentionMask"))
        if variation.swap_rows:
            ids, labels, mask = ids.flip(0), labels.flip(0), mask.flip(0)
        loss = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
        loss.backward()
        trained = [p for p in model.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.clip_grad_norm_(trained, case.max_grad_norm or float("inf")).item())
        losses.append(loss.item())
        rates.append(optimizer.param_groups[0]["lr"])
        if case.block is not None:
            always = len(optimizer.active_modules)
            prefixes = optimizer.active_param_prefixs
            active.append(optimizer.block_prefix_list.index(prefixes[: len(prefixes) - always]))
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    return {
        "losses": losses,
        "gradientNorms": norms,
        "learningRates": rates,
        "activeBlocks": active,
        "blocks": optimizer.block_prefix_list if case.block is not None else [],
        "weights": {n: checksum(p, initial[n]) for n, p in model.named_parameters()},
    }


def checksum(parameter, initial) -> list:
    """[sum, L2 norm, L2 norm of the change] in float64."""
    value, start = parameter.detach().double(), initial.double()
    return [float(f"{v.item():.10g}") for v in (value.sum(), value.norm(), (value - start).norm())]


def quietly(function, *args):
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def largest_difference(a, b) -> float:
    return float(f"{max(abs(x - y) / max(abs(x), 1e-30) for x, y in zip(a, b)):.3g}")


def noise(run: dict, again: dict) -> dict:
    changes = [[w[2] for w in r["weights"].values() if w[2] > 0] for r in (run, again)]
    return {
        "losses": largest_difference(run["losses"], again["losses"]),
        "gradientNorms": largest_difference(run["gradientNorms"], again["gradientNorms"]),
        "weightChanges": largest_difference(*changes),
    }


def golden(case: Case, batches: list) -> dict:
    run = quietly(train, case, Variation(), batches)
    noises = {name: noise(run, quietly(train, case, v, batches)) for name, v in VARIATIONS.items()}
    print(f"{case.name:24} {run['losses'][0]:.4f} -> {sum(run['losses'][-5:]) / 5:.4f}", *(
        f"{name} {n['losses']:.1e}/{n['weightChanges']:.1e}" for name, n in noises.items()
    ), flush=True)
    return {
        "name": case.name,
        "tiedHead": not case.untied,
        "optimizer": case.optimizer,
        "optimizerOptions": case.options,
        "decayGroups": case.decay_groups,
        "maxGradNorm": case.max_grad_norm,
        "blockOptions": case.block and {camel(k): v for k, v in case.block.items()},
        "blocks": run["blocks"],
        "activeBlocks": run["activeBlocks"],
        "learningRates": run["learningRates"],
        "losses": numbers(run["losses"]),
        "gradientNorms": numbers(run["gradientNorms"]),
        "weights": run["weights"],
        "noise": {
            "losses": max(n["losses"] for n in noises.values()),
            "gradientNorms": max(n["gradientNorms"] for n in noises.values()),
            "weightChanges": max(n["weightChanges"] for n in noises.values()),
            "by": noises,
        },
    }


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def main() -> None:
    torch.set_num_threads(1)  # 2 threads give the same bits at this size
    batches = real_batches()
    write("training", "badam-trajectories.json", {
        "description": "40 steps of the official badam package on stories260K and Alpaca-GPT4, float32 on CPU.",
        "command": "python tools/golden/badam_trajectories.py",
        "versions": versions("transformers", "tokenizers", "badam"),
        "batches": batches,
        "cases": [golden(case, batches) for case in CASES],
    })


if __name__ == "__main__":
    main()
