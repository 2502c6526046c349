"""What each view of the inspector takes in a model of GPT-2-small's shape: memory and seconds.

Each view runs in a process of its own, on a prompt of 1,024 tokens; memory is the peak of the
process above that of the loaded model. The views of a deep model are timed on one with 48 layers of
25 heads and 50,257 tokens.

    python -m tests.benchmarks.inspector [memory | deep]
"""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from tests.benchmarks import numbers
from workbench.core.planted import word_level

ROOT = Path(__file__).resolve().parents[2]
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    # As deep and as many heads as the largest GPT-2, and as many tokens; narrower, to fit anywhere.
    "deep": {"n_layer": 48, "n_head": 25, "n_embd": 400},
}
SAID = {"gpt2": "GPT-2 small shape", "deep": "48 layers of 25 heads"}
LENGTHS = {"gpt2": 1024, "deep": 128}
MOST_MEGABYTES = 4096
View = Callable[[TransformerBridge, list[int]], object]


def model_of(shape: str) -> TransformerBridge:
    """A model with random weights."""
    torch.manual_seed(0)
    whole = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SHAPES[shape])).eval()
    tokenizer = word_level.word_tokenizer(word_level.WORDS, bos=False)
    model = TransformerBridge.boot_transformers("gpt2", hf_model=whole, tokenizer=tokenizer)
    model.tokenizer = None
    return model


def views() -> Mapping[str, View]:
    """What is measured, by name."""
    from analyses import activations, attention, contributions, direct_attribution, logit_lens
    from analyses import weights as matrices

    return {
        "logit lens": logit_lens.read,
        "direct attribution": lambda model, ids: direct_attribution.attribute(model, ids, 5),
        "attention, all heads": attention.look,
        "contributions": contributions.trace,
        "activations, neurons": lambda model, ids: activations.values(
            model, ids, "blocks.0.mlp.hook_post"
        ),
        "activations, stream": activations.stream,
        "weights, copying": lambda model, ids: matrices.copying(model),
    }


def measured(shape: str, view: str) -> dict[str, float]:
    """Seconds, and megabytes above the model, of one view in this process."""
    model = model_of(shape)
    ids = torch.randint(3, 50_000, (LENGTHS[shape],), generator=torch.Generator().manual_seed(0))
    function = views()[view]
    # What was freed goes back to the system, so that the peak is the view's own.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _resident()
    started = time.perf_counter()
    made: Any = function(model, ids.tolist())
    seconds = time.perf_counter() - started
    del made
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "megabytes": peak - before}


def all_measured(shape: str) -> dict[str, dict[str, float]]:
    """Every view, each in a process of its own."""
    found: dict[str, dict[str, float]] = {}
    for view in views():
        command = [sys.executable, "-m", "tests.benchmarks.inspector", "one", shape, view]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{view}: {done.stderr[-2000:]}")
        found[view] = json.loads(done.stdout.splitlines()[-1])
        numbers.say(
            "inspector",
            f"memory of {view}, {SAID[shape]}, {LENGTHS[shape]:,} tokens",
            found[view]["megabytes"] / MOST_MEGABYTES,
            "of the 4 GB above the model that a view may take",
            seconds=f"{found[view]['megabytes']:.0f} MB, {found[view]['seconds']:.2f} s",
        )
    return found


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(measured(sys.argv[2], sys.argv[3])))
    else:
        chosen = sys.argv[1:] or ["memory", "deep"]
        for name in chosen:
            all_measured("gpt2" if name == "memory" else "deep")
