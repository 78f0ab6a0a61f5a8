//! What goes wrong when: drawn from one seed.

use std::time::Duration;

use crate::fault::{Drawn, Fault};

/// The pause between the end of one fault and the next, in milliseconds: from, to.
const PAUSE_MS: (u64, u64) = (200, 900);

/// The strongest loss, in percent: TCP gets through that within seconds.
const MOST_LOSS: u64 = 40;

/// The furthest clock, in hours: a year.
const MOST_HOURS: u64 = 24 * 365;

/// Hosts that may be lost at one time: as many as objects have replicas.
const LOST_AT_ONCE: usize = 1;

/// Draws one fault after the other.
pub struct Plan {
    random: fastrand::Rng,
    faults: Vec<Fault>,
    /// Those that have yet to come before all come again.
    left: Vec<Fault>,
    hosts: u16,
    lease_ms: u64,
}

impl Plan {
    /// A plan for so many hosts with that lease, with those faults.
    pub fn new(seed: u64, faults: &[Fault], hosts: u16, lease: Duration) -> Plan {
        let (random, lease_ms) = (fastrand::Rng::with_seed(seed), lease.as_millis() as u64);
        Plan { random, faults: faults.to_vec(), left: Vec::new(), hosts, lease_ms }
    }

    /// The next fault, and how long everything is well before it. None if `may` allows none: it says
    /// whether a fault can be done to a host now.
    pub fn next(&mut self, may: impl Fn(Fault, u16) -> bool) -> Option<(Duration, Drawn)> {
        let pause = Duration::from_millis(self.random.u64(PAUSE_MS.0..PAUSE_MS.1));
        let possible = |fault: &Fault| (1..=self.hosts).any(|host| may(*fault, host));
        if !self.left.iter().any(possible) {
            self.left.clone_from(&self.faults);
        }
        let faults: Vec<Fault> = self.left.iter().copied().filter(possible).collect();
        let fault = *self.random.choice(&faults)?;
        self.left.retain(|left| *left != fault);
        let host = self.random.choice((1..=self.hosts).filter(|host| may(fault, *host)).collect::<Vec<_>>())?;
        let (from, to) = fault.lasts_ms();
        // A blip is to outlast the lease, if that is short.
        let is_blip = matches!(fault, Fault::PauseShort | Fault::CutShort | Fault::OneWayShort);
        let from = if is_blip && self.lease_ms < to { from.max(self.lease_ms) } else { from };
        let lasts = Duration::from_millis(self.random.u64(from..to));
        let mut others: Vec<u16> = (1..=self.hosts).filter(|other| *other != host).collect();
        self.random.shuffle(&mut others);
        match fault {
            // The smaller side is no majority, and no more than objects have replicas.
            Fault::Split => {
                let smaller = usize::from(self.hosts.saturating_sub(1) / 2).min(LOST_AT_ONCE);
                others.drain(..smaller.saturating_sub(1));
            }
            _ => others.truncate(self.random.usize(1..=others.len().max(1))),
        }
        let strength = match fault {
            Fault::ClockJump => self.random.u64(1..MOST_HOURS),
            _ => self.random.u64(5..MOST_LOSS),
        };
        Some((pause, Drawn { fault, host, lasts, others, strength }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    #[test]
    fn a_split_leaves_a_majority_on_the_larger_side() {
        for hosts in 3..=7 {
            let mut plan = Plan::new(3, &[Fault::Split], hosts, LEASE);
            for _ in 0..50 {
                let (_, split) = plan.next(|_, _| true).expect("there is something");
                let smaller = (1..=hosts).filter(|host| split.is_cut_off(*host)).count();
                assert!(smaller * 2 < usize::from(hosts) && split.is_cut_off(split.host), "{split:?}");
            }
        }
    }

    #[test]
    fn a_blip_outlasts_a_short_lease() {
        let mut plan = Plan::new(3, &[Fault::CutShort], 4, Duration::from_millis(200));
        let lasts: Vec<_> = (0..50).filter_map(|_| Some(plan.next(|_, _| true)?.1.lasts.as_millis())).collect();
        assert!(lasts.iter().all(|lasts| (200..250).contains(lasts)), "{lasts:?}");
    }

    fn drawn(seed: u64, faults: &[Fault]) -> Vec<(Duration, Drawn)> {
        let mut plan = Plan::new(seed, faults, 4, LEASE);
        (0..200).map_while(|_| plan.next(|_, _| true)).collect()
    }

    #[test]
    fn a_seed_decides_everything() {
        let all = Fault::ALL.map(|(fault, _)| fault);
        assert_eq!(drawn(7, &all), drawn(7, &all));
        assert_ne!(drawn(7, &all), drawn(8, &all));
        for (fault, name) in Fault::ALL {
            assert!(drawn(7, &all)[..all.len()].iter().any(|(_, drawn)| drawn.fault == fault), "{name} is never drawn");
        }
        for (_, drawn) in drawn(7, &all) {
            assert!((1..=4).contains(&drawn.host) && !drawn.others.is_empty());
            assert!(!drawn.others.contains(&drawn.host));
        }
    }

    #[test]
    fn what_may_not_be_is_not_drawn() {
        let mut plan = Plan::new(1, &[Fault::Kill, Fault::Cut], 3, LEASE);
        for _ in 0..50 {
            let (_, drawn) = plan.next(|fault, host| fault == Fault::Cut && host != 1).expect("there is something");
            assert!(drawn.fault == Fault::Cut && drawn.host != 1);
        }
        assert_eq!(plan.next(|_, _| false), None);
    }
}
