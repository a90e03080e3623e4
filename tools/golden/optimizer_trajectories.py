"""Loss trajectories of the official galore-torch, adam-mini and badam (BlockOptimizerRatio) on a real model and real data
-> packages/training/src/golden/optimizer-trajectories.json.

Each case trains stories260K for 40 steps in float32 on the CPU, on the batches of badam_trajectories.py (they are stored
there). Each case is run again under variations that change nothing but rounding; the largest difference is the case's noise.

GaLore takes singular vectors with the signs that LAPACK happens to give them, and they count once moments meet a new
projection. The runs recorded here give each vector the sign that makes its entry of largest magnitude positive;
`lapackSigns` is how far the losses of the package as it stands are from that.

Run: python tools/golden/optimizer_trajectories.py
"""

from dataclasses import dataclass, field
from unittest import mock

import torch
from adam_mini import Adam_mini
from badam import BlockOptimizerRatio
from galore_torch import GaLoreAdamW

from badam_trajectories import VARIATIONS, Variation, camel, largest_difference, load_model, quietly, real_batches
from golden_file import numbers, versions, write


@dataclass
class Case:
    """One run. `options` are the official constructor's, or of GaLore its own and those of the projected group."""

    name: str
    optimizer: str
    options: dict = field(default_factory=dict)
    untied: bool = False


def galore(name: str, **options) -> Case:
    standard = {"lr": 2e-3, "rank": 8, "update_proj_gap": 15, "scale": 1.0, "proj_type": "std"}
    return Case(name, "GaLoreAdamW", {**standard, **options})


def mini(name: str, untied: bool = False, **options) -> Case:
    return Case(name, "Adam_mini", {"lr": 1e-3, "dim": 64, "n_heads": 8, "n_kv_heads": 4, **options}, untied)


def ratio(name: str, untied: bool = True, **options) -> Case:
    # The official code does not honour preserve_threshold: it takes 1e-9 off the small gradients and masks them all the same.
    standard = {"lr": 1e-3, "switch_every": 8, "preserve_threshold": 0, "update_ratio": 0.1}
    return Case(name, "BlockOptimizerRatio", {**standard, **options}, untied)


BY_MODULE = {"mlp": 0.5, "down_proj": 0.25, "q_proj": 0.05, "norm": 1 / 3}
CASES = [
    galore("galore-std"),
    galore("galore-reverse-std", proj_type="reverse_std"),
    galore("galore-left", proj_type="left"),
    galore("galore-right", proj_type="right"),
    galore("galore-full", proj_type="full"),
    galore("galore-every-step", update_proj_gap=1, rank=4),
    galore("galore-weight-decay", weight_decay=0.5, scale=0.25, betas=(0.8, 0.99)),
    galore("galore-no-bias-correction", correct_bias=False, lr=5e-4),
    galore("galore-one-projection", update_proj_gap=200, rank=16),
    mini("adam-mini"),
    mini("adam-mini-untied", untied=True),
    mini("adam-mini-weight-decay", weight_decay=0.5, betas=(0.8, 0.95)),
    ratio("ratio-adjacent", mask_mode="adjacent"),
    # Windows go past the end and begin again.
    ratio("ratio-adjacent-wrapped", mask_mode="adjacent", update_ratio=0.3, switch_every=5, keep_mask=False),
    ratio("ratio-adjacent-modules", mask_mode="adjacent", keep_mask=False, param_update_ratios=BY_MODULE),
    ratio("ratio-adjacent-all", mask_mode="adjacent", include_embedding=True, include_lm_head=True),
    ratio("ratio-adjacent-tied", untied=False, mask_mode="adjacent", include_embedding=True, include_lm_head=True),
    # With keep_mask the official code takes other entries in a window's last step, their moments staying: here no window ends.
    ratio("ratio-scatter-shared", mask_mode="scatter", switch_every=100),
    ratio("ratio-scatter", mask_mode="scatter", keep_mask=False),
    ratio("ratio-scatter-half", mask_mode="scatter", keep_mask=False, update_ratio=0.4, switch_every=10),
]


def with_fixed_signs(svd):
    """torch.linalg.svd, each vector's entry of largest magnitude positive; u and v on their own, which are used on their own."""

    def sign(vectors, dim):
        high, low = vectors.amax(dim, keepdim=True), vectors.amin(dim, keepdim=True)
        return torch.where(high >= -low, 1.0, -1.0)

    def fixed(*args, **kwargs):
        u, s, vh = svd(*args, **kwargs)
        return u * sign(u, 0), s, vh * sign(vh, 1)

    return fixed


def galore_optimizer(model, options: dict):
    own = {key: options[key] for key in ("rank", "update_proj_gap", "scale", "proj_type")}
    rest = {key: value for key, value in options.items() if key not in own}
    # As in GaLore's training script: linear modules with attn or mlp in their names.
    target = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ("attn" in name or "mlp" in name)
    ]
    ids = {id(p) for p in target}
    others = [p for p in model.parameters() if id(p) not in ids]
    return GaLoreAdamW([{"params": others}, {"params": target, **own}], no_deprecation_warning=True, **rest)


def official_optimizer(case: Case, model):
    named = list(model.named_parameters())
    if case.optimizer == "GaLoreAdamW":
        return galore_optimizer(model, case.options)
    if case.optimizer == "Adam_mini":
        return Adam_mini(named, verbose=False, **case.options)
    return BlockOptimizerRatio([p for _, p in named], named, **case.options)


def record_masks(optimizer, model) -> dict:
    """Filled while training: the seed and the sum of the first window's indices, by name of the parameter they were drawn for."""
    drawn, names = {}, {p: n for n, p in model.named_parameters()}
    generate = optimizer._generate_mask_scatter

    def recorded(param, ratio, offset):
        mask = generate(param, ratio, offset)
        if names[param] not in drawn:
            rows = [int(stride) for stride in param.stride()]
            flat = sum(index * stride for index, stride in zip(mask._indices(), rows))
            drawn[names[param]] = {"seed": optimizer.sparse_dict[param]["seed"], "sum": int(flat.sum())}
        return mask

    optimizer._generate_mask_scatter = recorded
    return drawn


def train(case: Case, variation: Variation, batches: list, fix_signs: bool = True) -> dict:
    """One run: losses, and of BlockOptimizerRatio the seeds of its random orders by parameter."""
    torch.manual_seed(0)
    model = load_model(case.untied, variation.attention)
    optimizer = official_optimizer(case, model)
    scatter = case.options.get("mask_mode") == "scatter"
    drawn = record_masks(optimizer, model) if scatter else {}
    svd = with_fixed_signs(torch.linalg.svd) if fix_signs else torch.linalg.svd
    losses = []
    with mock.patch.object(torch.linalg, "svd", svd):
        for batch in batches:
            ids, labels, mask = (torch.tensor(batch[key]) for key in ("inputIds", "labels", "attentionMask"))
            if variation.swap_rows:
                ids, labels, mask = ids.flip(0), labels.flip(0), mask.flip(0)
            loss = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
    if scatter and case.options.get("keep_mask", True):
        # One order for all parameters of a shape: that of the first whose gradient came.
        shapes = {n: p.shape for n, p in model.named_parameters()}
        owners = {shapes[name]: mask for name, mask in drawn.items()}
        drawn = {n: owners[shape] for n, shape in shapes.items() if shape in owners and "embed" not in n and "lm_head" not in n}
    return {"losses": losses, "masks": drawn}


def golden(case: Case, batches: list) -> dict:
    run = quietly(train, case, Variation(), batches)
    noises = {
        name: largest_difference(run["losses"], quietly(train, case, variation, batches)["losses"])
        for name, variation in VARIATIONS.items()
    }
    record = {
        "name": case.name,
        "optimizer": case.optimizer,
        "options": {camel(key): value for key, value in case.options.items()},
        "tiedHead": not case.untied,
        "losses": numbers(run["losses"]),
        "noise": {"losses": max(noises.values()), "by": noises},
    }
    if run["masks"]:
        record["masks"] = run["masks"]
    if case.optimizer == "GaLoreAdamW":
        lapack = quietly(train, case, Variation(), batches, False)["losses"]
        record["lapackSigns"] = largest_difference(run["losses"], lapack)
    print(f"{case.name:26} {run['losses'][0]:.4f} -> {sum(run['losses'][-5:]) / 5:.4f}", noises, record.get("lapackSigns"), flush=True)
    return record


def main() -> None:
    torch.set_num_threads(1)
    batches = real_batches()
    write("training", "optimizer-trajectories.json", {
        "description": "40 steps of the official galore-torch, adam-mini and badam packages on stories260K and Alpaca-GPT4, float32 on CPU.",
        "command": "python tools/golden/optimizer_trajectories.py",
        "versions": versions("transformers", "tokenizers", "galore-torch", "adam-mini", "badam"),
        "batches": "those of badam-trajectories.json",
        "cases": [golden(case, batches) for case in CASES],
    })


if __name__ == "__main__":
    main()
