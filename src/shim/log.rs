//! The CRI log: what a process writes becomes whole lines `<time> stdout|stderr F|P <text>` in one file, never interleaved.
//!
//! A line over the limit is cut into P … P F; a last one without newline is P; a carriage return before the newline is dropped.
//! Any bytes are kept. A full disk costs whole lines, which are counted, and nothing else.
use super::clock::Stamp;
use crate::error::{Context, Result};
use memchr::memchr;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest line where the caller sets no limit: what a line without end may cost in memory.
const UNLIMITED: usize = 1 << 20;
/// Entries are gathered up to here and written at once.
const BATCH: usize = 64 << 10;

/// Which of the two streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output, and a terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How entries look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// CRI lines, cut at a length; 0 is no limit.
    Cri(usize),
    /// The bytes as they come.
    Raw,
}

/// Counts that others may read at any time.
#[derive(Default)]
pub struct Counts {
    /// Entries written.
    pub lines: AtomicU64,
    /// Entries that a full disk took.
    pub lost_lines: AtomicU64,
    /// Their bytes.
    pub lost_bytes: AtomicU64,
}

/// A log file and the unfinished line of each stream.
pub struct Log {
    path: PathBuf,
    file: File,
    format: Format,
    pending: [Pending; 2],
    batch: Vec<u8>,
    /// Where in the batch each entry ends.
    ends: Vec<usize>,
    counts: Arc<Counts>,
    stamp: Stamp,
}

#[derive(Default)]
struct Pending {
    text: Vec<u8>,
    /// A carriage return whose newline may come with the next read.
    cr: bool,
}

impl Log {
    /// Opens the file to append, with the directories above it.
    pub fn open(path: &Path, format: Format) -> Result<Log> {
        let file = open(path, format).during(|| format!("open log {}", path.display()))?;
        Ok(Log {
            path: path.into(),
            file,
            format,
            pending: Default::default(),
            batch: vec![],
            ends: vec![],
            counts: Arc::default(),
            stamp: Stamp::default(),
        })
    }
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// What the file is now.
    pub fn metadata(&self) -> std::io::Result<std::fs::Metadata> {
        self.file.metadata()
    }
    /// Its counts.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
    /// Opens the path afresh; on failure the old file stays in use. Everything before went to the old file, all after goes to the new.
    pub fn reopen(&mut self) -> Result<()> {
        self.flush();
        self.file = open(&self.path, self.format).during(|| format!("reopen log {}", self.path.display()))?;
        Ok(())
    }
    /// Takes what was read, and writes the whole lines in it.
    pub fn take(&mut self, stream: Stream, data: &[u8]) {
        match self.format {
            Format::Raw => {
                self.batch.extend_from_slice(data);
                self.ends.push(self.batch.len());
            }
            Format::Cri(limit) => self.split(stream, data, if limit == 0 { UNLIMITED } else { limit }),
        }
        self.flush();
    }
    /// The stream is over: an unfinished line is written as partial.
    pub fn finish(&mut self, stream: Stream) {
        let Pending { mut text, cr } = std::mem::take(&mut self.pending[stream as usize]);
        if cr {
            text.push(b'\r');
        }
        if !text.is_empty() {
            self.entry(stream, b'P', &text, &[]);
        }
        self.flush();
    }
    fn split(&mut self, stream: Stream, mut data: &[u8], limit: usize) {
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        while !data.is_empty() {
            let newline = memchr(b'\n', data);
            let (mut line, rest) = data.split_at(newline.unwrap_or(data.len()));
            data = rest.get(1..).unwrap_or_default();
            if pending.cr {
                pending.cr = false;
                // The carriage return of the last read counts as text unless its newline is the very next byte.
                if !(newline.is_some() && line.is_empty()) {
                    self.text(stream, &mut pending.text, b"\r", limit);
                }
            }
            if let Some(without) = line.strip_suffix(b"\r") {
                line = without;
                pending.cr = newline.is_none();
            }
            if newline.is_none() {
                self.text(stream, &mut pending.text, line, limit);
                break;
            }
            // The frequent case, a line that is whole in this read, is not copied twice.
            if pending.text.len() + line.len() > limit {
                self.text(stream, &mut pending.text, line, limit);
                line = &[];
            }
            self.entry(stream, b'F', &pending.text, line);
            pending.text.clear();
        }
        if pending.text.is_empty() && pending.text.capacity() > 0 {
            pending.text = Vec::new();
        }
        self.pending[stream as usize] = pending;
    }
    /// Adds to an unfinished line; whenever it goes over the limit, what fits becomes a partial entry.
    fn text(&mut self, stream: Stream, pending: &mut Vec<u8>, mut line: &[u8], limit: usize) {
        while pending.len() + line.len() > limit {
            let (fits, rest) = line.split_at(limit - pending.len());
            self.entry(stream, b'P', pending, fits);
            pending.clear();
            line = rest;
        }
        pending.extend_from_slice(line);
    }
    fn entry(&mut self, stream: Stream, tag: u8, head: &[u8], tail: &[u8]) {
        self.stamp.now(&mut self.batch);
        self.batch.extend_from_slice(if stream == Stream::Stdout { b" stdout " } else { b" stderr " });
        self.batch.extend_from_slice(&[tag, b' ']);
        self.batch.extend_from_slice(head);
        self.batch.extend_from_slice(tail);
        self.batch.push(b'\n');
        self.ends.push(self.batch.len());
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }
    fn flush(&mut self) {
        let mut written = 0;
        while written < self.batch.len() {
            match self.file.write(&self.batch[written..]) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // No space, a quota, a broken disk: the container must not pay for it.
                Err(_) => break,
            }
        }
        self.count(written);
        self.batch.clear();
        self.ends.clear();
        if self.batch.capacity() > BATCH / 4 {
            self.batch = Vec::new();
            self.ends = Vec::new();
        }
    }
    /// Counts what was written and what was not, and takes the beginning of a line back that did not fit.
    fn count(&mut self, written: usize) {
        let whole = self.ends.partition_point(|end| *end <= written);
        self.counts.lines.fetch_add(whole as u64, Ordering::Relaxed);
        if written == self.batch.len() {
            return;
        }
        let kept = if whole == 0 { 0 } else { self.ends[whole - 1] };
        self.counts.lost_lines.fetch_add((self.ends.len() - whole) as u64, Ordering::Relaxed);
        self.counts.lost_bytes.fetch_add((self.batch.len() - kept) as u64, Ordering::Relaxed);
        if written > kept
            && let Ok(meta) = self.file.metadata()
        {
            let _ = self.file.set_len(meta.len().saturating_sub((written - kept) as u64));
        }
    }
}

fn open(path: &Path, format: Format) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | if format == Format::Raw { Mode::ROTH } else { Mode::empty() };
    // A link in place of the file could lead anywhere on the host.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, mode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("cradle-shim-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// The entries without their time.
    fn entries(path: &Path) -> Vec<String> {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        text.split_terminator('\n').map(|l| l.split_once(' ').unwrap().1.to_string()).collect()
    }

    fn logged(name: &str, limit: usize, reads: &[&[u8]]) -> Vec<String> {
        let dir = Dir::new(name);
        let path = dir.0.join("sub/0.log");
        let mut log = Log::open(&path, Format::Cri(limit)).unwrap();
        for read in reads {
            log.take(Stream::Stdout, read);
        }
        log.finish(Stream::Stdout);
        entries(&path)
    }

    #[test]
    fn lines_over_several_reads_and_the_last_without_newline() {
        assert_eq!(logged("a", 10, &[b"a\nb", b"c\n\nd"]), ["stdout F a", "stdout F bc", "stdout F ", "stdout P d"]);
        assert!(logged("b", 10, &[]).is_empty());
    }

    #[test]
    fn long_lines_are_cut_and_exact_ones_are_not() {
        assert_eq!(logged("c", 4, &[b"abcd\n"]), ["stdout F abcd"]);
        assert_eq!(logged("d", 4, &[b"abcde\n"]), ["stdout P abcd", "stdout F e"]);
        assert_eq!(logged("e", 4, &[b"ab", b"cdefghi"]), ["stdout P abcd", "stdout P efgh", "stdout P i"]);
        assert_eq!(logged("f", 0, &[&[b'x'; 40_000], b"\n"]), [format!("stdout F {}", "x".repeat(40_000))]);
    }

    #[test]
    fn a_carriage_return_goes_only_before_its_newline() {
        assert_eq!(logged("g", 4, &[b"abcd\r", b"\nx\r\n"]), ["stdout F abcd", "stdout F x"]);
        assert_eq!(logged("h", 4, &[b"a\rb\r", b"c\n"]), ["stdout P a\rb\r", "stdout F c"]);
        assert_eq!(logged("i", 9, &[b"\r\n", b"ab\r"]), ["stdout F ", "stdout P ab\r"]);
    }

    #[test]
    fn streams_do_not_mix_and_any_bytes_are_kept() {
        let dir = Dir::new("j");
        let path = dir.0.join("0.log");
        let mut log = Log::open(&path, Format::Cri(100)).unwrap();
        log.take(Stream::Stdout, b"out");
        log.take(Stream::Stderr, b"err\xff\n");
        log.take(Stream::Stdout, b"put\n");
        let bytes = std::fs::read(&path).unwrap();
        let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
        assert!(lines[0].ends_with(b" stderr F err\xff") && lines[1].ends_with(b" stdout F output"));
        assert_eq!(log.counts().lines.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn reopening_loses_and_doubles_nothing() {
        let dir = Dir::new("k");
        let path = dir.0.join("0.log");
        let mut log = Log::open(&path, Format::Cri(100)).unwrap();
        log.take(Stream::Stdout, b"one\ntw");
        std::fs::rename(&path, dir.0.join("0.log.1")).unwrap();
        log.reopen().unwrap();
        log.take(Stream::Stdout, b"o\n");
        assert_eq!(entries(&dir.0.join("0.log.1")), ["stdout F one"]);
        assert_eq!(entries(&path), ["stdout F two"]);
    }

    #[test]
    fn a_full_disk_costs_whole_lines() {
        let mut log = Log::open(Path::new("/dev/full"), Format::Cri(100)).unwrap();
        log.take(Stream::Stdout, b"one\ntwo\n");
        let counts = log.counts();
        assert_eq!((counts.lines.load(Ordering::Relaxed), counts.lost_lines.load(Ordering::Relaxed)), (0, 2));
        assert!(counts.lost_bytes.load(Ordering::Relaxed) > 60);
    }

    #[test]
    fn the_beginning_of_a_line_that_did_not_fit_is_taken_back() {
        let dir = Dir::new("l");
        let path = dir.0.join("0.log");
        let mut log = Log::open(&path, Format::Cri(100)).unwrap();
        log.take(Stream::Stdout, b"one\n");
        log.batch = b"two\nthr".to_vec();
        log.ends = vec![4, 10];
        log.file.write_all(b"two\nth").unwrap();
        log.count(6);
        assert!(std::fs::read(&path).unwrap().ends_with(b"one\ntwo\n"));
    }
}
