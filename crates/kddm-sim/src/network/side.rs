//! What one node has of its session with another.

use std::collections::VecDeque;

use kddm_core::id::NodeId;
use kddm_core::session::Session;

/// One end of a link. Its randomness is its own, so that what happens on one link does not change when
/// another one carries less.
pub struct Side {
    /// The session.
    pub session: Session,
    /// Messages in it that the other node has not handled yet, each with its number in time.
    pub pushed: VecDeque<u64>,
    /// Messages of the other node that have come out of it and are not handled yet.
    pub arrived: usize,
    /// Bytes of a frame of the other node that is not there yet.
    pub input: Vec<u8>,
    /// Up to where it had received when it greeted the other last.
    pub greeting: u64,
    /// When the last bytes written here arrive.
    pub last_arrival: u64,
    /// No second write before.
    pub busy_until: u64,
    /// An acknowledgement is on the agenda.
    pub will_acknowledge: bool,
    /// What decides the fate of what is written and of what arrives here.
    pub random: fastrand::Rng,
}

impl Side {
    /// Nothing was said yet.
    pub fn new(seed: u64, from: NodeId, to: NodeId) -> Side {
        let link = u64::from(from.0) << 16 | u64::from(to.0);
        Side {
            session: Session::new(),
            pushed: VecDeque::new(),
            arrived: 0,
            input: Vec::new(),
            greeting: 0,
            last_arrival: 0,
            busy_until: 0,
            will_acknowledge: false,
            random: fastrand::Rng::with_seed(seed.rotate_left(24) ^ link.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    /// Whether something of that rate happens now.
    pub fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.random.u32(0..1_000_000) < ppm
    }
}
