"""Samples in shards: files of fixed-size columns that are memory-mapped, and sets of them with a signed manifest.

with ShardWriter(folder, columns, samples_per_shard=65_536) as writer:   # a table
    writer.write({"features": rows, "target": targets})
with TokenWriter(folder, sequence_length=1024, vocabulary_size=50_257) as writer:  # a token stream
    writer.write(tokens)
samples = publish(store, key, writer.files, kind=writer.kind)            # whole or absent
samples = open_set(store, key)
MappedShard(path).columns["features"][[5, 3, 8]]                         # random access, nothing is copied before
"""

from millrace.shards.columns import Column
from millrace.shards.reader import MappedShard
from millrace.shards.sample_set import SampleSet, Shard, open_set, publish
from millrace.shards.tokens import TokenWriter, smallest_token_dtype
from millrace.shards.writer import ShardWriter

__all__ = [
    "Column",
    "MappedShard",
    "SampleSet",
    "Shard",
    "ShardWriter",
    "TokenWriter",
    "open_set",
    "publish",
    "smallest_token_dtype",
]
