"""Time FCRN's up-convolution against its definition, and a training step in short numbers against the plain one.

Run ``python benchmarks/fcrn_decoder.py [--threads N] [--repeats N] [--device cuda]``. Prints:

* the UpProj decoder on the 8x10 map of a 228x304 image, in the fast forms and as unpooling + 5x5: largest difference,
  time, ratio;
* one forward and backward pass of FCRN-UpProj at 228x304: plain float32, and bfloat16 with channels last where the
  device has it.

Times are the best of the repeats, taken in turns, so that a busy machine disturbs all alike. On one CPU thread they are
processor time, which other programs disturb less than the clock on the wall.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from fathom.models.fcrn import FCRN, build_fcrn
from fathom.runtime.torch import cpu_has_bf16


def best_times(runs: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Time every run in turns and keep the best [s]."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def once(run: Callable[[], object]) -> float:
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    for run in runs.values():
        once(run)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(once(run))
    return {name: min(values) for name, values in times.items()}


def decoders(device: str) -> dict[str, nn.Module]:
    """Build the full-size decoder three times with the same weights."""
    torch.manual_seed(0)
    networks: dict[str, FCRN] = {
        form: build_fcrn(form=form, blocks=(1, 1, 1, 1)).eval() for form in ("branches", "shuffle", "unpool")
    }
    for network in networks.values():
        network.load_state_dict(networks["unpool"].state_dict())
    return {form: network.decoder.to(device) for form, network in networks.items()}


def compare_decoders(repeats: int, device: str) -> None:
    """Print difference and times of the decoder's forms, for inference and for a training pass."""
    forms = decoders(device)
    maps = torch.randn(1, 1024, 8, 10, device=device)
    with torch.no_grad():
        reference = forms["unpool"](maps)
        for form in ("branches", "shuffle"):
            difference = (forms[form](maps) - reference).abs().max().item()
            print(f"decoder, {form} - unpool: largest difference {difference:.1e} (values to {reference.max():.2f})")
        inference = best_times({form: lambda net=net: net(maps) for form, net in forms.items()}, repeats, device)

    def train(net: nn.Module) -> None:
        net.zero_grad(set_to_none=True)
        net(maps).sum().backward()

    training = best_times({form: lambda net=net: train(net) for form, net in forms.items()}, repeats, device)
    for what, times in (("forward", inference), ("forward + backward", training)):
        for form, seconds in times.items():
            print(f"decoder, {what}, {form:8s}: {seconds * 1e3:8.1f} ms, {times['unpool'] / seconds:.2f}x unpool + 5x5")


def compare_training_steps(repeats: int, device: str, batch: int) -> None:
    """Print the time of a forward and backward pass at 228x304."""
    plain = build_fcrn().train().to(device)
    short = build_fcrn().train().to(device, memory_format=torch.channels_last)
    naive = build_fcrn(form="unpool").train().to(device)
    image = torch.randn(batch, 3, 228, 304, device=device)

    def step(network: nn.Module, picture: torch.Tensor, autocast: bool) -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            depth = network(picture)
        depth.float().mean().backward()

    runs = {
        "float32, unpool + 5x5": lambda: step(naive, image, False),
        "float32": lambda: step(plain, image, False),
    }
    if device == "cuda" or cpu_has_bf16():  # a CPU without it emulates it, and the time says nothing
        runs["bfloat16, channels last"] = lambda: step(short, image.to(memory_format=torch.channels_last), True)
    times = best_times(runs, repeats, device)
    for name, seconds in times.items():
        ratio = times["float32"] / seconds
        print(f"FCRN-UpProj 228x304, batch {batch}, {name}: {seconds:.3f} s, {ratio:.2f}x plain float32")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"torch {torch.__version__} on {place}, {options.threads} threads, load {load}")
    compare_decoders(options.repeats, options.device)
    compare_training_steps(options.repeats, options.device, options.batch)


if __name__ == "__main__":
    main()
