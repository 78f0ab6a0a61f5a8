//! What goes wrong: each fault by its name, done to one host and undone.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::{Host, Programs};
use crate::network::{Cable, Network};

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// kill -9, and a new start.
    Kill,
    /// SIGTERM: it leaves, and comes back as a new life.
    Restart,
    /// SIGSTOP and SIGCONT, shorter than any lease.
    PauseShort,
    /// SIGSTOP and SIGCONT, for longer than a lease.
    Pause,
    /// The cable is pulled, shorter than any lease.
    CutShort,
    /// The cable is pulled for longer than a lease.
    Cut,
    /// The host does not hear some of the others, which hear it; shorter than any lease.
    OneWayShort,
    /// The same for longer than a lease.
    OneWay,
    /// The host, and others that are no majority together, hear nobody else, and nobody else hears them.
    Split,
    /// A share of what comes to the host is lost.
    RandomLoss,
    /// The node leaves and comes back with a monotonic clock that is hours away: the clock of a process
    /// that runs cannot be moved, nor can the date of one host alone.
    ClockJump,
    /// There is no room on the disk of the host.
    DiskFull,
}

impl Fault {
    /// All, each with its name.
    pub const ALL: [(Fault, &'static str); 12] = [
        (Fault::Kill, "kill"),
        (Fault::Restart, "restart"),
        (Fault::PauseShort, "pause-short"),
        (Fault::Pause, "pause"),
        (Fault::CutShort, "cut-short"),
        (Fault::Cut, "cut"),
        (Fault::OneWayShort, "one-way-short"),
        (Fault::OneWay, "one-way"),
        (Fault::Split, "split"),
        (Fault::RandomLoss, "random-loss"),
        (Fault::ClockJump, "clock-jump"),
        (Fault::DiskFull, "disk-full"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Fault::ALL.iter().find(|(fault, _)| *fault == self).map_or("", |(_, name)| name)
    }

    /// The fault of that name.
    ///
    /// # Errors
    /// There is none; the names that there are.
    pub fn of_name(name: &str) -> Result<Fault, String> {
        let known = Fault::ALL.map(|(_, name)| name).join(", ");
        let found = Fault::ALL.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault);
        found.ok_or_else(|| format!("there is no fault `{name}`; there are {known}"))
    }

    /// How long it lasts, in milliseconds: from, to.
    pub fn lasts_ms(self) -> (u64, u64) {
        match self {
            Fault::Kill | Fault::Restart => (0, 800),
            Fault::PauseShort | Fault::CutShort | Fault::OneWayShort => (50, 250),
            Fault::Pause | Fault::Cut | Fault::OneWay | Fault::Split => (1_500, 3_500),
            Fault::RandomLoss => (300, 1_500),
            Fault::ClockJump => (0, 200),
            Fault::DiskFull => (500, 1_500),
        }
    }

    /// How long an object of the host may be away by it, where that is promised: what had to be expelled is gone when
    /// its lease is over, to whoever counts most slowly.
    pub fn limit(self, lease: Duration) -> Option<Duration> {
        let outlasts = Duration::from_millis(self.lasts_ms().1) > lease;
        let is_promised = match self {
            Fault::Kill => true,
            Fault::Restart | Fault::RandomLoss | Fault::ClockJump | Fault::DiskFull => false,
            _ => outlasts,
        };
        is_promised.then(|| lease.mul_f64(1.1) + Duration::from_millis(10))
    }

    /// Whether a daemon that has it may be expelled: then what it held is lost with it.
    pub fn may_expel(self, lease: Duration) -> bool {
        self != Fault::Kill && self.limit(lease).is_some()
    }

    /// Whether all that it can cost is known when it is over: others hear of it at once, or their leases do not notice.
    pub fn is_over_at_once(self) -> bool {
        matches!(self, Fault::Kill | Fault::Restart | Fault::ClockJump | Fault::DiskFull | Fault::PauseShort)
    }

    /// Whether a daemon ends by it.
    pub fn ends_daemon(self) -> bool {
        matches!(self, Fault::Kill | Fault::Restart | Fault::ClockJump)
    }
}

/// One fault, as it was drawn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drawn {
    /// Which.
    pub fault: Fault,
    /// On which host.
    pub host: u16,
    /// For how long.
    pub lasts: Duration,
    /// Other hosts that it concerns: whom a deaf one does not hear, or those on the other side of a split.
    pub others: Vec<u16>,
    /// How strong it is: of lost packets the percentage, of a clock the hours.
    pub strength: u64,
}

impl Drawn {
    /// Does it.
    ///
    /// # Errors
    /// It did not happen.
    pub fn begin(&self, host: &mut Host, network: &Network) -> Result<(), String> {
        match self.fault {
            Fault::Kill => host.kill(),
            Fault::Restart => host.stop(),
            Fault::PauseShort | Fault::Pause => host.pause(),
            Fault::CutShort | Fault::Cut => network.set_cable(self.host, Cable::Pulled),
            Fault::OneWayShort | Fault::OneWay => network.deafen(self.host, &self.others),
            Fault::Split => self.sides(network.hosts()).try_for_each(|(one, other)| network.deafen(one, &other)),
            Fault::RandomLoss => network.lose(self.host, self.strength.try_into().unwrap_or(100)),
            Fault::ClockJump => {
                host.set_clock_offset(Duration::from_secs(3600 * self.strength));
                host.stop()
            }
            Fault::DiskFull => fill(&ballast(host)),
        }
    }

    /// Undoes it. How many packets were lost by it.
    ///
    /// # Errors
    /// It goes on.
    pub fn end(&self, host: &mut Host, network: &Network, programs: &Programs) -> Result<u64, String> {
        match self.fault {
            Fault::Kill | Fault::Restart | Fault::ClockJump => host.start(programs)?,
            Fault::PauseShort | Fault::Pause => host.go_on()?,
            Fault::CutShort | Fault::Cut => network.set_cable(self.host, Cable::Plugged)?,
            Fault::OneWayShort | Fault::OneWay | Fault::RandomLoss => return network.heal(self.host),
            Fault::Split => return (1..=network.hosts()).map(|host| network.heal(host)).sum(),
            Fault::DiskFull => {
                let path = ballast(host);
                std::fs::remove_file(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
            }
        }
        Ok(0)
    }
}

impl Drawn {
    /// Whether that host is cut off with the one that is meant.
    pub fn is_cut_off(&self, host: u16) -> bool {
        self.fault == Fault::Split && !self.others.contains(&host)
    }

    /// Each host, and whom it does not hear while the network is split.
    fn sides(&self, hosts: u16) -> impl Iterator<Item = (u16, Vec<u16>)> + '_ {
        (1..=hosts).map(move |one| {
            let is_other = |other: &u16| self.others.contains(other) != self.others.contains(&one);
            (one, (1..=hosts).filter(is_other).collect())
        })
    }
}

fn ballast(host: &Host) -> PathBuf {
    host.disk().join("ballast")
}

/// Writes until there is no room.
fn fill(path: &PathBuf) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let mut file = File::create(path).map_err(failed)?;
    let mut block = vec![1_u8; 64 << 10];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            // Down to the last byte.
            Err(error) if error.kind() == ErrorKind::StorageFull && block.len() > 1 => block.truncate(block.len() / 2),
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_and_a_length() {
        for (fault, name) in Fault::ALL {
            assert_eq!(Fault::of_name(name), Ok(fault));
            assert_eq!(fault.name(), name);
            assert!(fault.lasts_ms().0 < fault.lasts_ms().1);
        }
        let lease = Duration::from_secs(1);
        assert_eq!(Fault::Cut.limit(lease), Some(Duration::from_millis(1110)));
        assert_eq!((Fault::CutShort.limit(lease), Fault::DiskFull.limit(lease)), (None, None));
        let split = Drawn { fault: Fault::Split, host: 4, lasts: lease, others: vec![1, 3, 5], strength: 0 };
        assert_eq!((split.is_cut_off(2), split.is_cut_off(4), split.is_cut_off(1)), (true, true, false));
        let deaf: Vec<_> = split.sides(5).collect();
        assert_eq!(deaf[1], (2, vec![1, 3, 5]));
        assert_eq!(deaf[2], (3, vec![2, 4]));
        assert!(Fault::of_name("flood").expect_err("there is none").contains("one-way-short"));
    }
}
