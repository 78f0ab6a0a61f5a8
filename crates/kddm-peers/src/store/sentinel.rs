//! Redis behind sentinels, which say where it is.

use crate::Failure;

use super::redis::Redis;
use super::resp::Reply;

/// What sentinels call it.
pub const NAME: &str = "peers";

/// How long a server may take to count its replicas.
const COUNT_MS: &[u8] = b"100";

/// A client of the Redis that the sentinel of that address names.
///
/// # Errors
/// The sentinel knows none, or it is none that takes writes.
pub fn connect(address: &str) -> Result<Redis, Failure> {
    let mut sentinel = Redis::connect(address)?;
    let master = named(&sentinel.ask(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", NAME.as_bytes()])?)?;
    let mut redis = Redis::connect(&master)?;
    // As the documentation of sentinels asks of clients: what they say can be older than what is.
    match redis.ask(&[b"ROLE"])? {
        Reply::List(role) if role.first() == Some(&Reply::Text(b"master".to_vec())) => Ok(redis),
        other => Err(format!("{master} is {other:?}").into()),
    }
}

/// The address in the answer of a sentinel.
fn named(reply: &Reply) -> Result<String, Failure> {
    match reply {
        Reply::List(parts) => match &parts[..] {
            [Reply::Text(host), Reply::Text(port)] => {
                Ok(format!("{}:{}", std::str::from_utf8(host)?, std::str::from_utf8(port)?))
            }
            other => Err(format!("an address that is {other:?}").into()),
        },
        other => Err(format!("an address that is {other:?}").into()),
    }
}

/// Whether the Redis of that address has so many replicas.
///
/// # Errors
/// It does not answer.
pub fn has_replicas(address: &str, wanted: usize) -> Result<bool, Failure> {
    let mut redis = Redis::connect(address)?;
    redis.ask(&[b"SET", b"0", b""])?;
    let reply = redis.ask(&[b"WAIT", wanted.to_string().as_bytes(), COUNT_MS])?;
    Ok(matches!(reply, Reply::Number(count) if usize::try_from(count) == Ok(wanted)))
}

/// Whether the sentinel of that address knows of so many replicas, and of as many other sentinels.
///
/// # Errors
/// It does not answer.
pub fn knows(address: &str, wanted: usize) -> Result<bool, Failure> {
    let reply = Redis::connect(address)?.ask(&[b"SENTINEL", b"MASTER", NAME.as_bytes()])?;
    let wanted = wanted.to_string();
    Ok(["num-slaves", "num-other-sentinels"].iter().all(|name| said(&reply, name) == Some(wanted.as_bytes())))
}

/// What follows that word in a list of names and values.
fn said<'a>(reply: &'a Reply, name: &str) -> Option<&'a [u8]> {
    let Reply::List(list) = reply else { return None };
    list.chunks_exact(2).find_map(|pair| match pair {
        [Reply::Text(key), Reply::Text(value)] if key == name.as_bytes() => Some(&value[..]),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Reply {
        Reply::List(words.iter().map(|word| Reply::Text(word.as_bytes().to_vec())).collect())
    }

    #[test]
    fn an_address_has_two_parts_and_nothing_else_is_one() {
        assert_eq!(named(&list(&["127.0.0.1", "6379"])).unwrap(), "127.0.0.1:6379");
        for other in [list(&["127.0.0.1"]), list(&["a", "b", "c"]), Reply::Nothing, Reply::Number(6379)] {
            assert!(named(&other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn what_a_sentinel_says_is_found_by_its_name() {
        let reply = list(&["name", "num-slaves", "num-slaves", "2", "odd"]);
        assert_eq!(said(&reply, "num-slaves"), Some(&b"2"[..]));
        assert_eq!(said(&reply, "2"), None);
        assert_eq!(said(&Reply::Nothing, "name"), None);
    }
}
