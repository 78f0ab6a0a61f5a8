//! What Redis says: RESP2, and of RESP3 what a client with a cache needs.

use crate::Failure;

use super::stream::Stream;

/// Elements of a list, and how deep lists lie in each other: more than any answer here has.
const LIST_LIMIT: usize = 4096;
const DEPTH_LIMIT: usize = 8;

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Nothing,
    Number(i64),
    Text(Vec<u8>),
    List(Vec<Reply>),
    /// Told without having been asked for.
    Push(Vec<Reply>),
}

/// What the bytes begin with and how long it is; `None` if it has not come to its end yet.
///
/// # Errors
/// What the server says that it could not do, or that the bytes are no answer.
pub fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Failure> {
    parse_at(bytes, 0)
}

fn parse_at(bytes: &[u8], depth: usize) -> Result<Option<(Reply, usize)>, Failure> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (kind, line, next) = (bytes[0], bytes.get(1..end).unwrap_or_default(), end + 2);
    let reply = match kind {
        b'+' | b',' | b'(' | b'#' => Reply::Text(line.to_vec()),
        b'-' => return Err(format!("the server says: {}", String::from_utf8_lossy(line)).into()),
        b':' => Reply::Number(number(line)?),
        b'_' => Reply::Nothing,
        b'$' | b'=' => return text(bytes, number(line)?, next),
        b'*' | b'~' | b'>' | b'%' => return list(bytes, kind, number(line)?, next, depth),
        _ => return Err(format!("an answer that begins with {kind:#04x}").into()),
    };
    Ok(Some((reply, next)))
}

fn number(line: &[u8]) -> Result<i64, Failure> {
    let text = std::str::from_utf8(line)?;
    text.parse().map_err(|_| format!("not a number: {text:?}").into())
}

fn text(bytes: &[u8], length: i64, from: usize) -> Result<Option<(Reply, usize)>, Failure> {
    if length == -1 {
        return Ok(Some((Reply::Nothing, from)));
    }
    let end = usize::try_from(length).ok().and_then(|length| from.checked_add(length)?.checked_add(2));
    let Some(end) = end else { return Err(format!("a text of {length} bytes").into()) };
    let Some(text) = bytes.get(from..end) else { return Ok(None) };
    match text.strip_suffix(b"\r\n") {
        Some(text) => Ok(Some((Reply::Text(text.to_vec()), end))),
        None => Err("a text without an end".into()),
    }
}

fn list(bytes: &[u8], kind: u8, length: i64, from: usize, depth: usize) -> Result<Option<(Reply, usize)>, Failure> {
    if length == -1 {
        return Ok(Some((Reply::Nothing, from)));
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LIST_LIMIT || depth >= DEPTH_LIMIT {
        return Err(format!("a list of {length} elements, {depth} deep").into());
    }
    let length = if kind == b'%' { 2 * length } else { length };
    let (mut elements, mut at) = (Vec::new(), from);
    for _ in 0..length {
        let Some((element, used)) = parse_at(bytes.get(at..).unwrap_or_default(), depth + 1)? else { return Ok(None) };
        elements.push(element);
        at += used;
    }
    Ok(Some((if kind == b'>' { Reply::Push(elements) } else { Reply::List(elements) }, at)))
}

/// Appends a command.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The next answer, whatever it is.
///
/// # Errors
/// As [`parse`], or the connection is gone.
pub fn receive(stream: &mut Stream) -> Result<Reply, Failure> {
    loop {
        if let Some((reply, used)) = parse(stream.rest())? {
            stream.consume(used);
            return Ok(reply);
        }
        stream.wait()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Reply {
        Reply::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_not_before() {
        let push: &[u8] = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\n7\r\n";
        let expected = Reply::Push(vec![text("invalidate"), Reply::List(vec![text("7")])]);
        for end in 0..push.len() {
            assert_eq!(parse(&push[..end]).unwrap(), None, "after {end} bytes");
        }
        assert_eq!(parse(&[push, b"+OK\r\n"].concat()).unwrap(), Some((expected, push.len())));
        assert_eq!(parse(b"$-1\r\n").unwrap(), Some((Reply::Nothing, 5)));
        assert_eq!(parse(b"%1\r\n+a\r\n:-3\r\n").unwrap().unwrap().0, Reply::List(vec![text("a"), Reply::Number(-3)]));
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        for bytes in [&b"-ERR no\r\n"[..], b"?\r\n", b"$x\r\n", b"$-2\r\n", b"*99999999\r\n", b"$1\r\nabc\r\n", b"\r\n"]
        {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&b"*1\r\n".repeat(100)).is_err(), "lists in lists without an end");
        assert!(parse(b"$9223372036854775807\r\n").is_ok_and(|reply| reply.is_none()) || usize::BITS < 64);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let bytes: Vec<u8> =
                (0..random.usize(..24)).map(|_| *random.choice(b"*$>%:+-_\r\n\r\n12").unwrap()).collect();
            if let Ok(Some((_, used))) = parse(&bytes) {
                assert!(used <= bytes.len());
            }
        }
    }
}
