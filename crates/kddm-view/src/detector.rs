//! Who seems to be silent: a guess that adapts to how often somebody speaks, and never a decision.
//!
//! Phi-accrual in its plain form: the time between two words of a member is taken as normally
//! distributed, and *phi* says how unlikely its present silence is, as minus the decimal logarithm of
//! the probability. Only leases decide ([`crate::lease`]); a suspicion says when it is worth while to
//! look whether a lease has run out, and is shown to people.
//!
//! A node that was held up itself hears everybody late. It notices by its own rounds, which come late,
//! too, and then is slower to suspect ("local health": after SWIM's successor Lifeguard).
//!
//! ```
//! use kddm_core::id::{NodeId, Time};
//! use kddm_view::detector::Detector;
//!
//! const MS: u64 = 1_000_000;
//! let mut detector = Detector::new(250 * MS);
//! for word in 0..20 {
//!     detector.round(Time(word * 250 * MS), Time(word * 250 * MS));
//!     detector.heard(NodeId(2), Time(word * 250 * MS));
//! }
//! assert!(!detector.is_suspected(NodeId(2), Time(20 * 250 * MS)));
//! assert!(detector.is_suspected(NodeId(2), Time(24 * 250 * MS)));
//! ```

use std::collections::{BTreeMap, VecDeque};

use kddm_core::id::{NodeId, Time};

/// Intervals remembered of each member: half a minute of quarters of a second.
pub const INTERVALS: usize = 128;

/// From this phi on a member is suspected: a silence as long would come by itself once in a hundred
/// million words.
pub const SUSPICION: f64 = 8.0;

/// How much slower a node suspects others at most when it is late itself.
pub const WORST_HEALTH: u32 = 8;

/// Rounds in time after which a node takes itself for one step healthier.
const ROUNDS_IN_TIME: u32 = 4;

/// The words of one member.
#[derive(Clone, Debug)]
struct Heard {
    last: Time,
    intervals: VecDeque<u64>,
}

/// What one node guesses about the others.
#[derive(Clone, Debug)]
pub struct Detector {
    /// How often a member is to speak, in ns.
    expected_ns: u64,
    heard: BTreeMap<NodeId, Heard>,
    /// 0: this node is in time.
    lateness: u32,
    in_time: u32,
}

impl Detector {
    /// A node whose members are to speak every `expected_ns`.
    pub fn new(expected_ns: u64) -> Detector {
        Detector { expected_ns: expected_ns.max(1), heard: BTreeMap::new(), lateness: 0, in_time: 0 }
    }

    /// A member has said something.
    pub fn heard(&mut self, node: NodeId, now: Time) {
        let Some(heard) = self.heard.get_mut(&node) else {
            self.heard.insert(node, Heard { last: now, intervals: VecDeque::new() });
            return;
        };
        if heard.intervals.len() >= INTERVALS {
            heard.intervals.pop_front();
        }
        heard.intervals.push_back(now.0.saturating_sub(heard.last.0));
        heard.last = heard.last.max(now);
    }

    /// Whoever is no member any more is forgotten.
    pub fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.heard.retain(|node, _| is_member(*node));
    }

    /// A round of this node's own that was due at `due` and came at `now`. A late one makes it doubt
    /// itself, some in time make it trust itself again.
    pub fn round(&mut self, due: Time, now: Time) {
        if now.0.saturating_sub(due.0) > self.expected_ns {
            self.lateness = (self.lateness + 1).min(WORST_HEALTH - 1);
            self.in_time = 0;
            return;
        }
        self.in_time += 1;
        if self.in_time >= ROUNDS_IN_TIME {
            self.in_time = 0;
            self.lateness = self.lateness.saturating_sub(1);
        }
    }

    /// How many times longer than a healthy node this one waits before it suspects anybody.
    pub fn patience(&self) -> u32 {
        1 + self.lateness
    }

    /// How unlikely the present silence of a member is: 8 for once in 10^8. 0 for one never heard of.
    pub fn phi(&self, node: NodeId, now: Time) -> f64 {
        let Some(heard) = self.heard.get(&node) else { return 0.0 };
        let silent_ns = now.0.saturating_sub(heard.last.0) as f64 / f64::from(self.patience());
        let (mean, deviation) = self.spread(heard);
        minus_log10_of_tail((silent_ns - mean) / deviation)
    }

    /// Whether a member is silent for longer than chance explains.
    pub fn is_suspected(&self, node: NodeId, now: Time) -> bool {
        self.phi(node, now) >= SUSPICION
    }

    /// The mean of a member's intervals and their deviation. Before it has spoken often, and if it is
    /// more regular than any network, the expected interval counts instead of what was seen.
    fn spread(&self, heard: &Heard) -> (f64, f64) {
        let expected = self.expected_ns as f64;
        let least = expected / 4.0;
        let count = heard.intervals.len() as f64;
        if heard.intervals.len() < 2 {
            return (expected, least);
        }
        let mean = heard.intervals.iter().map(|ns| *ns as f64).sum::<f64>() / count;
        let variance = heard.intervals.iter().map(|ns| (*ns as f64 - mean).powi(2)).sum::<f64>() / count;
        (mean, variance.sqrt().max(least))
    }
}

/// Minus the decimal logarithm of the probability that a normal variable exceeds its mean by so many
/// deviations, by the logistic approximation of Bowling et al. (2009), which is off by less than 0.00015
/// in the middle and stays finite far out.
fn minus_log10_of_tail(deviations: f64) -> f64 {
    let exponent = deviations * (1.5976 + 0.070_566 * deviations * deviations);
    // ln(1 + e^x) without an overflow.
    let logarithm = if exponent > 30.0 { exponent } else { exponent.exp().ln_1p() };
    (logarithm * std::f64::consts::LOG10_E).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const PERIOD: u64 = 250 * MS;
    const NODE: NodeId = NodeId(2);

    /// A member that spoke at these times, in ms.
    fn heard_at(times_ms: impl IntoIterator<Item = u64>) -> (Detector, u64) {
        let mut detector = Detector::new(PERIOD);
        let mut last = 0;
        for at in times_ms {
            detector.heard(NODE, Time(at * MS));
            last = at;
        }
        (detector, last)
    }

    fn suspected_after_ms(detector: &Detector, last_ms: u64) -> u64 {
        (0..100_000).find(|ms| detector.is_suspected(NODE, Time((last_ms + ms) * MS))).expect("at some time")
    }

    #[test]
    fn a_regular_member_is_suspected_when_it_misses_some_words() {
        let (detector, last) = heard_at((0..40).map(|word| word * 250));
        let after = suspected_after_ms(&detector, last);
        assert!((400..800).contains(&after), "after {after} ms");
        let phi = |ms| detector.phi(NODE, Time((last + ms) * MS));
        assert!(phi(100) < phi(300) && phi(300) < phi(600) && phi(600_000).is_finite());
    }

    #[test]
    fn an_irregular_member_is_given_longer() {
        let (regular, last) = heard_at((0..40).map(|word| word * 250));
        let steady = suspected_after_ms(&regular, last);
        let (irregular, last) = heard_at((0..40).map(|word| word * 250 + (word % 3) * 200));
        assert!(suspected_after_ms(&irregular, last) > 2 * steady);
    }

    #[test]
    fn nobody_is_suspected_before_it_was_heard_of_or_after_it_is_forgotten() {
        let mut detector = Detector::new(PERIOD);
        assert!(!detector.is_suspected(NODE, Time(u64::MAX)));
        detector.heard(NODE, Time(0));
        assert!(detector.is_suspected(NODE, Time(10_000 * MS)), "one word is enough to be missed");
        detector.retain(|_| false);
        assert!(!detector.is_suspected(NODE, Time(u64::MAX)));
    }

    #[test]
    fn a_node_that_is_late_itself_suspects_nobody_for_that() {
        let (mut detector, last) = heard_at((0..40).map(|word| word * 250));
        let healthy = suspected_after_ms(&detector, last);
        for _ in 0..3 {
            detector.round(Time(0), Time(2 * PERIOD));
        }
        assert_eq!(detector.patience(), 4);
        assert!(suspected_after_ms(&detector, last) > 3 * healthy);
        for _ in 0..100 {
            detector.round(Time(0), Time(2 * PERIOD));
        }
        assert_eq!(detector.patience(), WORST_HEALTH, "there is an end to it");
        for _ in 0..WORST_HEALTH * ROUNDS_IN_TIME {
            detector.round(Time(0), Time(PERIOD));
        }
        assert_eq!(suspected_after_ms(&detector, last), healthy);
    }

    #[test]
    fn only_the_newest_intervals_count() {
        let slow = (0..200).map(|word| word * 2_000);
        let quick = (1..=INTERVALS as u64).map(|word| 199 * 2_000 + word * 250);
        let (detector, last) = heard_at(slow.chain(quick));
        assert!(suspected_after_ms(&detector, last) < 800);
        assert_eq!(detector.heard[&NODE].intervals.len(), INTERVALS);
    }

    #[test]
    fn the_tail_is_that_of_a_normal_distribution() {
        for (deviations, probability) in [(0.0, 0.5), (1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_350)] {
            let exact = -f64::log10(probability);
            assert!((minus_log10_of_tail(deviations) - exact).abs() < 0.05, "{deviations}");
        }
        assert!(minus_log10_of_tail(-100.0) < 1e-9 && minus_log10_of_tail(1e6).is_finite());
    }
}
