//! Progress of a pull on standard error: on a terminal a bar for each layer on its way, else a line when a layer is here.
//! What is on its way is asked of the daemon, so it is what all pulls of the namespace are at.
use crate::proto::content::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Ingests of layers are named so.
const LAYER: &str = "layer-";
/// A terminal that does not tell its width.
const WIDTH: usize = 80;

/// What was shown so far.
pub struct Progress {
    layers: BTreeMap<String, Layer>,
    done: BTreeSet<String>,
    terminal: bool,
    /// Lines of bars that the next look writes over.
    bars: usize,
    begun: Instant,
}

/// A layer on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Layer {
    offset: u64,
    total: u64,
    /// Bytes a second since the last look, smoothed.
    speed: f64,
    seen: Instant,
}

impl Progress {
    /// Nothing yet.
    pub fn new() -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { layers: BTreeMap::new(), done: BTreeSet::new(), terminal, bars: 0, begun: Instant::now() }
    }
    /// Shows what is new.
    pub fn look(&mut self, statuses: &[Status]) {
        let now = Instant::now();
        let on_the_way: BTreeMap<String, (u64, u64)> = statuses.iter().filter_map(layer_of).collect();
        let gone: Vec<(String, Layer)> =
            self.layers.iter().filter(|(k, _)| !on_the_way.contains_key(*k)).map(|(k, l)| (k.clone(), *l)).collect();
        let mut text = self.wipe();
        for (name, layer) in gone {
            self.layers.remove(&name);
            // A layer that comes again after an error is told once.
            if self.done.insert(name.clone()) {
                text += &format!("{}: {}\n", short(&name), size(layer.total.max(layer.offset)));
            }
        }
        for (name, (offset, total)) in on_the_way {
            let fresh = Layer { offset, total, speed: 0.0, seen: now };
            self.layers.entry(name).and_modify(|l| *l = l.moved_to(fresh)).or_insert(fresh);
        }
        if self.terminal {
            let told = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |w| usize::from(w.ws_col));
            let width = if told == 0 { WIDTH } else { told.max(40) };
            self.layers.iter().for_each(|(name, layer)| text += &format!("{}\n", bar(name, layer, width)));
            self.bars = self.layers.len();
        }
        say(&text);
    }
    /// Takes the bars away and says how it ended.
    pub fn end(&mut self, image: &str, outcome: Result<&str, ()>) {
        let text = self.wipe();
        let time = self.begun.elapsed().as_millis();
        match outcome {
            Ok(id) => say(&format!("{text}{image}: {id} in {time} ms\n")),
            Err(()) => say(&format!("{text}{image}: not pulled after {time} ms\n")),
        }
    }
    fn wipe(&mut self) -> String {
        match std::mem::take(&mut self.bars) {
            0 => String::new(),
            // Up so many lines, and nothing below.
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }
}

impl Layer {
    fn moved_to(self, now: Layer) -> Layer {
        let time = now.seen.saturating_duration_since(self.seen).max(Duration::from_millis(1));
        let speed = now.offset.saturating_sub(self.offset) as f64 / time.as_secs_f64();
        Layer { speed: if self.speed == 0.0 { speed } else { 0.7 * self.speed + 0.3 * speed }, ..now }
    }
}

fn layer_of(status: &Status) -> Option<(String, (u64, u64))> {
    let name = status.ref_.strip_prefix(LAYER)?;
    Some((name.to_string(), (u64::try_from(status.offset).ok()?, u64::try_from(status.total).ok()?)))
}

/// `layer 0123456789ab`.
fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    format!("layer {}", hex.get(..12).unwrap_or(hex))
}

fn bar(name: &str, layer: &Layer, width: usize) -> String {
    let share = if layer.total == 0 { 0.0 } else { (layer.offset as f64 / layer.total as f64).min(1.0) };
    let sizes = format!("{:>9}/{:<9} {:>9}/s", size(layer.offset), size(layer.total), size(layer.speed as u64));
    let name = short(name);
    let room = width.saturating_sub(name.len() + sizes.len() + 5).min(50);
    let full = (share * room as f64) as usize;
    format!("{name} [{}{}] {sizes}", "=".repeat(full), " ".repeat(room - full))
}

/// Three digits and a unit.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn say(text: &str) {
    // Who closed standard error wants to hear nothing.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fits_the_line_and_shows_the_share() {
        let layer = |offset| Layer { offset, total: 4 << 20, speed: 1_500_000.0, seen: Instant::now() };
        for width in [40, 80, 200] {
            for (offset, share) in [(0, 0.0), (2 << 20, 0.5), (4 << 20, 1.0), (5 << 20, 1.0)] {
                let line = bar("sha256:0123456789abcdef", &layer(offset), width);
                assert!(line.len() < width.max(64), "{line}");
                let (full, room) = (line.matches('=').count(), line.find(']').unwrap() - line.find('[').unwrap() - 1);
                assert_eq!(full, (room as f64 * share) as usize, "{line}");
            }
        }
        assert!(bar("sha256:0123456789abcdef", &layer(2 << 20), 80).ends_with("2.0 MiB/4.0 MiB     1.4 MiB/s"));
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, want) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1536 << 10, "1.5 MiB"), (u64::MAX, "16777216.0 TiB")] {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn the_speed_is_smoothed() {
        let begun = Instant::now();
        let at = |offset, ms| Layer { offset, total: 10, speed: 0.0, seen: begun + Duration::from_millis(ms) };
        let once = at(0, 0).moved_to(at(1000, 500));
        assert_eq!(once.speed as u64, 2000);
        assert_eq!(once.moved_to(at(1000, 1000)).speed as u64, 1400);
    }
}
