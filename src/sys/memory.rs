//! Memory of small processes: one malloc arena instead of one a thread, and freed pages back to the kernel after a burst.

/// Keeps all threads on one arena and returns the heap's top early. Call before the first thread starts.
pub fn stay_small() {
    // SAFETY: mallopt takes plain numbers and is called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// Gives freed pages back.
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}
