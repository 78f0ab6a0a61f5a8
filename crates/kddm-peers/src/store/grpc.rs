//! Calls of gRPC over HTTP/2, one at a time: what a client needs that reads no headers.

use crate::Failure;

use super::stream::Stream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const FRAME_HEAD_BYTES: usize = 9;

/// What a server may put into a frame as long as nobody tells it otherwise.
const FRAME_LIMIT_BYTES: usize = 16_384;

/// What the server may send before it must be told to go on, and when it is.
const WINDOW_BYTES: u32 = 1 << 30;
const NEWS_AFTER_BYTES: u32 = WINDOW_BYTES / 2;

/// One connection.
pub struct Grpc {
    stream: Stream,
    authority: String,
    next_stream: u32,
    /// Received since the server was last told that it may send more.
    received: u32,
    request: Vec<u8>,
}

/// A frame: its kind, its flags and its stream, and where its bytes lie.
type Head = (u8, u8, u32, usize);

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header without any compression; names of the static table by their number.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    out.push(value.len() as u8);
    out.extend_from_slice(value.as_bytes());
}

/// What the bytes begin with, if it is there to its end.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    if length > FRAME_LIMIT_BYTES {
        return Err(format!("a frame of {length} bytes").into());
    }
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Ok((bytes.len() >= FRAME_HEAD_BYTES + length).then_some((head[3], head[4], stream, length)))
}

/// The bytes of a DATA frame without its padding.
fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], Failure> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or("no room for the padding")?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or("more padding than there is")?;
    Ok(&rest[..length])
}

/// The one message of an answer.
fn message(body: &[u8]) -> Result<&[u8], Failure> {
    let (head, message) = body.split_first_chunk::<5>().ok_or("the server has refused the call")?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || length != message.len() {
        return Err(format!("a message of {length} bytes in {}", message.len()).into());
    }
    Ok(message)
}

impl Grpc {
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: &str) -> Result<Grpc, Failure> {
        let mut stream = Stream::connect(address)?;
        let mut first = PREFACE.to_vec();
        // No table of headers, nothing pushed, windows that never stand in the way.
        let settings = [(1_u16, 0_u32), (2, 0), (4, WINDOW_BYTES)];
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
            .collect();
        frame(&mut first, SETTINGS, 0, 0, &settings);
        frame(&mut first, WINDOW_UPDATE, 0, 0, &WINDOW_BYTES.to_be_bytes());
        stream.send(&first)?;
        Ok(Grpc { stream, authority: address.into(), next_stream: 1, received: 0, request: Vec::new() })
    }

    /// Calls that method and waits for its answer.
    ///
    /// # Errors
    /// The server refuses, or what it says is no answer.
    pub fn call(&mut self, method: &str, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut headers = vec![0x83, 0x86];
        literal(&mut headers, &[0x04], method);
        literal(&mut headers, &[0x01], &self.authority);
        literal(&mut headers, &[0x0f, 0x10], "application/grpc");
        literal(&mut headers, b"\x00\x02te", "trailers");
        let mut body = vec![0];
        body.extend_from_slice(&(request.len() as u32).to_be_bytes());
        body.extend_from_slice(request);
        self.request.clear();
        frame(&mut self.request, HEADERS, END_HEADERS, stream, &headers);
        frame(&mut self.request, DATA, END_STREAM, stream, &body);
        self.stream.send(&self.request)?;
        let body = self.answer(stream)?;
        message(&body).map(<[u8]>::to_vec)
    }

    fn answer(&mut self, stream: u32) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let Some((kind, flags, of_stream, length)) = parse(self.stream.rest())? else {
                self.stream.wait()?;
                continue;
            };
            let payload = &self.stream.rest()[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length];
            let mut reply = Vec::new();
            match kind {
                DATA => {
                    if of_stream == stream {
                        body.extend_from_slice(unpadded(flags, payload)?);
                    }
                    self.received += length as u32;
                    if self.received >= NEWS_AFTER_BYTES {
                        frame(&mut reply, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
                        self.received = 0;
                    }
                }
                SETTINGS if flags & ACK == 0 => frame(&mut reply, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut reply, PING, ACK, 0, payload),
                RST_STREAM if of_stream == stream => return Err("the server has broken off the call".into()),
                GOAWAY => return Err("the server is going away".into()),
                _ => {}
            }
            self.stream.consume(FRAME_HEAD_BYTES + length);
            if !reply.is_empty() {
                self.stream.send(&reply)?;
            }
            if matches!(kind, DATA | HEADERS) && of_stream == stream && flags & END_STREAM != 0 {
                return Ok(body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_with_its_last_byte() {
        let mut bytes = Vec::new();
        frame(&mut bytes, DATA, PADDED, 5, b"\x02body..");
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]).unwrap(), None);
        }
        assert_eq!(parse(&bytes).unwrap(), Some((DATA, PADDED, 5, 7)));
        assert_eq!(unpadded(PADDED, &bytes[FRAME_HEAD_BYTES..]).unwrap(), b"body");
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        assert!(parse(&[0xff; 9]).is_err(), "a frame larger than was allowed");
        assert!(unpadded(PADDED, &[9, 1]).is_err() && unpadded(PADDED, &[]).is_err());
        assert!(message(&[]).is_err() && message(&[0, 0, 0, 0, 2, 1]).is_err() && message(&[1, 0, 0, 0, 0]).is_err());
        assert_eq!(message(&[0, 0, 0, 0, 1, 9]).unwrap(), [9]);
    }
}
