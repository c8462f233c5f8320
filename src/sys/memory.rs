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

/// Gives freed pages back, and lets go of program text that was needed once: the page cache keeps it for whoever runs it next.
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
    for (start, length) in text(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
        // SAFETY: the range is a mapping of this process that may be read and run but never written, so that its pages are all
        // the file's: dropping them loses nothing, the next use reads them from the page cache again.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of each `r-xp` mapping of a file, in proc_pid_maps(5)'s form.
fn text(maps: &str) -> Vec<(usize, usize)> {
    let one = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let code = fields.next()? == "r-xp" && fields.nth(3)?.starts_with('/');
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        code.then_some((start, end.checked_sub(start)?))
    };
    maps.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_let_go() {
        let maps = "1000-3000 r-xp 00000000 fe:00 12 /usr/bin/x\n3000-4000 r--p 00000000 fe:00 12 /usr/bin/x\n\
                    5000-6000 r-xp 00000000 00:00 0 [vdso]\n7000-8000 rwxp 00000000 fe:00 12 /usr/bin/x\n";
        assert_eq!(text(maps), [(0x1000, 0x2000)]);
        trim();
    }
}
