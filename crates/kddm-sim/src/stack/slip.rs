//! What can be done wrongly on purpose with leases and views, so that the search is known to see it.

/// One thing done wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slip {
    /// What is held is used without a look at the lease.
    UseWithoutLease,
    /// A flag that a timer clears is looked at, and not the clock: whoever slept uses what it had.
    LookAtFlag,
    /// The leader takes all clocks for right: it expels as soon as the lease is over by its own.
    ExpelWithoutDrift,
    /// A silent member is expelled after half a lease.
    BelieveSilence,
    /// A new leader takes nobody for the holder of a lease.
    ElectedWithoutWaiting,
    /// A leader needs nobody's word to use what it holds and to grant time.
    LeadAlone,
    /// What a leader grants may outlast its own lease.
    GrantBeyondOwn,
    /// Who leads no more takes a whole lease from when it hears so.
    BeginAnewWhenDeposed,
    /// What an earlier epoch has said still counts.
    AcceptOldEpoch,
    /// All counts as whole again without a word of the members.
    HealTooEarly,
}

impl Slip {
    /// All of them, each with its name.
    pub const ALL: [(Slip, &'static str); 10] = [
        (Slip::UseWithoutLease, "use_without_lease"),
        (Slip::LookAtFlag, "look_at_flag"),
        (Slip::ExpelWithoutDrift, "expel_without_drift"),
        (Slip::BelieveSilence, "believe_silence"),
        (Slip::ElectedWithoutWaiting, "elected_without_waiting"),
        (Slip::LeadAlone, "lead_alone"),
        (Slip::GrantBeyondOwn, "grant_beyond_own"),
        (Slip::BeginAnewWhenDeposed, "begin_anew_when_deposed"),
        (Slip::AcceptOldEpoch, "accept_old_epoch"),
        (Slip::HealTooEarly, "heal_too_early"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Slip::ALL.iter().find(|(slip, _)| *slip == self).map_or("", |(_, name)| name)
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Slip> {
        Slip::ALL.iter().find(|(_, known)| *known == name).map(|(slip, _)| *slip)
    }
}
