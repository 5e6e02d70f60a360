"""One of the processes that share a device: torchrun gpu_worker.py FILE DEVICE FORM."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from gpu_checks import distillation, drawn_on_the_host, take, weights
from lenient.core import ranks
from lenient.core.runtime import Runtime


def main(file: str, device: str, name: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with drawn_on_the_host():
        run = distillation(name, Runtime(torch.device(device), "64"))
        take(run, 3)
    if ranks.is_main():
        torch.save(weights(run), file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
