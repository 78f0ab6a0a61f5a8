//! What is said of a set: when its objects leave, the same at each node.

use std::time::Duration;

use kddm_core::id::SetId;
use serde::{Deserialize, Serialize};

use super::{Expire, LEAST_EXPIRY, MOST_EXPIRY};
use crate::cell::Marks;
use crate::error::{ConfigurationError, Error, SetError};

/// What becomes of an expired object where a [linker](crate::SetBuilder::linker) stands behind the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OnExpiry {
    /// It leaves the cluster, and stays there: the next access reads it again.
    #[default]
    Evict,
    /// It is removed there, too.
    Remove,
}

impl OnExpiry {
    /// The word for it, in text and JSON.
    ///
    /// ```
    /// assert_eq!(kddm::expiry::OnExpiry::Evict.word(), "evict");
    /// ```
    pub fn word(self) -> &'static str {
        match self {
            OnExpiry::Evict => "evict",
            OnExpiry::Remove => "remove",
        }
    }
}

/// What the cluster remembers of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Expiry {
    /// Since the last put.
    pub after: Option<Duration>,
    /// Since the last use.
    pub idle: Option<Duration>,
    pub on_expiry: OnExpiry,
    /// Objects may have times of their own.
    pub each: bool,
}

/// The same, as whoever opens a set wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WantedExpiry {
    pub after: Option<Duration>,
    pub idle: Option<Duration>,
    pub on_expiry: Option<OnExpiry>,
    /// Objects are to have times of their own.
    pub each: bool,
}

fn said(time: Option<Duration>) -> String {
    time.map_or_else(|| "none".into(), |time| format!("{time:?}"))
}

fn out_of_range(setting: &'static str, value: String, rule: &'static str) -> Result<(), Error> {
    Err(ConfigurationError::OutOfRange { setting, value, rule }.into())
}

/// Whether a time can be that.
pub(super) fn check_time(setting: &'static str, time: Duration) -> Result<(), Error> {
    if time < LEAST_EXPIRY {
        let rule = "it is at least 20 ms; leave it out for objects that stay";
        return out_of_range(setting, format!("{time:?}"), rule);
    }
    if time > MOST_EXPIRY {
        let rule = "it is at most 366 days; leave it out for objects that stay";
        return out_of_range(setting, format!("{time:?}"), rule);
    }
    Ok(())
}

impl WantedExpiry {
    /// Of a set that is made with it.
    pub fn made(self) -> Option<Expiry> {
        let WantedExpiry { after, idle, on_expiry, each } = self;
        let leaves = after.is_some() || idle.is_some() || each;
        leaves.then(|| Expiry { after, idle, on_expiry: on_expiry.unwrap_or_default(), each })
    }

    /// The number of a set that is made with it.
    pub fn apply(self, set: SetId) -> SetId {
        if self.made().is_some() { set.expiring() } else { set }
    }

    /// What cannot be, in a set that would be made (`create`) or is there.
    pub fn check(self, create: bool) -> Result<(), Error> {
        for (setting, time) in [("expire_after", self.after), ("expire_idle", self.idle)] {
            time.map_or(Ok(()), |time| check_time(setting, time))?;
        }
        match self.on_expiry {
            Some(on_expiry) if create && self.made().is_none() => {
                let rule = "it needs `.expire_after(..)`, `.expire_idle(..)` or `.expires()`";
                out_of_range("on_expiry", on_expiry.word().into(), rule)
            }
            _ => Ok(()),
        }
    }

    /// Only what was given explicitly is compared.
    pub fn compare(self, name: &str, has: Option<Expiry>) -> Result<(), Error> {
        let differs =
            |setting, has, wanted| Err(SetError::SettingsDiffer { name: name.into(), setting, has, wanted }.into());
        let times = [
            ("expire_after", has.and_then(|has| has.after), self.after),
            ("expire_idle", has.and_then(|has| has.idle), self.idle),
        ];
        for (setting, has, wanted) in times {
            if wanted.is_some() && wanted != has {
                return differs(setting, said(has), said(wanted));
            }
        }
        if self.each && !has.is_some_and(|has| has.each) {
            return differs("expires", "no times of single objects".into(), "them".into());
        }
        let has = has.map(|has| has.on_expiry);
        match self.on_expiry {
            Some(wanted) if has != Some(wanted) => {
                differs("on_expiry", has.map_or("none", OnExpiry::word).into(), wanted.word().into())
            }
            _ => Ok(()),
        }
    }
}

impl Expiry {
    /// Whether a put is as old as that.
    pub fn is_over(self, age: Duration) -> bool {
        self.after.is_some_and(|after| age >= after)
    }

    /// Whether an object that was not used for so long leaves, or is to be taken back from elsewhere, where it may be used.
    pub fn is_idle(self, unused: Duration, is_elsewhere: bool) -> bool {
        self.idle.is_some_and(|idle| unused >= if is_elsewhere { idle / 2 } else { idle })
    }

    /// Whether it matters who reads.
    pub fn marks(self) -> Marks {
        if self.idle.is_some() || self.each { Marks::Yes } else { Marks::No }
    }

    /// How long there is between two looks at an object, if the shortest time of a single one is that.
    pub fn period(self, own: Option<Duration>) -> Duration {
        let shortest = [self.after, self.idle, own].into_iter().flatten().min().unwrap_or(MOST_EXPIRY);
        let most = if self.each { NOTICE } else { PERIODS[1] };
        (shortest / LOOKS).clamp(PERIODS[0], most)
    }

    /// That of one object which has a time of its own.
    pub fn with(self, own: Expire) -> Expiry {
        let (after, idle) = match own {
            Expire::After(time) => (Some(time), None),
            Expire::Idle(time) => (None, Some(time)),
            Expire::Never => (None, None),
            Expire::AsTheSet => (self.after, self.idle),
        };
        Expiry { after, idle, ..self }
    }
}

/// So often an object is looked at before it goes.
const LOOKS: u32 = 16;

/// From one look to the next: often enough for the shortest time; and where days are meant nobody counts minutes.
const PERIODS: [Duration; 2] = [Duration::from_millis(2), Duration::from_secs(60)];

/// Where single objects may have shorter times than the set: so late a new one is noticed.
const NOTICE: Duration = Duration::from_secs(1);
