//! What is searched: how much may happen, and what is done wrongly.

/// Something done wrongly on purpose, to see that the search finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deviation {
    /// The holder counts from when the answer has come.
    CountFromAnswer,
    /// The granter waits no longer than a lease by its own clock.
    NoDrift,
    /// The granter allows for the drift of one clock, and not for that of both.
    DriftOfOneClock,
    /// A new leader expels whoever it has not heard of.
    ExpelAtOnce,
    /// To have asked is enough.
    OneWayRenews,
    /// The clock is looked at before the value.
    ClockBeforeValue,
    /// A leader grants a whole lease, however short its own is by now.
    GrantBeyondOwn,
    /// A new leader grants before it has applied what its predecessor may have decided.
    GrantBeforeApplied,
    /// A leader goes on without a majority.
    LeadAlone,
    /// Who is to be expelled is still granted time.
    GrantToCondemned,
}

impl Deviation {
    /// A small case in which it shows.
    pub fn case(self) -> Case {
        match self {
            Deviation::ExpelAtOnce | Deviation::LeadAlone => CASES[1],
            Deviation::GrantBeyondOwn => Case { asks: [1, 0], ticks: 5, ..CASES[3] },
            Deviation::GrantBeforeApplied => Case { asks: [0, 1], ticks: 4, ..CASES[3] },
            _ => CASES[0],
        }
    }

    /// All of them.
    pub const ALL: [Deviation; 10] = [
        Deviation::CountFromAnswer,
        Deviation::NoDrift,
        Deviation::DriftOfOneClock,
        Deviation::ExpelAtOnce,
        Deviation::OneWayRenews,
        Deviation::ClockBeforeValue,
        Deviation::GrantBeyondOwn,
        Deviation::GrantBeforeApplied,
        Deviation::LeadAlone,
        Deviation::GrantToCondemned,
    ];
}

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it is called in reports.
    pub name: &'static str,
    /// `A` is the only voter, and its own majority.
    pub has_one_voter: bool,
    /// How often `H` asks for its lease.
    pub renewals_of_h: u8,
    /// How often `A` does, at `B`, when that leads.
    pub renewals_of_a: u8,
    /// How often `A`, and then `B`, asks the voters as a leader.
    pub asks: [u8; 2],
    /// Messages that arrive twice.
    pub duplicates: u8,
    /// Ticks of true time.
    pub ticks: u8,
}

/// More of the same, for a long search.
pub const LARGE_CASES: [Case; 4] = [
    Case { name: "lease:step-down+", ticks: 6, ..CASES[2] },
    Case { name: "lease:new-leader+", ticks: 6, ..CASES[3] },
    Case { name: "lease:one-voter+", renewals_of_h: 3, ..CASES[0] },
    Case { name: "lease:new-leader++", renewals_of_h: 2, ticks: 5, ..CASES[3] },
];

/// The cases, from the smallest on.
pub const CASES: [Case; 4] = [
    Case {
        name: "lease:one-voter",
        has_one_voter: true,
        renewals_of_h: 2,
        renewals_of_a: 0,
        asks: [0, 0],
        duplicates: 1,
        ticks: 8,
    },
    Case {
        name: "lease:old-leader",
        has_one_voter: false,
        renewals_of_h: 0,
        renewals_of_a: 0,
        asks: [2, 0],
        duplicates: 0,
        ticks: 7,
    },
    Case {
        name: "lease:step-down",
        has_one_voter: false,
        renewals_of_h: 0,
        renewals_of_a: 1,
        asks: [1, 1],
        duplicates: 0,
        ticks: 5,
    },
    Case {
        name: "lease:new-leader",
        has_one_voter: false,
        renewals_of_h: 1,
        renewals_of_a: 0,
        asks: [1, 1],
        duplicates: 0,
        ticks: 5,
    },
];
