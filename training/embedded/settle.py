"""Between stages 3 and 4: bring a network in 4 bits back to what it gives in full precision.

    python training/embedded/settle.py --cache CACHE --nyu NYU --start START.pt --out SETTLED.pt

START.pt is of `blend.py`, or a general_STEP.pt: a network that was not trained on the grids of its 4 bits. On every
picture the rounded network imitates the exact one: what both heads give, and the tokens at the four taps. No label and
no ground truth is looked at, so it cannot get better than the exact one, and needs few steps. The grids stay those of
the start, and lie in SETTLED.pt, for `package.py`. A stopped run begins anew.
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from torch import Tensor
from train import SIZE, EightBits, FourBits, Joint, parameter_groups, save, share_of_rate, start_of
from views import batch_of, load


def outputs(joint: Joint, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return what both heads give, and the tokens at the taps."""
    taps = joint.net.taps_of(image)
    features = joint.net.decode(image, taps)
    return [head(features) for head in (joint.net.inverse_head, joint.net.depth_head)], taps


def imitation_loss(joint: Joint, exact: Joint, image: Tensor) -> Tensor:
    """Return how far a network is from another: L1 of the maps over their spread, squares of the tokens over theirs."""
    with torch.no_grad():
        wanted_maps, wanted_taps = outputs(exact, image)
    maps, taps = outputs(joint, image)
    loss = image.new_zeros(())
    for got, wanted in zip(maps, wanted_maps, strict=True):
        spread = (wanted - wanted.mean((2, 3), keepdim=True)).abs().mean((2, 3), keepdim=True)
        loss = loss + ((got - wanted).abs() / spread.clamp_min(1e-3)).mean()
    for got, wanted in zip(taps, wanted_taps, strict=True):
        loss = loss + (got - wanted).square().mean() / wanted.var()
    return loss


def main() -> None:
    """Settle the network on the grids of its start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--nyu", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-4, help="of the decoder")
    parser.add_argument("--relative-lr", type=float, default=4e-4, help="of the transformer, as a share of each matrix")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.frozen = 0
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    joint = Joint()
    start_of(args.start, joint)
    pool = load(args.cache, args.nyu, None, device)
    joint = joint.to(device, memory_format=torch.channels_last)
    exact = copy.deepcopy(joint).eval()
    grids = FourBits(joint)
    EightBits(joint)
    groups = parameter_groups(joint, args)
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    rates = [group["lr"] for group in optimiser.param_groups]
    recent: list[Tensor] = []
    begin = time.time()
    for step in range(args.steps):
        batch = batch_of(pool, step, seed=args.seed, count=args.batch, size=SIZE)
        image = batch.image.contiguous(memory_format=torch.channels_last)
        joint.train()
        grids.snap()
        loss = imitation_loss(joint, exact, image)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        grids.restore()
        torch.nn.utils.clip_grad_norm_(joint.parameters(), 2.0)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * share_of_rate(step, args.steps, 0)
        optimiser.step()
        recent.append(loss.detach())
        if (step + 1) % 10 == 0:
            rate = (step + 1) * args.batch / (time.time() - begin)
            mean = torch.stack(recent[-10:]).mean()
            print(f"{step + 1}/{args.steps} loss {mean:.4f} {rate:.1f} pictures/s", flush=True)
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            names = FourBits.matrices(joint)[0]
            kept = {name: tuple(grid) for name, grid in zip(names, grids.grids, strict=True)}
            save(args.out, {"average": joint.split()["general"], "grids": kept})


if __name__ == "__main__":
    main()
