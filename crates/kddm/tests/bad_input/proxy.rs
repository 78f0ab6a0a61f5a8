//! A place between two nodes where a link can be cut, held up, or tampered with.
//!
//! The node listens on a Unix socket; the proxy moves that aside and listens in its place. What passes
//! is handed on unchanged up to the end of the greeting, because only frames are sealed.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kddm::transport::greeting::{Hello, Purpose};
use kddm_core::frame::{Decoded, decode};

/// What is done, once, to the next bytes that a dialling node sends on its link.
#[derive(Clone, Debug)]
pub enum Tamper {
    /// Flips a bit of the byte at that place, or of the last one before it.
    Flip(usize),
    /// Flips a bit of the body of the first frame that has one.
    FlipBody,
    /// These bytes go ahead of them.
    Inject(Vec<u8>),
}

#[derive(Default)]
struct State {
    real: PathBuf,
    refusing: AtomicBool,
    silent: AtomicBool,
    links: Mutex<Vec<[UnixStream; 2]>>,
    made: AtomicU64,
    tamper: Mutex<Option<Tamper>>,
    ending: AtomicBool,
}

pub struct Proxy(Arc<State>);

impl Proxy {
    /// Stands in front of the node that listens on that socket.
    pub fn before(socket: &Path) -> Proxy {
        let real = socket.with_extension("real");
        std::fs::rename(socket, &real).expect("a node listens there");
        let listener = UnixListener::bind(socket).expect("the name is free now");
        let state = Arc::new(State { real, ..State::default() });
        let proxy = Proxy(Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                std::thread::spawn(move || state.carry(stream));
            }
        });
        proxy
    }

    /// Links that have been made so far.
    pub fn made(&self) -> u64 {
        self.0.made.load(Ordering::Acquire)
    }

    /// Ends all links in both directions, wherever they are in a frame.
    pub fn cut(&self) {
        for link in self.0.links.lock().expect("no panic under this lock").drain(..) {
            for stream in link {
                let _already_ended = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// New links are refused from now on, or no more.
    pub fn refuse(&self, refuse: bool) {
        self.0.refusing.store(refuse, Ordering::Release);
    }

    /// New links get no answer from now on.
    pub fn keep_silent(&self) {
        self.0.silent.store(true, Ordering::Release);
    }

    pub fn tamper(&self, tamper: Tamper) {
        *self.0.tamper.lock().expect("no panic under this lock") = Some(tamper);
    }

    /// Ends a link right behind the next bare acknowledgement for the node that dialled it: that node has
    /// nothing to say then.
    pub fn end_after_next_ack(&self) {
        self.0.ending.store(true, Ordering::Release);
    }

    /// Whether what [`Self::tamper`] said has been done.
    pub fn has_tampered(&self) -> bool {
        self.0.tamper.lock().expect("no panic under this lock").is_none()
    }
}

impl State {
    fn carry(&self, dialled: UnixStream) {
        let Ok((hello, bytes)) = read_hello(&dialled) else { return };
        let is_link = matches!(hello.purpose, Purpose::Link { .. });
        if is_link && self.refusing.load(Ordering::Acquire) {
            return;
        }
        if is_link && self.silent.load(Ordering::Acquire) {
            let mut until_it_gives_up = Vec::new();
            let _ended = (&dialled).read_to_end(&mut until_it_gives_up);
            return;
        }
        let Ok(listening) = UnixStream::connect(&self.real) else { return };
        if (&listening).write_all(&bytes).is_err() {
            return;
        }
        let copy = |stream: &UnixStream| stream.try_clone().expect("a copy of a descriptor");
        if is_link {
            let link = [copy(&dialled), copy(&listening)];
            self.links.lock().expect("no panic under this lock").push(link);
            self.made.fetch_add(1, Ordering::AcqRel);
        }
        let ends = |bytes: &[u8]| is_link && is_bare_ack(bytes) && self.ending.swap(false, Ordering::AcqRel);
        std::thread::scope(|scope| {
            scope.spawn(|| pump(&listening, &dialled, |_| {}, ends));
            let tamper = |bytes: &mut Vec<u8>| {
                if is_link {
                    self.tamper_with(bytes);
                }
            };
            pump(&dialled, &listening, tamper, |_| false);
        });
    }

    fn tamper_with(&self, bytes: &mut Vec<u8>) {
        let mut tamper = self.tamper.lock().expect("no panic under this lock");
        let body = body_of(bytes);
        if matches!(*tamper, Some(Tamper::FlipBody)) && body.is_none() {
            return;
        }
        match tamper.take() {
            None => {}
            Some(Tamper::FlipBody) => bytes[body.expect("just looked at")] ^= 0x10,
            Some(Tamper::Flip(at)) => {
                let last = bytes.len() - 1;
                bytes[at.min(last)] ^= 0x10;
            }
            Some(Tamper::Inject(injected)) => drop(bytes.splice(..0, injected)),
        }
    }
}

fn pump(
    mut from: &UnixStream,
    mut to: &UnixStream,
    mut change: impl FnMut(&mut Vec<u8>),
    mut ends: impl FnMut(&[u8]) -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..count].to_vec();
        change(&mut bytes);
        if to.write_all(&bytes).is_err() || ends(&bytes) {
            break;
        }
    }
    for stream in [from, to] {
        let _already_ended = stream.shutdown(Shutdown::Both);
    }
}

/// Where the first body is.
fn body_of(mut bytes: &[u8]) -> Option<usize> {
    let whole = bytes.len();
    while let Ok(Decoded::Frame(frame, length)) = decode(bytes) {
        if !frame.body.is_empty() {
            return Some(whole - bytes.len() + length - 1);
        }
        bytes = &bytes[length..];
    }
    None
}

fn is_bare_ack(bytes: &[u8]) -> bool {
    matches!(decode(bytes), Ok(Decoded::Frame(frame, _)) if frame.message.is_none())
}

/// The first word of a connection, and its bytes.
fn read_hello(mut stream: &UnixStream) -> std::io::Result<(Hello, Vec<u8>)> {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes)?;
    let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    bytes.resize(8 + length as usize, 0);
    stream.read_exact(&mut bytes[8..])?;
    let hello = postcard::from_bytes(&bytes[8..]).map_err(std::io::Error::other)?;
    Ok((hello, bytes))
}

/// A directory of sockets, removed at the end.
pub struct Sockets(PathBuf);

impl Sockets {
    pub fn new() -> Sockets {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kddm-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for sockets");
        Sockets(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_dir_all(&self.0);
    }
}
