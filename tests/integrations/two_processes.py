"""Two processes, as torchrun starts them: train with each framework, save what comes out.

    python two_processes.py FOLDER

Forked from one that has imported the frameworks, which takes longer than the training does.
"""

import os
import socket
import sys
from multiprocessing import get_context

import torch


def train(rank: int, port: int, folder: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",  # how Lightning knows torchrun
    }
    import accelerate_loop
    import hf_trainer
    import lightning_module
    import torchmetrics_ddp

    results = {
        "accelerate": accelerate_loop.train().state_dict(),
        "transformers": hf_trainer.train(batch=16).state_dict(),
        "torchmetrics": torchmetrics_ddp.evaluate(),
        "lightning": lightning_module.train(devices=2).state_dict(),
    }
    torch.save(results, f"{folder}/{rank}.pt")


def main() -> None:
    import accelerate_loop  # noqa: F401
    import hf_trainer  # noqa: F401
    import lightning_module  # noqa: F401
    import torchmetrics_ddp  # noqa: F401

    torch.set_default_dtype(torch.float64)  # so that what is left is not rounding
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = get_context("fork")
    children = [context.Process(target=train, args=(rank, port, sys.argv[1])) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(abs(child.exitcode) for child in children))


if __name__ == "__main__":
    main()
