//! Hostile payloads cost no more memory than the limit and a decoder's working memory, whatever they claim.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use millpond_record::{Codec, DecompressLimit, compress, decompress};

/// Counts what is allocated at once. Zstandard's own memory is C's and not counted; its window is bounded by a setting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the memory is from `alloc` with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is allocated at most while `run` runs, beyond what was before.
fn peak_bytes(run: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    run();
    PEAK.load(Ordering::Relaxed) - before
}

// One test: the counters are the process's, and tests run side by side.
#[test]
fn a_payload_costs_no_more_than_the_limit_and_a_working_memory() {
    const MIB: usize = 1 << 20;
    const LIMIT: DecompressLimit = DecompressLimit(4 * MIB);
    // While the output grows the old and the new buffer are there, of half the limit and the limit.
    const OUTPUT: usize = LIMIT.0 * 3 / 2 + 1024;

    let bomb = vec![0; 64 * MIB];
    for (codec, working_memory) in [
        (Codec::None, 0),
        (Codec::Gzip, MIB),
        // One block of the frame, of which the input may hold but one of any size.
        (Codec::Snappy, LIMIT.0),
        (Codec::Lz4, 13 * MIB),
        (Codec::Zstd, MIB),
    ] {
        let payload = compress(codec, &bomb);
        let peak = peak_bytes(|| assert!(decompress(codec, &payload, LIMIT).is_err(), "{codec}"));
        assert!(peak <= OUTPUT + working_memory, "{codec} took {peak} bytes");
    }

    let raw_snappy_of_4_gib = [0xff, 0xff, 0xff, 0xff, 0x0f, 0xfe, 0xff];
    let unlimited = DecompressLimit(usize::MAX);
    let peak = peak_bytes(|| assert!(decompress(Codec::Snappy, &raw_snappy_of_4_gib, unlimited).is_err()));
    assert!(peak < 64 << 10, "a claim of 4 GiB took {peak} bytes");
}
