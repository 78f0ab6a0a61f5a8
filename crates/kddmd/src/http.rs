//! Metrics and health over HTTP/1.1: three paths, GET only, one request a connection. What a client
//! may take of time, bytes and threads is bounded.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kddm::{Address, NodeState};
use parking_lot::Mutex;

use crate::admin::answer::{Shown, Subject, word};
use crate::metrics;

/// Connections at one time: a scraper or two, and people.
const CONNECTIONS: usize = 16;

/// Longest head of a request.
const HEAD_LIMIT_BYTES: usize = 8192;

/// How long a client may take to ask, and again to take the answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);

/// Listens there; the real address.
///
/// # Errors
/// A sentence that says what to do.
pub fn listen(address: &Address, shown: Shown) -> Result<Address, String> {
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "cannot serve metrics on {address}: the address is in use; stop the other process, or choose another \
             port with --http (0 takes a free one)"
        ),
        _ => format!("cannot serve metrics on {address}: {error}; correct --http, or leave it out"),
    };
    let listener = TcpListener::bind(address.to_string()).map_err(explain)?;
    let real = Address::of_socket(listener.local_addr().map_err(explain)?);
    let thread = std::thread::Builder::new().name("kddmd-http".into());
    thread.spawn(move || accept_all(&listener, &shown)).map_err(explain)?;
    Ok(real)
}

/// The connections that are being served, the oldest first.
type Open = Arc<Mutex<VecDeque<Arc<TcpStream>>>>;

fn accept_all(listener: &TcpListener, shown: &Shown) {
    let open = Open::default();
    for stream in listener.incoming() {
        let Ok(stream) = stream.map(Arc::new) else {
            // Out of file descriptors, most likely: not to be tried in a tight loop.
            std::thread::park_timeout(Duration::from_millis(100));
            continue;
        };
        {
            // The oldest makes room: whoever means it has asked long ago, and who is silent keeps nobody out.
            let mut open = open.lock();
            while open.len() >= CONNECTIONS {
                let _already_ended = open.pop_front().map(|oldest| oldest.shutdown(Shutdown::Both));
            }
            open.push_back(Arc::clone(&stream));
        }
        let (subject, all) = (shown.now(), Arc::clone(&open));
        let serve = move || {
            if let Err(error) = serve(&stream, &subject) {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
            all.lock().retain(|one| !Arc::ptr_eq(one, &stream));
        };
        if std::thread::Builder::new().name("kddmd-asked".into()).spawn(serve).is_err() {
            open.lock().pop_back();
        }
    }
}

fn serve(stream: &TcpStream, subject: &Subject) -> io::Result<()> {
    let deadline = Instant::now() + CLIENT_LIMIT;
    let head = match read_head(stream, deadline)? {
        Some(head) => head,
        None => return respond(stream, "431 Request Header Fields Too Large", TEXT, "the head is too long\n"),
    };
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next().unwrap_or_default(), words.next());
    if !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return respond(stream, "400 Bad Request", TEXT, "HTTP/1.1 is spoken here\n");
    }
    if method != Some("GET") {
        return respond(stream, "405 Method Not Allowed", TEXT, "only GET is served here\n");
    }
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => respond(stream, "200 OK", metrics::CONTENT_TYPE, &metrics::render(subject)),
        "/health" => respond(stream, "200 OK", TEXT, "alive\n"),
        "/ready" => {
            let (state, is_fenced) = (subject.state(), subject.node.statistics().faults > 0);
            let is_ready = state == NodeState::Possible && !is_fenced;
            let status = if is_ready { "200 OK" } else { "503 Service Unavailable" };
            respond(stream, status, TEXT, &format!("{}\n", if is_fenced { "fenced" } else { word(state) }))
        }
        _ => respond(stream, "404 Not Found", TEXT, "there are /metrics, /health and /ready\n"),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The head of a request, or `None` if it is too long. What follows it is not read.
fn read_head(mut stream: &TcpStream, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && !head.windows(2).any(|end| end == b"\n\n") {
        if head.len() >= HEAD_LIMIT_BYTES {
            return Ok(None);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..count]);
    }
    Ok(Some(head))
}

fn respond(mut stream: &TcpStream, status: &str, content_type: &str, body: &str) -> io::Result<()> {
    stream.set_write_timeout(Some(CLIENT_LIMIT))?;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    // One write: the answer fits a socket's buffer, so that a client that reads slowly costs no thread.
    stream.write_all(format!("{head}{body}").as_bytes())
}
