"""Batches for one rank of a training, from one global position that no kill and no change of world size loses.

    loader = Loader(samples, StoreSource(store), batch_size=512, seed=1, rank=rank, world_size=world,
                    cache=Cache(folder, max_bytes), device=device, epochs=3)
    loader.load_state_dict(state)           # a new process, another world size: the next batch is the next one
    with loader:
        for batch in loader:                # Batch(step, epoch, tensors, wait_seconds), of this rank's rows
            train(batch.tensors)
            state = loader.state_dict()     # JSON, under 4 KB: what was taken, not what was fetched ahead

The concatenation of the ranks' rows is the global batch, the same for every world size. `Loader.steps_per_epoch` is the
same for every rank. `Loader.report()` tells what was waited for and how deep the loader reads ahead. Nothing here needs
Ray.
"""

from millrace.loader.cache import Cache
from millrace.loader.fetch import Policy, Source, StoreSource
from millrace.loader.loader import Batch, Loader
from millrace.loader.position import Position

__all__ = ["Batch", "Cache", "Loader", "Policy", "Position", "Source", "StoreSource"]
