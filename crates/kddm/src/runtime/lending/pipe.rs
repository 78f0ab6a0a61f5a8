//! Frames in and frames out of one socket, for both sides of it.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;

use super::frame::{HEAD_BYTES, Head, decode, encode};
use crate::transport::Stream;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// What has been written is dropped from the front of the buffer when it is so much.
const WRITTEN_BYTES: usize = 256 << 10;

/// What has arrived and is not handled yet.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    filled: usize,
    parsed: usize,
    /// Bytes of the frame at the front, once its head is here.
    needed: usize,
}

impl Inbox {
    /// One read: how much came, and whether the socket may have more. A large frame gets room as it
    /// arrives, so that nobody makes us reserve what they only announce.
    pub fn read(&mut self, mut stream: &Stream) -> io::Result<(usize, bool)> {
        self.buffer.copy_within(self.parsed..self.filled, 0);
        (self.filled, self.parsed) = (self.filled - self.parsed, 0);
        let size = if self.filled == self.buffer.len() { (2 * self.filled).min(self.needed) } else { 0 };
        let size = size.max(READ_BYTES);
        if size > self.buffer.len() || (self.filled == 0 && size < self.buffer.len()) {
            self.buffer.resize(size, 0);
            self.buffer.shrink_to_fit();
        }
        let room = &mut self.buffer[self.filled..];
        let room_bytes = room.len();
        let count = stream.read(room)?;
        self.filled += count;
        Ok((count, count == room_bytes))
    }

    /// The next whole frame, and where its body is.
    ///
    /// # Errors
    /// What cannot be meant, or a body beyond the limit.
    pub fn next(&mut self, body_limit_bytes: usize) -> Result<Option<(Head, Range<usize>)>, &'static str> {
        let received = &self.buffer[self.parsed..self.filled];
        let Some(head) = received.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let head = decode(head)?;
        let body_bytes = head.body_bytes as usize;
        if body_bytes > body_limit_bytes {
            return Err("a body beyond the limit");
        }
        let length = HEAD_BYTES + body_bytes;
        self.needed = length;
        if received.len() < length {
            return Ok(None);
        }
        let body = self.parsed + HEAD_BYTES..self.parsed + length;
        self.parsed = body.end;
        Ok(Some((head, body)))
    }

    pub fn body(&self, place: Range<usize>) -> &[u8] {
        self.buffer.get(place).unwrap_or_default()
    }
}

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Outbox {
    buffer: Vec<u8>,
    start: usize,
    /// Bytes that the socket has taken, since the beginning.
    written: u64,
    /// The other side takes nothing any more.
    is_cut: bool,
    /// Frames, since the beginning.
    pub frames: u64,
}

impl Outbox {
    pub fn push(&mut self, head: Head, body: &[u8]) {
        self.push_with(head, |out| out.extend_from_slice(body));
    }

    /// A frame whose body is what `encode_body` appends.
    pub fn push_with(&mut self, mut head: Head, encode_body: impl FnOnce(&mut Vec<u8>)) {
        if self.is_cut {
            return;
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEAD_BYTES]);
        encode_body(&mut self.buffer);
        let body_bytes = self.buffer.len() - start - HEAD_BYTES;
        head.body_bytes = body_bytes.try_into().expect("no object has 4 GiB");
        self.buffer[start..start + HEAD_BYTES].copy_from_slice(&encode(&head));
        self.frames += 1;
    }

    /// Bytes that are no frame: those of a greeting.
    pub fn push_greeting(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that the socket has not taken.
    pub fn waiting_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Everything pushed so far has been taken when [`Self::written`] is so much.
    pub fn mark(&self) -> u64 {
        self.written + self.waiting_bytes() as u64
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes until all is written or the socket is full. What the other side cannot take any more is
    /// forgotten, and its end is seen by reading: what it had sent before is still to be read.
    pub fn write(&mut self, mut stream: &Stream) {
        while !self.is_cut && self.start < self.buffer.len() {
            match stream.write(&self.buffer[self.start..]) {
                Ok(0) => self.cut(),
                Ok(count) => {
                    self.start += count;
                    self.written += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.cut(),
            }
        }
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(WRITTEN_BYTES);
            self.start = 0;
        } else if self.start >= WRITTEN_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Nothing goes out any more.
    pub fn cut(&mut self) {
        self.is_cut = true;
        self.buffer = Vec::new();
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use kddm_core::id::{ObjectId, SetId};

    use super::*;
    use crate::runtime::lending::frame::Word;

    fn pair() -> (Stream, Stream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        for stream in [&ours, &theirs] {
            stream.set_nonblocking(true).expect("it is a socket");
        }
        (Stream::Unix(ours), Stream::Unix(theirs))
    }

    fn head(number: u64) -> Head {
        Head { set: SetId(1), object: ObjectId(number), word: Word::Put { version: number }, body_bytes: 0 }
    }

    /// What a process has written before it died is read to its end, however small the pieces.
    #[test]
    fn frames_arrive_whole_and_in_order_and_outlive_their_sender() {
        let (ours, theirs) = pair();
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
        let bodies: Vec<Vec<u8>> = [0, 1, 100_000, 300_000, 3].iter().map(|size| vec![7; *size]).collect();
        for (number, body) in (0..).zip(&bodies) {
            outbox.push(head(number), body);
        }
        let mut got = 0;
        let mut ours = Some(ours);
        loop {
            if let Some(stream) = &ours {
                outbox.write(stream);
            }
            if outbox.waiting_bytes() == 0 {
                ours = None; // As if it had died.
            }
            match inbox.read(&theirs) {
                Ok((0, _)) => break,
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            while let Some((head, body)) = inbox.next(300_000).expect("good frames") {
                assert_eq!((head.object.0, inbox.body(body)), (got, &*bodies[got as usize]));
                got += 1;
            }
        }
        assert_eq!(got, 5);
        assert_eq!((outbox.written(), outbox.frames), (outbox.mark(), 5));
    }

    #[test]
    fn a_body_beyond_the_limit_is_refused_before_it_is_here() {
        let (ours, theirs) = pair();
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
        outbox.push(head(1), &[0; 11]);
        outbox.write(&ours);
        inbox.read(&theirs).expect("it is here");
        assert!(inbox.next(10).is_err());
    }
}
