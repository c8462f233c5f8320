//! A connection's streams and windows.
//!
//! Windows are honoured both ways: ours are opened again as bytes find their way, and no more is sent than the client's allow.
//! The library of all Go clients knows no windows and would wait for ever for its second 64 KiB, so the client's windows count
//! from its first SETTINGS or WINDOW_UPDATE on; until then TCP alone holds us back.
use super::frame::{self, Control, HEAD, Head, Reason};
use super::headers::{Decoder, Empty};
use crate::cri::streaming::wire::{Event, Violation, Wire};
use std::collections::HashMap;

/// What a window begins with.
const WINDOW: i64 = 64 << 10;
/// Largest window.
const WINDOW_MAX: i64 = i32::MAX as i64;
/// A window update is worth its frame from here on.
const WORTH: usize = 16 << 10;
/// Most streams that are open at a time.
const STREAMS_MAX: usize = 1024;
/// Largest data frame that we send.
const PIECE: usize = 16 << 10;

/// The server's side of a connection.
pub struct Spdy {
    reading: Reading,
    /// The part of a head or control frame that has come.
    partial: Vec<u8>,
    streams: HashMap<u32, Stream>,
    last: u32,
    decoder: Option<Decoder>,
    encoder: Empty,
    /// None as long as it has not shown that it knows windows.
    windows: Option<Windows>,
    /// Received on the connection and found its way, but not told yet.
    unacked: usize,
    out: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Reading {
    Head,
    Control { kind: u16, flags: u8, len: usize },
    Data { stream: u32, fin: bool, left: usize },
}

/// What the client lets us send.
#[derive(Clone, Copy)]
struct Windows {
    connection: i64,
    /// What a new stream's begins with.
    initial: i64,
}

struct Stream {
    receiving: Half,
    sending: Half,
    /// How much may be sent.
    window: i64,
    unacked: usize,
}

/// One direction of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    Ended,
}

impl Spdy {
    /// After the upgrade.
    pub fn new() -> Spdy {
        Spdy {
            reading: Reading::Head,
            partial: vec![],
            streams: HashMap::new(),
            last: 0,
            decoder: Some(Decoder::new()),
            encoder: Empty::default(),
            windows: None,
            unacked: 0,
            out: vec![],
        }
    }
    /// Fills `partial` up to `len`; whether it is full.
    fn gather(&mut self, bytes: &mut &[u8], len: usize) -> bool {
        let (head, rest) = bytes.split_at(bytes.len().min(len - self.partial.len()));
        self.partial.extend(head);
        *bytes = rest;
        self.partial.len() == len
    }
    fn data(&mut self, stream: u32, bytes: &[u8], events: &mut Vec<Event>) {
        match self.streams.get(&stream) {
            Some(s) if s.receiving == Half::Open => events.push(Event::Data { stream, bytes: bytes.to_vec() }),
            // For a stream that we have given up, or nonsense: only the connection's window remembers it.
            _ => self.unacked += bytes.len(),
        }
    }
    fn fin(&mut self, stream: u32, events: &mut Vec<Event>) {
        let Some(s) = self.streams.get_mut(&stream).filter(|s| s.receiving == Half::Open) else { return };
        s.receiving = Half::Ended;
        events.push(Event::Ended { stream });
        self.forget_ended(stream);
    }
    fn forget_ended(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(|s| s.receiving == Half::Ended && s.sending == Half::Ended) {
            self.streams.remove(&stream);
        }
    }
    fn control(&mut self, kind: u16, flags: u8, body: &[u8], events: &mut Vec<Event>) -> Result<(), Violation> {
        match Control::parse(kind, flags, body)? {
            Control::SynStream { stream, fin, block } => return self.opened(stream, fin, block, events),
            Control::Headers { stream, fin, block } => {
                if let Some(decoder) = &mut self.decoder {
                    decoder.decode(block)?;
                }
                if fin {
                    self.fin(stream, events);
                }
            }
            Control::RstStream { stream } => {
                if self.streams.remove(&stream).is_some() {
                    events.push(Event::Reset { stream });
                }
            }
            Control::Settings { initial_window } => self.settings(initial_window),
            Control::WindowUpdate { stream, delta } => return self.window_update(stream, delta, events),
            // The client's pings have odd numbers; an even one is an answer.
            Control::Ping { id } if id % 2 == 1 => frame::ping(&mut self.out, id),
            Control::GoAway => events.push(Event::Left),
            Control::Ping { .. } | Control::SynReply | Control::Unknown => {}
        }
        Ok(())
    }
    fn opened(&mut self, stream: u32, fin: bool, block: &[u8], events: &mut Vec<Event>) -> Result<(), Violation> {
        let Some(decoder) = &mut self.decoder else {
            frame::rst_stream(&mut self.out, stream, Reason::RefusedStream);
            return Ok(());
        };
        let headers = decoder.decode(block)?;
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Violation(format!("stream {stream}: a client's streams have odd, growing numbers")));
        }
        self.last = stream;
        if self.streams.len() >= STREAMS_MAX {
            frame::rst_stream(&mut self.out, stream, Reason::RefusedStream);
            return Ok(());
        }
        let window = self.windows.map_or(WINDOW, |w| w.initial);
        self.streams.insert(stream, Stream { receiving: Half::Open, sending: Half::Open, window, unacked: 0 });
        events.push(Event::Opened { stream, headers });
        if fin {
            self.fin(stream, events);
        }
        Ok(())
    }
    /// From here on the client's windows count.
    fn counted(&mut self) -> &mut Windows {
        self.windows.get_or_insert(Windows { connection: WINDOW, initial: WINDOW })
    }
    fn settings(&mut self, initial_window: Option<u32>) {
        let windows = self.counted();
        if let Some(size) = initial_window {
            let change = i64::from(size) - std::mem::replace(&mut windows.initial, i64::from(size));
            for stream in self.streams.values_mut() {
                stream.window += change;
            }
        }
    }
    fn window_update(&mut self, stream: u32, delta: u32, events: &mut Vec<Event>) -> Result<(), Violation> {
        let windows = self.counted();
        if stream == 0 {
            windows.connection += i64::from(delta);
            return if windows.connection > WINDOW_MAX { Err(Violation("window of the connection: too large".into())) } else { Ok(()) };
        }
        let Some(s) = self.streams.get_mut(&stream) else { return Ok(()) };
        s.window += i64::from(delta);
        if s.window > WINDOW_MAX {
            frame::rst_stream(&mut self.out, stream, Reason::FlowControlError);
            self.streams.remove(&stream);
            events.push(Event::Reset { stream });
        }
        Ok(())
    }
    /// Bytes that were dropped or found their way, as far as they are worth a frame.
    fn acknowledge(&mut self) {
        if self.unacked >= WORTH {
            let delta = std::mem::take(&mut self.unacked);
            frame::window_update(&mut self.out, 0, delta as u32);
        }
    }
}

impl Wire for Spdy {
    fn receive(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Violation> {
        loop {
            match self.reading {
                Reading::Head => {
                    if !self.gather(&mut bytes, HEAD) {
                        return Ok(());
                    }
                    let head = std::mem::take(&mut self.partial);
                    let head = head.try_into().map_err(|_| Violation("frame head of the wrong length".into()))?;
                    self.reading = match Head::parse(head)? {
                        Head::Data { stream, fin, len } => Reading::Data { stream, fin, left: len },
                        Head::Control { kind, flags, len } => Reading::Control { kind, flags, len },
                    };
                }
                Reading::Control { kind, flags, len } => {
                    if !self.gather(&mut bytes, len) {
                        return Ok(());
                    }
                    let body = std::mem::take(&mut self.partial);
                    self.reading = Reading::Head;
                    self.control(kind, flags, &body, events)?;
                }
                Reading::Data { stream, fin, left } => {
                    let (head, rest) = bytes.split_at(bytes.len().min(left));
                    bytes = rest;
                    if !head.is_empty() {
                        self.data(stream, head, events);
                        self.acknowledge();
                    }
                    if head.len() < left {
                        self.reading = Reading::Data { stream, fin, left: left - head.len() };
                        return Ok(());
                    }
                    self.reading = Reading::Head;
                    if fin {
                        self.fin(stream, events);
                    }
                }
            }
        }
    }
    fn accept(&mut self, stream: u32) {
        let block = self.encoder.next();
        frame::syn_reply(&mut self.out, stream, &block);
    }
    fn refuse(&mut self, stream: u32) {
        self.streams.remove(&stream);
        frame::rst_stream(&mut self.out, stream, Reason::RefusedStream);
    }
    fn room(&self, stream: u32) -> usize {
        let Some(s) = self.streams.get(&stream).filter(|s| s.sending == Half::Open) else { return 0 };
        self.windows.map_or(usize::MAX, |w| usize::try_from(s.window.min(w.connection)).unwrap_or(0))
    }
    fn send(&mut self, stream: u32, bytes: &[u8]) {
        let Some(s) = self.streams.get_mut(&stream).filter(|s| s.sending == Half::Open) else { return };
        // As long as nobody counts, the window must not wander off.
        if let Some(windows) = &mut self.windows {
            s.window -= bytes.len() as i64;
            windows.connection -= bytes.len() as i64;
        }
        for piece in bytes.chunks(PIECE) {
            frame::data(&mut self.out, stream, 0, piece);
        }
    }
    fn end(&mut self, stream: u32) {
        let Some(s) = self.streams.get_mut(&stream).filter(|s| s.sending == Half::Open) else { return };
        s.sending = Half::Ended;
        frame::data(&mut self.out, stream, frame::FIN, &[]);
        self.forget_ended(stream);
    }
    fn reset(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            frame::rst_stream(&mut self.out, stream, Reason::Cancel);
        }
    }
    fn consumed(&mut self, stream: u32, bytes: usize) {
        self.unacked += bytes;
        self.acknowledge();
        let Some(s) = self.streams.get_mut(&stream).filter(|s| s.receiving == Half::Open) else { return };
        s.unacked += bytes;
        if s.unacked >= WORTH {
            let delta = std::mem::take(&mut s.unacked);
            frame::window_update(&mut self.out, stream, delta as u32);
        }
    }
    fn settled(&mut self) {
        self.decoder = None;
    }
    fn leave(&mut self) {
        frame::goaway(&mut self.out, self.last);
    }
    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers::tests::Encoder;
    use super::*;

    fn syn_stream(encoder: &mut Encoder, stream: u32, kind: &str) -> Vec<u8> {
        let block = encoder.encode(&[("streamtype", kind)]);
        let mut frame = 0x8003_0001u32.to_be_bytes().to_vec();
        frame.extend((block.len() as u32 + 10).to_be_bytes());
        frame.extend(stream.to_be_bytes());
        frame.extend([0; 6]);
        frame.extend(block);
        frame
    }
    fn control(kind: u32, words: &[u32]) -> Vec<u8> {
        let mut frame = (0x8003_0000 | kind).to_be_bytes().to_vec();
        frame.extend((4 * words.len() as u32).to_be_bytes());
        frame.extend(words.iter().flat_map(|w| w.to_be_bytes()));
        frame
    }
    fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        frame::data(&mut out, stream, flags, bytes);
        out
    }
    fn take(spdy: &mut Spdy, bytes: &[u8]) -> Vec<Event> {
        let mut events = vec![];
        spdy.receive(bytes, &mut events).unwrap();
        events
    }

    #[test]
    fn streams_open_carry_and_end_however_the_bytes_are_cut() {
        let mut all = syn_stream(&mut Encoder::new(), 1, "stdin");
        all.extend(data(1, 0, b"hello"));
        all.extend(data(1, frame::FIN, b""));
        for cut in 1..all.len() {
            let mut spdy = Spdy::new();
            let mut events = take(&mut spdy, &all[..cut]);
            events.extend(take(&mut spdy, &all[cut..]));
            let Event::Opened { stream: 1, headers } = &events[0] else { panic!("{events:?}") };
            assert_eq!(headers.get("streamType"), Some("stdin"));
            assert_eq!(events.last(), Some(&Event::Ended { stream: 1 }));
            let bytes: Vec<u8> = events
                .iter()
                .filter_map(|e| if let Event::Data { bytes, .. } = e { Some(bytes.clone()) } else { None })
                .flatten()
                .collect();
            assert_eq!(bytes, b"hello");
            spdy.accept(1);
            spdy.end(1);
            assert!(spdy.streams.is_empty(), "ended both ways");
        }
    }

    #[test]
    fn windows_count_once_the_client_shows_that_it_knows_them() {
        let mut spdy = Spdy::new();
        take(&mut spdy, &syn_stream(&mut Encoder::new(), 1, "stdout"));
        assert_eq!(spdy.room(1), usize::MAX);
        take(&mut spdy, &control(4, &[1, 7, 1000]));
        assert_eq!(spdy.room(1), 1000);
        spdy.send(1, &[0; 600]);
        assert_eq!(spdy.room(1), 400);
        take(&mut spdy, &control(4, &[1, 7, 100]));
        assert_eq!(spdy.room(1), 0, "it is below zero now");
        take(&mut spdy, &control(9, &[1, 550]));
        assert_eq!(spdy.room(1), 50);
        let events = take(&mut spdy, &control(9, &[1, 0x7fff_ffff]));
        assert_eq!(events, [Event::Reset { stream: 1 }], "a window has a bound");
        assert!(spdy.receive(&control(9, &[0, 0x7fff_ffff]), &mut vec![]).is_err());
    }

    #[test]
    fn what_found_its_way_opens_our_windows_again() {
        let mut spdy = Spdy::new();
        take(&mut spdy, &syn_stream(&mut Encoder::new(), 1, "stdin"));
        spdy.consumed(1, WORTH - 1);
        assert!(spdy.output().is_empty());
        spdy.consumed(1, 1);
        let expected = [control(9, &[0, WORTH as u32]), control(9, &[1, WORTH as u32])].concat();
        assert_eq!(*spdy.output(), expected);
        spdy.output().clear();
        spdy.reset(1);
        spdy.output().clear();
        assert!(take(&mut spdy, &data(1, 0, &[0; WORTH])).is_empty(), "it was given up");
        assert_eq!(*spdy.output(), control(9, &[0, WORTH as u32]), "but the connection's window must not dry up");
    }

    #[test]
    fn pings_are_answered_and_nonsense_ends_the_connection() {
        let mut spdy = Spdy::new();
        take(&mut spdy, &control(6, &[3]));
        assert_eq!(*spdy.output(), control(6, &[3]));
        take(&mut spdy, &control(6, &[4]));
        take(&mut spdy, &control(99, &[4]));
        assert_eq!(take(&mut spdy, &control(7, &[0, 0])), [Event::Left]);
        let mut encoder = Encoder::new();
        take(&mut spdy, &syn_stream(&mut encoder, 5, "a"));
        assert!(spdy.receive(&syn_stream(&mut encoder, 3, "a"), &mut vec![]).is_err(), "numbers grow");
        assert!(Spdy::new().receive(b"GET / HTTP/1.1\r\n\r\n", &mut vec![]).is_ok(), "a data frame for nobody");
        let mut spdy = Spdy::new();
        spdy.settled();
        take(&mut spdy, &syn_stream(&mut Encoder::new(), 1, "a"));
        assert_eq!(*spdy.output(), control(3, &[1, Reason::RefusedStream as u32]));
    }
}
