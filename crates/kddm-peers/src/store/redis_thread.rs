//! Redis with client-side caching as most libraries have it: what the server says of other keys comes over a connection
//! of its own, and a thread of the client drops these keys. A read from the cache is a look into a map, then, and may
//! come before the thread has heard.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Failure;

use super::Store;
use super::redis::Redis;
use super::resp::{Reply, command, receive};
use super::stream::Stream;

const CHANNEL: &[u8] = b"__redis__:invalidate";

/// A key without a value has been asked for. It is kept only if nobody has called it invalid meanwhile.
type Values = HashMap<u64, Option<u64>>;

/// `None` once the thread hears nothing any more.
type Shared = Arc<Mutex<Option<Values>>>;

/// Two connections and a cache.
pub struct Threaded {
    redis: Redis,
    shared: Shared,
}

impl Threaded {
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: &str) -> Result<Threaded, Failure> {
        let mut redis = Redis::connect(address)?;
        let mut news = Stream::connect(address)?;
        let Reply::Number(id) = ask(&mut news, &[b"CLIENT", b"ID"])? else { return Err("no client has no id".into()) };
        ask(&mut news, &[b"SUBSCRIBE", CHANNEL])?;
        redis.track(id)?;
        let shared: Shared = Arc::new(Mutex::new(Some(Values::new())));
        let heard = Arc::clone(&shared);
        std::thread::Builder::new().name("invalidations".into()).spawn(move || {
            let _end_of_the_connection = listen(&mut news, &heard);
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = None;
        })?;
        Ok(Threaded { redis, shared })
    }

    fn with<R>(&self, look: impl FnOnce(&mut Values) -> R) -> Result<R, Failure> {
        let mut values = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        values.as_mut().map(look).ok_or_else(|| "nobody says any more what is invalid".into())
    }
}

fn ask(stream: &mut Stream, words: &[&[u8]]) -> Result<Reply, Failure> {
    let mut request = Vec::new();
    command(&mut request, words);
    stream.send(&request)?;
    receive(stream)
}

/// Drops what is called invalid, until the connection ends.
fn listen(news: &mut Stream, shared: &Shared) -> Result<(), Failure> {
    loop {
        let told = match receive(news) {
            Ok(Reply::List(told)) => told,
            Ok(_) => continue,
            Err(error) if is_silence(&error) => continue,
            Err(error) => return Err(error),
        };
        let mut values = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(values) = values.as_mut() else { return Ok(()) };
        drop_from(values, &told);
    }
}

fn is_silence(error: &Failure) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// A message names keys, or none, which is all of them.
fn drop_from(values: &mut Values, told: &[Reply]) {
    match told {
        [_, _, Reply::List(keys)] => {
            for key in keys {
                if let Reply::Text(key) = key
                    && let Ok(key) = String::from_utf8_lossy(key).parse()
                {
                    values.remove(&key);
                }
            }
        }
        [_, _, Reply::Nothing] => values.clear(),
        _ => {}
    }
}

impl Store for Threaded {
    fn read(&mut self, key: u64) -> Result<u64, Failure> {
        let known = self.with(|values| {
            let known = values.get(&key).copied().flatten();
            if known.is_none() {
                values.insert(key, None);
            }
            known
        })?;
        if let Some(number) = known {
            return Ok(number);
        }
        let number = self.redis.read(key)?;
        self.with(|values| {
            if let Some(value) = values.get_mut(&key) {
                *value = Some(number);
            }
        })?;
        Ok(number)
    }

    fn write(&mut self, key: u64, number: u64) -> Result<(), Failure> {
        self.with(|values| values.remove(&key))?;
        self.redis.write(key, number)
    }

    fn increment(&mut self) -> Result<(), Failure> {
        self.redis.increment()
    }

    fn count(&mut self) -> Result<u64, Failure> {
        self.redis.count()
    }

    fn lock(&mut self) -> Result<(), Failure> {
        self.redis.lock()
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        self.redis.unlock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called_invalid_is_gone_and_nonsense_changes_nothing() {
        let text = |text: &str| Reply::Text(text.as_bytes().to_vec());
        let told = |keys| [text("message"), text("__redis__:invalidate"), keys];
        let mut values: Values = (0..4).map(|key| (key, Some(key))).collect();
        drop_from(&mut values, &told(Reply::List(vec![text("2"), text("x"), text("9")])));
        assert!(values.len() == 3 && !values.contains_key(&2));
        drop_from(&mut values, &told(Reply::Number(1)));
        drop_from(&mut values, &[text("message")]);
        assert_eq!(values.len(), 3);
        drop_from(&mut values, &told(Reply::Nothing));
        assert!(values.is_empty());
    }
}
