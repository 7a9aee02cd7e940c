"""One of two processes, as torchrun starts them: trains with each framework, saves what comes out.

    RANK=0 WORLD_SIZE=2 ... python two_processes.py FILE
"""

import sys

import torch

torch.set_default_dtype(torch.float64)  # so that what is left is not rounding
torch.set_num_threads(1)

import accelerate_loop  # noqa: E402
import hf_trainer  # noqa: E402
import lightning_module  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torchmetrics_ddp  # noqa: E402

results = {
    "accelerate": accelerate_loop.train().state_dict(),
    "transformers": hf_trainer.train(batch=16).state_dict(),
    "torchmetrics": torchmetrics_ddp.evaluate(),
    "lightning": lightning_module.train(devices=2).state_dict(),
}
torch.save(results, sys.argv[1])
if dist.is_initialized():
    dist.destroy_process_group()
