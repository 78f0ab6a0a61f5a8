//! Connections that cannot be accepted. The system says so again at once, as long as it is out of something, mostly of
//! descriptors: the log is told once, once more after each minute of it, and when it is over.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Address;

/// How often the log is told while it lasts. Where it comes and goes, too: what is over may begin anew with each connection.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub(super) struct Failures {
    /// Since it was over, if that was said.
    count: u64,
    /// When the log was told last, and whether its end is to be told, too.
    said_at: Option<Instant>,
    is_said: bool,
}

impl Failures {
    /// Tells that it has failed, if it is time for that.
    pub fn failed(&mut self, address: &Address, error: &io::Error) {
        let Some(times) = self.add(Instant::now()) else { return };
        let advice = match Errno::from_io_error(error) {
            Some(Errno::MFILE) => "; raise the limit of open files of this process (`ulimit -n`, `LimitNOFILE=`)",
            Some(Errno::NFILE) => "; raise the limit of open files of this host (`fs.file-max`)",
            _ => "",
        };
        tracing::warn!(%address, %error, times, "no connection can be accepted, and it is tried again{advice}");
    }

    /// Tells that it does not fail any more, if it was told that it did.
    pub fn end(&mut self, address: &Address) {
        if let Some(times) = self.take() {
            tracing::info!(%address, times, "connections are accepted again");
        }
    }

    /// It has failed. How often, if that is to be said.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.said_at.is_some_and(|said_at| now.saturating_duration_since(said_at) < SAY_AGAIN) {
            return None;
        }
        (self.said_at, self.is_said) = (Some(now), true);
        Some(self.count)
    }

    /// How often it had failed, if it was said that it does.
    fn take(&mut self) -> Option<u64> {
        std::mem::take(&mut self.is_said).then(|| std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_once_and_after_a_minute_and_at_its_end() {
        let (mut failures, begin) = (Failures::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(failures.take(), None, "there was none");
        assert_eq!(failures.add(at(0)), Some(1));
        assert!((1..6_000).all(|pause| failures.add(at(10 * pause)).is_none()));
        assert_eq!(failures.add(at(60_000)), Some(6_001));
        assert_eq!(failures.add(at(60_010)), None);
        assert_eq!(failures.take(), Some(6_002));
        assert_eq!(failures.take(), None, "its end is said once");
        // It comes and goes.
        assert!((7_000..12_000).all(|pause| failures.add(at(10 * pause)).is_none() && failures.take().is_none()));
        assert_eq!(failures.add(at(120_000)), Some(5_001));
        assert_eq!(failures.take(), Some(5_001));
    }
}
