"""PyTorch's side of bench-official, in a process of its own: official_worker.py <job.json> official|float32|fastest.

official: badam's BlockOptimizer as its readme uses it, on a bfloat16 model with gradient checkpointing. (Without re-entrance, which lets
the backward pass stop at the trained block; the re-entrant form would go on to the embedding.) float32: the same with a float32 model, which
is what a CPU without bfloat16 instructions can do. fastest: the same optimizer and block in float32, nothing recomputed. See train-job.ts for what comes in and goes out.
"""

import ctypes
import json
import platform
import re
import sys
import time

import badam
import torch
import transformers
from importlib.metadata import version

LEARNING_RATE = 1e-5


def memory(field):
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", status.read(), re.M).group(1))


def drop_cuda_pages():
    """Gives back the pages of CUDA libraries, which PyTorch's build for CPUs does not have: loading them is all that touched these."""
    libc = ctypes.CDLL(None)
    with open("/proc/self/smaps") as smaps:
        mappings = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read())
    for mapping in mappings:
        name = mapping.split("\n", 1)[0]
        # Pages that were written to (relocations) have no copy in the file.
        if re.search(r"/nvidia/|_cuda|nvshmem", name) and re.search(r"^Anonymous:\s+0 kB", mapping, re.M):
            start, end = (int(address, 16) for address in name.split(" ", 1)[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 4)  # MADV_DONTNEED


def report(value):
    print("@bench " + json.dumps(value), flush=True)


def tensors(batch):
    shape = (batch["batchSize"], batch["length"])
    rows = torch.tensor(batch["rowTokens"]).unsqueeze(1)
    return {
        "input_ids": torch.tensor(batch["inputIds"]).view(shape),
        "labels": torch.tensor(batch["labels"]).view(shape),
        "attention_mask": (torch.arange(batch["length"]).unsqueeze(0) < rows).long(),
    }


def main(path, side):
    with open(path) as file:
        job = json.load(file)
    base = memory("VmRSS")
    begin = time.perf_counter()
    dtype = torch.bfloat16 if side == "official" else torch.float32
    folder = job["weights"]["folder"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    model.train()
    if side != "fastest":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = badam.BlockOptimizer(
        base_optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE),
        named_parameters_list=list(model.named_parameters()),
        switch_block_every=1_000_000,
        switch_mode="fixed",
        start_block=job["block"],
        verbose=1,
    )
    drop_cuda_pages()
    load_seconds = time.perf_counter() - begin

    def step(batch):
        loss = model(**tensors(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    for batch in job["warmUp"]:
        step(batch)
    versions = {name: version(name) for name in ("badam", "torch", "transformers")}
    versions |= {"python": platform.python_version(), "torchThreads": str(torch.get_num_threads())}
    report({"versions": versions, "baseBytes": base, "loadSeconds": load_seconds, "peakResident": memory("VmHWM")})
    for count, _line in enumerate(sys.stdin):
        begin = time.perf_counter()
        for batch in job["rounds"][count % len(job["rounds"])]:
            loss = step(batch)
        report({"seconds": time.perf_counter() - begin, "loss": loss, "peakResident": memory("VmHWM")})


if __name__ == "__main__":
    main(*sys.argv[1:])
