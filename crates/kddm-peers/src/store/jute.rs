//! The bytes of ZooKeeper's messages: big-endian numbers, and texts with their length before them.

use crate::Failure;

use super::stream::Stream;

/// A message: more than any answer here has.
const MESSAGE_LIMIT_BYTES: usize = 1 << 18;

/// Elements of a list: more than there are clients that wait for the lock.
const LIST_LIMIT: usize = 4096;

/// One message, as it is written.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn int(mut self, value: i32) -> Message {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn long(mut self, value: i64) -> Message {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn flag(mut self, value: bool) -> Message {
        self.0.push(value.into());
        self
    }

    /// Bytes or a text.
    pub fn bytes(self, bytes: &[u8]) -> Message {
        let length = i32::try_from(bytes.len()).expect("what this program sends is short");
        let mut message = self.int(length);
        message.0.extend_from_slice(bytes);
        message
    }

    /// As it goes out, in one write with its length.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(self, stream: &mut Stream) -> Result<(), Failure> {
        stream.send(&Message::default().bytes(&self.0).0)
    }
}

/// What is left of a message that has come.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// All of them.
    pub fn of(message: &'a [u8]) -> Fields<'a> {
        Fields(message)
    }

    fn array<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], Failure> {
        let (first, rest) = self.0.split_first_chunk().ok_or("a message that ends within a number")?;
        self.0 = rest;
        Ok(*first)
    }

    /// # Errors
    /// The message ends before.
    pub fn int(&mut self) -> Result<i32, Failure> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// # Errors
    /// The message ends before.
    pub fn long(&mut self) -> Result<i64, Failure> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Bytes or a text; none is as good as empty.
    ///
    /// # Errors
    /// The message ends before, or the length is none.
    pub fn bytes(&mut self) -> Result<&'a [u8], Failure> {
        let length = match self.int()? {
            -1 => 0,
            length => usize::try_from(length).map_err(|_| format!("a text of {length} bytes"))?,
        };
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("a message that ends within a text")?;
        self.0 = rest;
        Ok(bytes)
    }

    /// A list of texts.
    ///
    /// # Errors
    /// The message ends before, or the list is longer than any here.
    pub fn list(&mut self) -> Result<Vec<&'a [u8]>, Failure> {
        let count = self.int()?;
        match usize::try_from(count.max(0)) {
            Ok(count) if count <= LIST_LIMIT => (0..count).map(|_| self.bytes()).collect(),
            _ => Err(format!("a list of {count} elements").into()),
        }
    }
}

/// The next message, without its length.
///
/// # Errors
/// The connection is gone, or what came has a length that no message has.
pub fn receive(stream: &mut Stream) -> Result<Vec<u8>, Failure> {
    loop {
        if let Some(message) = complete(stream.rest())? {
            let message = message.to_vec();
            stream.consume(size_of::<i32>() + message.len());
            return Ok(message);
        }
        stream.wait()?;
    }
}

/// The first message, if all of it has come.
fn complete(bytes: &[u8]) -> Result<Option<&[u8]>, Failure> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = i32::from_be_bytes(*length);
    match usize::try_from(length) {
        Ok(length) if length <= MESSAGE_LIMIT_BYTES => Ok(rest.get(..length)),
        _ => Err(format!("a message of {length} bytes").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_byte_less() {
        let Message(bytes) = Message::default().int(-7).long(i64::MIN).bytes(b"/lock").int(2).bytes(b"a").bytes(b"");
        let read = |bytes: &[u8]| -> Result<_, Failure> {
            let mut fields = Fields::of(bytes);
            let head = (fields.int()?, fields.long()?);
            Ok((head, fields.bytes()?.to_vec(), fields.list()?.concat()))
        };
        assert_eq!(read(&bytes).unwrap(), ((-7, i64::MIN), b"/lock".to_vec(), b"a".to_vec()));
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "after {end} bytes");
        }
        assert_eq!(Message::default().flag(true).0, [1]);
    }

    #[test]
    fn a_message_is_complete_with_its_last_byte_and_not_before() {
        let bytes = Message::default().bytes(b"0123").0;
        for end in 0..bytes.len() {
            assert_eq!(complete(&bytes[..end]).unwrap(), None, "after {end} bytes");
        }
        assert_eq!(complete(&[&bytes[..], b"next"].concat()).unwrap(), Some(&b"0123"[..]));
    }

    #[test]
    fn lengths_that_nothing_has_are_errors_and_never_a_panic() {
        for length in [-1, i32::MIN, i32::MAX, MESSAGE_LIMIT_BYTES as i32 + 1] {
            assert!(complete(&length.to_be_bytes()).is_err(), "{length}");
        }
        for length in [-2, i32::MIN, i32::MAX, 1] {
            assert!(Fields::of(&length.to_be_bytes()).bytes().is_err(), "{length}");
        }
        assert_eq!(Fields::of(&(-1_i32).to_be_bytes()).bytes().unwrap(), b"");
        assert!(Fields::of(&i32::MAX.to_be_bytes()).list().is_err());
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let bytes: Vec<u8> = (0..random.usize(..24)).map(|_| random.u8(..4).wrapping_sub(1)).collect();
            if let Ok(Some(message)) = complete(&bytes) {
                let mut fields = Fields::of(message);
                let _whatever_it_is = (fields.list().is_ok(), fields.bytes().is_ok(), fields.long().is_ok());
            }
        }
    }
}
