//! The index of a sharded model, and one shard.

#![no_main]

use chiaro::weights::{WeightFile, join_shards};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The index and the shard, with a 0 between them.
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (index, shard) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let _ = join_shards("index", index, |name| Some(WeightFile::from_bytes(shard.to_vec(), name)).transpose());
});
