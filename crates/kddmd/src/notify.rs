//! Tells systemd how the daemon is: datagrams to the socket that `NOTIFY_SOCKET` names.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where news go; nowhere if nobody asked for them.
#[derive(Debug, Default)]
pub struct ServiceManager(Option<(UnixDatagram, SocketAddr)>);

impl ServiceManager {
    /// The one that started this process, if there is one.
    pub fn from_environment() -> ServiceManager {
        ServiceManager(std::env::var("NOTIFY_SOCKET").ok().and_then(|name| ServiceManager::at(&name)))
    }

    fn at(name: &str) -> Option<(UnixDatagram, SocketAddr)> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        Some((UnixDatagram::unbound().ok()?, address.ok()?))
    }

    /// Says it. Nobody is waited for, and nothing depends on whether it arrives.
    pub fn tell(&self, news: &str) {
        if let Some((socket, address)) = &self.0 {
            let _nobody_may_listen = socket.send_to_addr(news.as_bytes(), address);
        }
    }
}
