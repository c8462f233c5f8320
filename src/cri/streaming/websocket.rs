//! WebSocket after the upgrade: channels with a number in front of each message, or a tunnel for SPDY. The frames are
//! tungstenite's, on buffers instead of a socket.
use super::http::{Codec, Version};
use super::spdy::Spdy;
use super::wire::{Event, Violation, Wire};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::{self, Read, Write};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message};

/// Longest message that is taken; clients send 32 KiB.
const MESSAGE_MAX: usize = 1 << 20;
/// Buffer of a connection that has nothing to say.
const BUFFER: usize = 4 << 10;
/// Largest message that we send.
const PIECE: usize = 32 << 10;
/// Instead of a channel's number in version 5: the channel whose number follows ends.
const CLOSE: u8 = 255;

/// Both directions' bytes, where tungstenite wants a socket.
#[derive(Default)]
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Read for Buffers {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = into.len().min(self.input.len());
        into[..n].copy_from_slice(&self.input[..n]);
        self.input.drain(..n);
        Ok(n)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages both ways.
struct Messages {
    context: WebSocketContext,
    buffers: Buffers,
}

impl Messages {
    fn new() -> Messages {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        Messages { context: WebSocketContext::new(Role::Server, Some(config)), buffers: Buffers::default() }
    }
    /// The next whole message; None if there is none yet.
    fn next(&mut self, events: &mut Vec<Event>) -> Result<Option<Bytes>, Violation> {
        loop {
            match self.context.read(&mut self.buffers) {
                Ok(Message::Binary(bytes)) => return Ok(Some(bytes)),
                Ok(Message::Text(text)) => return Ok(Some(text.into())),
                // Pings are answered by the context itself.
                Ok(Message::Close(_)) => events.push(Event::Left),
                Ok(_) => {}
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(None),
                Err(e) => return Err(Violation(format!("WebSocket: {e}"))),
            }
        }
    }
    /// The buffers always take it; a message after the close is nobody's.
    fn send(&mut self, message: Message) {
        let _ = self.context.write(&mut self.buffers, message);
        let _ = self.context.flush(&mut self.buffers);
    }
    fn close(&mut self) {
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.context.close(&mut self.buffers, Some(normal));
        let _ = self.context.flush(&mut self.buffers);
    }
}

/// Numbered channels, all there from the start.
pub struct Channels {
    messages: Messages,
    codec: Codec,
    version: Version,
    /// How many there are.
    count: u32,
    /// Those that the client has ended.
    ended: Vec<u32>,
}

impl Channels {
    /// After the upgrade.
    pub fn new(version: Version, codec: Codec, count: u32) -> Channels {
        Channels { messages: Messages::new(), codec, version, count, ended: vec![] }
    }
    fn message(&mut self, message: &[u8], events: &mut Vec<Event>) -> Result<(), Violation> {
        let Some((&first, rest)) = message.split_first() else { return Ok(()) };
        let close = self.version >= Version::V5 && first == self.number(CLOSE);
        let bytes = match self.codec {
            Codec::Binary => rest.to_vec(),
            Codec::Base64 if close => rest.iter().map(|b| b.wrapping_sub(b'0')).collect(),
            Codec::Base64 => STANDARD.decode(rest).map_err(|e| Violation(format!("channel {}: {e}", first.wrapping_sub(b'0'))))?,
        };
        if close {
            let [channel] = bytes[..] else { return Err(Violation("a channel's end must name one channel".into())) };
            let stream = u32::from(channel);
            if !self.ended.contains(&stream) && stream < self.count {
                self.ended.push(stream);
                events.push(Event::Ended { stream });
            }
            return Ok(());
        }
        let stream = u32::from(first.wrapping_sub(self.number(0)));
        // A channel that does not exist is skipped, as other servers do.
        if stream < self.count && !self.ended.contains(&stream) && !bytes.is_empty() {
            events.push(Event::Data { stream, bytes });
        }
        Ok(())
    }
    /// A channel's number as it is written.
    fn number(&self, channel: u8) -> u8 {
        match self.codec {
            Codec::Binary => channel,
            Codec::Base64 if channel == CLOSE => CLOSE,
            Codec::Base64 => b'0' + channel,
        }
    }
}

impl Wire for Channels {
    fn receive(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Violation> {
        self.messages.buffers.input.extend(bytes);
        while let Some(message) = self.messages.next(events)? {
            self.message(&message, events)?;
        }
        Ok(())
    }
    fn accept(&mut self, _: u32) {}
    fn refuse(&mut self, _: u32) {}
    fn room(&self, _: u32) -> usize {
        usize::MAX
    }
    fn send(&mut self, stream: u32, bytes: &[u8]) {
        let number = self.number(stream as u8);
        // An empty message counts as well: it tells the client that the channel is there.
        for piece in bytes.chunks(PIECE).chain(bytes.is_empty().then_some(bytes)) {
            let message = match self.codec {
                Codec::Binary => Message::binary([&[number], piece].concat()),
                Codec::Base64 => Message::text(format!("{}{}", char::from(number), STANDARD.encode(piece))),
            };
            self.messages.send(message);
        }
    }
    /// Clients learn of it by the connection's end: Go's take a version 5 end from a server for a mistake.
    fn end(&mut self, _: u32) {}
    fn reset(&mut self, stream: u32) {
        if !self.ended.contains(&stream) {
            self.ended.push(stream);
        }
    }
    fn consumed(&mut self, _: u32, _: usize) {}
    fn leave(&mut self) {
        self.messages.close();
    }
    fn output(&mut self) -> &mut Vec<u8> {
        &mut self.messages.buffers.output
    }
}

/// SPDY whose bytes travel in messages, cut anywhere.
pub struct Tunnel {
    messages: Messages,
    spdy: Spdy,
}

impl Tunnel {
    /// After the upgrade.
    pub fn new() -> Tunnel {
        Tunnel { messages: Messages::new(), spdy: Spdy::new() }
    }
    fn wrap(&mut self) {
        let bytes = std::mem::take(self.spdy.output());
        for piece in bytes.chunks(PIECE) {
            self.messages.send(Message::binary(piece.to_vec()));
        }
    }
}

impl Wire for Tunnel {
    fn receive(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Violation> {
        self.messages.buffers.input.extend(bytes);
        while let Some(message) = self.messages.next(events)? {
            self.spdy.receive(&message, events)?;
        }
        Ok(())
    }
    fn accept(&mut self, stream: u32) {
        self.spdy.accept(stream);
    }
    fn refuse(&mut self, stream: u32) {
        self.spdy.refuse(stream);
    }
    fn room(&self, stream: u32) -> usize {
        self.spdy.room(stream)
    }
    fn send(&mut self, stream: u32, bytes: &[u8]) {
        self.spdy.send(stream, bytes);
    }
    fn end(&mut self, stream: u32) {
        self.spdy.end(stream);
    }
    fn reset(&mut self, stream: u32) {
        self.spdy.reset(stream);
    }
    fn consumed(&mut self, stream: u32, bytes: usize) {
        self.spdy.consumed(stream, bytes);
    }
    fn settled(&mut self) {
        self.spdy.settled();
    }
    fn leave(&mut self) {
        self.spdy.leave();
        self.wrap();
        self.messages.close();
    }
    fn output(&mut self) -> &mut Vec<u8> {
        self.wrap();
        &mut self.messages.buffers.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame, masked as it must be.
    fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            n @ 0..126 => frame.push(0x80 | n as u8),
            n => {
                frame.push(0x80 | 126);
                frame.extend((n as u16).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        frame
    }
    fn take(wire: &mut dyn Wire, bytes: &[u8]) -> Vec<Event> {
        let mut events = vec![];
        wire.receive(bytes, &mut events).unwrap();
        events
    }

    #[test]
    fn channels_carry_data_however_the_bytes_are_cut() {
        let bytes = [frame(2, b"\x00hello"), frame(9, b"ping"), frame(2, b"\x09no such channel"), frame(2, &[255, 0])].concat();
        for cut in 0..bytes.len() {
            let mut wire = Channels::new(Version::V5, Codec::Binary, 5);
            let mut events = take(&mut wire, &bytes[..cut]);
            events.extend(take(&mut wire, &bytes[cut..]));
            assert_eq!(events, [Event::Data { stream: 0, bytes: b"hello".into() }, Event::Ended { stream: 0 }]);
            assert_eq!(*wire.output(), b"\x8a\x04ping");
        }
    }

    #[test]
    fn base64_channels() {
        let mut wire = Channels::new(Version::V4, Codec::Base64, 5);
        assert_eq!(take(&mut wire, &frame(1, b"0aGVsbG8=")), [Event::Data { stream: 0, bytes: b"hello".into() }]);
        wire.send(1, b"hello");
        wire.send(3, b"");
        wire.end(1);
        assert_eq!(*wire.output(), b"\x81\x091aGVsbG8=\x81\x013");
        assert!(wire.receive(&frame(1, b"0!"), &mut vec![]).is_err());
    }

    #[test]
    fn we_end_by_closing_and_old_clients_cannot_end_a_channel() {
        let mut wire = Channels::new(Version::V5, Codec::Binary, 5);
        wire.end(1);
        wire.leave();
        assert_eq!(*wire.output(), [0x88, 2, 3, 0xe8]);
        assert_eq!(take(&mut wire, &frame(8, &[3, 0xe8])), [Event::Left]);
        let mut wire = Channels::new(Version::V4, Codec::Binary, 5);
        assert!(take(&mut wire, &frame(2, &[255, 0])).is_empty());
        assert!(wire.receive(&[0x82, 0x02, 0, 0], &mut vec![]).is_err(), "a client masks");
    }

    #[test]
    fn a_tunnel_carries_spdy() {
        let mut wire = Tunnel::new();
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        take(&mut wire, &frame(2, &ping[..5]));
        take(&mut wire, &frame(2, &ping[5..]));
        assert_eq!(*wire.output(), [&[0x82, 12][..], &ping].concat());
    }
}
