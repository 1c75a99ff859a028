"""Lock-free parallel training on one machine ("Hogwild"): N single-threaded processes share the
weights and each applies its own AdamW steps to them, without waiting for the others.

On a busy CPU this beats both one process with N threads, which waits at a barrier in every
operator, and averaged gradients, which wait for the slowest process.  On a GPU use one process.
"""
import torch.multiprocessing as mp


def launch(fn, args, shared):
    """fn(rank, args, shared); `shared` holds modules whose weights all processes update."""
    if args.procs <= 1:
        return fn(0, args, shared)
    for m in shared:
        m.share_memory()
    mp.spawn(fn, (args, shared), nprocs=args.procs)
