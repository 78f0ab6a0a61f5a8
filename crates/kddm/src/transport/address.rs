//! Where a node listens.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// An address: `host:port`, `unix:/path`, or `local:name` inside this process.
///
/// ```
/// use kddm::Address;
/// assert!("127.0.0.1:7600".parse::<Address>().unwrap().is_loopback());
/// assert_eq!("unix:/run/kddm.sock".parse::<Address>().unwrap().to_string(), "unix:/run/kddm.sock");
/// assert!("7600".parse::<Address>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// TCP. Names are resolved when they are dialled or listened on.
    Tcp {
        /// Host name or IP address.
        host: String,
        /// Port; zero lets the system choose.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
    /// A name inside this process.
    Local(String),
}

/// Longest address in bytes: it travels in messages.
pub const MOST_ADDRESS_BYTES: usize = 255;

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {reason}; write host:port (127.0.0.1:7600), unix:/path, or local:name")]
pub struct AddressError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Address {
    /// A free port on loopback.
    pub fn loopback() -> Address {
        Address::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port: 0 }
    }

    /// A name inside this process.
    pub fn local(name: &str) -> Address {
        Address::Local(name.into())
    }

    /// The TCP address of a socket.
    pub fn of_socket(socket: SocketAddr) -> Address {
        let host = match socket.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Address::Tcp { host, port: socket.port() }
    }

    /// Whether nobody outside this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Address::Tcp { host, .. } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            Address::Unix(_) | Address::Local(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Local(name) => write!(f, "local:{name}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = |reason| AddressError { text: text.chars().take(MOST_ADDRESS_BYTES).collect(), reason };
        if text.len() > MOST_ADDRESS_BYTES {
            return Err(wrong("it is longer than 255 bytes"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Address::Unix(path.into()))
            } else {
                Err(wrong("the path is not absolute"))
            };
        }
        if let Some(name) = text.strip_prefix("local:") {
            return if name.is_empty() { Err(wrong("the name is empty")) } else { Ok(Address::Local(name.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
        let port = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(wrong("an IPv6 address needs brackets"));
        }
        Ok(Address::Tcp { host: host.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["127.0.0.1:7600", "[::1]:0", "node-3.example:80", "unix:/a/b", "local:x"] {
            assert_eq!(text.parse::<Address>().expect("good").to_string(), text);
        }
    }

    #[test]
    fn bad_texts_say_what_is_wrong() {
        for (text, word) in
            [("x", "port"), ("x:99999", "port"), (":1", "host"), ("::1:7600", "brackets"), ("unix:a", "absolute")]
        {
            assert!(text.parse::<Address>().expect_err("bad").to_string().contains(word), "{text}");
        }
    }
}
