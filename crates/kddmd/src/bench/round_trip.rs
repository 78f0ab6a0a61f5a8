//! The floor: a bare round trip between this process and that of a participant.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use kddm::{Address, Node};

use super::participant::{Answer, Order, PING_BYTES, SERVICE};
use super::report::Samples;
use super::{Error, ORDER_LIMIT};

/// Bytes of the answers that are measured.
pub(super) const SIZES: [usize; 2] = [64, 4096];

/// Strangers that may connect before the participant does.
const STRANGERS: usize = 16;

/// How long a round trip may take before the benchmark says that it is broken.
const LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct RoundTrip {
    node: Node,
    to: u16,
    /// None where no connection came about: then calls are measured.
    stream: Option<TcpStream>,
    answer: Vec<u8>,
}

impl RoundTrip {
    /// Has the participant connect to this process. A firewall between is no error.
    pub fn new(node: &Node, to: u16, token: u64) -> Result<RoundTrip, Error> {
        let stream = connection(node, to, token).inspect_err(|reason| {
            tracing::debug!(node = to, %reason, "round trips are measured by calls");
        });
        Ok(RoundTrip { node: node.clone(), to, stream: stream.ok(), answer: Vec::new() })
    }

    pub fn by(&self) -> &'static str {
        if self.stream.is_some() { "tcp" } else { "rpc" }
    }

    /// One round trip of each size.
    pub fn measure(&mut self, samples: &mut [Samples; SIZES.len()]) -> Result<(), Error> {
        for (bytes, samples) in SIZES.into_iter().zip(samples) {
            let begin = Instant::now();
            match &mut self.stream {
                Some(stream) => {
                    let mut request = [0; PING_BYTES];
                    request[..8].copy_from_slice(&(bytes as u64).to_le_bytes());
                    self.answer.resize(bytes, 0);
                    let trip = stream.write_all(&request).and_then(|()| stream.read_exact(&mut self.answer));
                    trip.map_err(|error| Error::RoundTrip { node: self.to, reason: error.to_string() })?;
                }
                None => {
                    let order = Order::Ping { request: vec![0; PING_BYTES], answer_bytes: bytes as u32 };
                    let _pong: Answer = self.node.rpc().call_typed(self.to, SERVICE, &order, ORDER_LIMIT).wait()?;
                }
            }
            samples.push(begin.elapsed());
        }
        Ok(())
    }
}

fn connection(node: &Node, to: u16, token: u64) -> Result<TcpStream, String> {
    let text = |error: std::io::Error| error.to_string();
    // Where this node is reached, the participant reaches this as well.
    let host = match node.address() {
        Address::Tcp { host, .. } => host.trim_start_matches('[').trim_end_matches(']').to_string(),
        _ => "127.0.0.1".into(),
    };
    let target = (host.as_str(), 0).to_socket_addrs().map_err(text)?.next().ok_or("the host has no address")?;
    let listener = TcpListener::bind(target).map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    let order = Order::Echo { address, token };
    let called = node.rpc().call_typed::<_, Answer>(to, SERVICE, &order, ORDER_LIMIT).wait();
    called.map_err(|error| error.to_string())?;
    // It has connected, so nothing is waited for here.
    listener.set_nonblocking(true).map_err(text)?;
    for _ in 0..STRANGERS {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.to_string()),
        };
        let mut said = [0; 8];
        let ready = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
        let ready = ready.and_then(|()| stream.set_read_timeout(Some(LIMIT)));
        if ready.and_then(|()| stream.read_exact(&mut said)).is_ok() && said == token.to_le_bytes() {
            return Ok(stream);
        }
    }
    Err(format!("node {to} has not connected to {address}"))
}
