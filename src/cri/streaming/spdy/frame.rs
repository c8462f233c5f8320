//! Frames of SPDY/3.1: heads are read, control frames are taken apart and put together.
use crate::cri::streaming::wire::Violation;

/// Bytes of a frame's head.
pub const HEAD: usize = 8;
/// Longest control frame that is taken; only data frames, which pass through, may be longer.
pub const CONTROL_MAX: usize = 64 << 10;
/// Flag of a stream's last frame.
pub const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
/// Setting: how much may be sent on a stream before its first window update.
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Why a stream is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reason {
    /// Not taken.
    RefusedStream = 3,
    /// No longer wanted.
    Cancel = 5,
    /// A window grew beyond its bound.
    FlowControlError = 7,
}

/// A frame's first eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Head {
    /// `len` bytes of a stream follow.
    Data { stream: u32, fin: bool, len: usize },
    /// `len` bytes of a control frame follow.
    Control { kind: u16, flags: u8, len: usize },
}

impl Head {
    /// Reads a head.
    pub fn parse(b: [u8; HEAD]) -> Result<Head, Violation> {
        let word = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
        let (flags, len) = (b[4], u32::from_be_bytes([0, b[5], b[6], b[7]]) as usize);
        if word >> 31 == 0 {
            return Ok(Head::Data { stream: word, fin: flags & FIN != 0, len });
        }
        let version = (word >> 16) & 0x7fff;
        if version != 3 {
            return Err(Violation(format!("SPDY version {version} in a frame: must be 3")));
        }
        if len > CONTROL_MAX {
            return Err(Violation(format!("control frame of {len} bytes: at most {CONTROL_MAX} are taken")));
        }
        Ok(Head::Control { kind: word as u16, flags, len })
    }
}

/// A control frame, its header block still compressed.
#[derive(PartialEq, Eq, Debug)]
pub enum Control<'a> {
    /// A new stream.
    SynStream { stream: u32, fin: bool, block: &'a [u8] },
    /// An answer to a stream of ours; we open none.
    SynReply,
    /// A stream given up.
    RstStream { stream: u32 },
    /// What a stream's window begins with, if it is said.
    Settings { initial_window: Option<u32> },
    /// To be sent back.
    Ping { id: u32 },
    /// No more streams.
    GoAway,
    /// Further headers, which mean nothing to us but belong to the compression's history.
    Headers { stream: u32, fin: bool, block: &'a [u8] },
    /// More may be sent; stream 0 is the connection.
    WindowUpdate { stream: u32, delta: u32 },
    /// A kind that this version does not know.
    Unknown,
}

impl Control<'_> {
    /// Takes a control frame apart.
    pub fn parse(kind: u16, flags: u8, body: &[u8]) -> Result<Control<'_>, Violation> {
        let fin = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM => Control::SynStream { stream: id(body, 0)?, fin, block: rest(body, 10)? },
            SYN_REPLY => Control::SynReply,
            RST_STREAM => Control::RstStream { stream: id(body, 0)? },
            SETTINGS => Control::Settings { initial_window: initial_window(body)? },
            PING => Control::Ping { id: word(body, 0)? },
            GOAWAY => Control::GoAway,
            HEADERS => Control::Headers { stream: id(body, 0)?, fin, block: rest(body, 4)? },
            WINDOW_UPDATE => Control::WindowUpdate { stream: id(body, 0)?, delta: id(body, 4)? },
            _ => Control::Unknown,
        })
    }
}

fn initial_window(body: &[u8]) -> Result<Option<u32>, Violation> {
    let count = word(body, 0)? as usize;
    let mut found = None;
    for at in (0..count).map(|i| 4 + 8 * i) {
        let value = word(body, at + 4)?;
        if word(body, at)? & 0x00ff_ffff == INITIAL_WINDOW_SIZE {
            found = Some(value);
        }
    }
    Ok(found)
}

fn word(body: &[u8], at: usize) -> Result<u32, Violation> {
    let bytes = body.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map(u32::from_be_bytes).ok_or_else(|| Violation("control frame is too short".into()))
}

fn id(body: &[u8], at: usize) -> Result<u32, Violation> {
    Ok(word(body, at)? & 0x7fff_ffff)
}

fn rest(body: &[u8], at: usize) -> Result<&[u8], Violation> {
    body.get(at..).ok_or_else(|| Violation("control frame is too short".into()))
}

fn control(out: &mut Vec<u8>, kind: u16, words: &[u32], tail: &[u8]) {
    let len = (4 * words.len() + tail.len()) as u32;
    out.extend((0x8003_0000 | u32::from(kind)).to_be_bytes());
    out.extend(len.to_be_bytes());
    for word in words {
        out.extend(word.to_be_bytes());
    }
    out.extend(tail);
}

/// Accepts a stream.
pub fn syn_reply(out: &mut Vec<u8>, stream: u32, block: &[u8]) {
    control(out, SYN_REPLY, &[stream], block);
}

/// Gives a stream up.
pub fn rst_stream(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    control(out, RST_STREAM, &[stream, reason as u32], &[]);
}

/// Asks for an answer, or is one.
pub fn ping(out: &mut Vec<u8>, id: u32) {
    control(out, PING, &[id], &[]);
}

/// Takes leave, without blame.
pub fn goaway(out: &mut Vec<u8>, last: u32) {
    control(out, GOAWAY, &[last, 0], &[]);
}

/// Allows more to be sent.
pub fn window_update(out: &mut Vec<u8>, stream: u32, delta: u32) {
    control(out, WINDOW_UPDATE, &[stream, delta], &[]);
}

/// Sends; `bytes` are fewer than 16 MiB.
pub fn data(out: &mut Vec<u8>, stream: u32, flags: u8, bytes: &[u8]) {
    out.extend(stream.to_be_bytes());
    out.extend((u32::from(flags) << 24 | bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let data = Head::Data { stream: 5, fin: true, len: 0x10203 };
        assert_eq!(Head::parse([0, 0, 0, 5, 1, 1, 2, 3]).unwrap(), data);
        assert_eq!(Head::parse([0x80, 3, 0, 6, 0, 0, 0, 4]).unwrap(), Head::Control { kind: PING, flags: 0, len: 4 });
        assert!(Head::parse([0x80, 2, 0, 6, 0, 0, 0, 4]).is_err(), "an old version");
        assert!(Head::parse([0x80, 3, 0, 1, 0, 0xff, 0, 0]).is_err(), "too long");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = vec![];
        rst_stream(&mut out, 7, Reason::Cancel);
        window_update(&mut out, 0, 9);
        goaway(&mut out, 3);
        let mut seen = vec![];
        let mut at = 0;
        while at < out.len() {
            let head: [u8; HEAD] = out[at..at + HEAD].try_into().unwrap();
            let Head::Control { kind, flags, len } = Head::parse(head).unwrap() else { panic!() };
            seen.push(Control::parse(kind, flags, &out[at + HEAD..at + HEAD + len]).unwrap());
            at += HEAD + len;
        }
        assert_eq!(seen, [Control::RstStream { stream: 7 }, Control::WindowUpdate { stream: 0, delta: 9 }, Control::GoAway]);
    }

    #[test]
    fn short_control_frames_are_no_panic() {
        for kind in 0..12 {
            for len in 0..12 {
                let _ = Control::parse(kind, 0, &vec![0xff; len]);
            }
        }
        let settings = [0, 0, 0, 1, 1, 0, 0, 7, 0, 0, 1, 0];
        assert_eq!(Control::parse(SETTINGS, 0, &settings).unwrap(), Control::Settings { initial_window: Some(256) });
        assert!(Control::parse(SETTINGS, 0, &settings[..8]).is_err());
    }
}
