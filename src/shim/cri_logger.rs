//! CRI logger: the log writer as a logging program of containerd's (`binary://`), for shims other than ours. Such a shim starts it
//! beside the container, so that the log goes on while the daemon is down. A renamed log file is noticed before each write.
use super::log::{Format, Log, Stream};
use crate::error::{Context, Result};
use crate::sys::inherit;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where containerd's convention puts output, error output, and the pipe whose closing says that we are ready.
const PLACES: (i32, i32, i32) = (3, 4, 5);

/// What the URI's query asks for.
pub struct Wish {
    path: PathBuf,
    max_line: usize,
}

/// Key and value pairs, in any order; none unless they name a log.
pub fn wish(words: impl Iterator<Item = String>) -> Option<Wish> {
    let words: Vec<String> = words.collect();
    let value = |key: &str| words.chunks(2).find(|pair| pair[0] == key).and_then(|pair| pair.get(1));
    Some(Wish { path: value("cri-log")?.into(), max_line: value("max_line").and_then(|v| v.parse().ok()).unwrap_or(16384) })
}

/// Writes until both streams have ended.
pub fn run(wish: &Wish) -> ExitCode {
    match write(wish) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("containerd-shim-cradle-v2 cri-log: {}", e.chain());
            ExitCode::FAILURE
        }
    }
}

fn write(wish: &Wish) -> Result<()> {
    let take = |place| inherit::take(place).map(File::from).during(|| format!("descriptor {place} is not open: this is started by shims"));
    let mut streams = [(Stream::Stdout, Some(take(PLACES.0)?)), (Stream::Stderr, Some(take(PLACES.1)?))];
    let mut log = Log::open(&wish.path, Format::Cri(wish.max_line))?;
    drop(take(PLACES.2)?);
    let mut buffer = vec![0u8; 32 << 10];
    while streams.iter().any(|(_, pipe)| pipe.is_some()) {
        let ready = wait(&streams);
        for ((stream, pipe), events) in streams.iter_mut().zip(ready) {
            let Some(file) = pipe.as_mut().filter(|_| !events.is_empty()) else { continue };
            match file.read(&mut buffer) {
                Ok(n) if n > 0 => {
                    follow(&mut log)?;
                    log.take(*stream, &buffer[..n]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => {
                    log.finish(*stream);
                    *pipe = None;
                }
            }
        }
    }
    Ok(())
}

fn wait(streams: &[(Stream, Option<File>); 2]) -> [PollFlags; 2] {
    let mut fds = vec![];
    for (_, pipe) in streams {
        fds.extend(pipe.as_ref().map(|p| PollFd::new(p, PollFlags::IN)));
    }
    let _ = poll(&mut fds, None);
    let mut found = fds.iter().map(PollFd::revents);
    streams.each_ref().map(|(_, pipe)| pipe.as_ref().and_then(|_| found.next()).unwrap_or(PollFlags::empty()))
}

/// A log that was renamed for rotation goes on in a new file.
fn follow(log: &mut Log) -> Result<()> {
    if same(log.path(), log) { Ok(()) } else { log.reopen() }
}

fn same(path: &Path, log: &Log) -> bool {
    match (std::fs::metadata(path), log.metadata()) {
        (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_querys_order_does_not_matter_and_other_words_are_no_wish() {
        let of = |line: &str| wish(line.split(' ').map(String::from));
        let w = of("max_line 100 cri-log /var/log/x").unwrap();
        assert_eq!((w.path, w.max_line), (PathBuf::from("/var/log/x"), 100));
        assert!(of("-namespace n -id x start").is_none());
    }
}
