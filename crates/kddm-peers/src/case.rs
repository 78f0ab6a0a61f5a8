//! What is compared, and between whom.

use crate::system::System;
use crate::workload::Workload;

/// Keys of a slice in which each is used once: as many as all systems get through in a moment.
const EACH: u64 = 4000;

/// Systems whose servers run at the same time, with one of ours among them.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub name: &'static str,
    /// Ours first: ratios are to it.
    pub systems: &'static [System],
    pub cases: &'static [Case],
    /// Whether it is looked for stale reads.
    pub stale_reads: bool,
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    /// Client processes that work.
    pub clients: usize,
    pub workload: Workload,
    /// What one more client does before, untimed, with systems where that makes a difference.
    pub before: Option<Workload>,
}

const fn case(name: &'static str, clients: usize, workload: Workload) -> Case {
    Case { name, clients, workload, before: None }
}

const READ_AGAIN: Case = case("read_again", 1, Workload::ReadOne);
const READ_FIRST: Case = Case {
    name: "read_first",
    clients: 1,
    workload: Workload::ReadEach(EACH),
    before: Some(Workload::WriteEach(EACH)),
};
const WRITE_AGAIN: Case = case("write_again", 1, Workload::WriteOne);
const WRITE_FIRST: Case = Case {
    name: "write_first",
    clients: 1,
    workload: Workload::WriteEach(EACH),
    before: Some(Workload::WriteEach(EACH)),
};
const COUNTER_1: Case = case("counter_1", 1, Workload::Increment);
const COUNTER_2: Case = case("counter_2", 2, Workload::Increment);
const COUNTER_8: Case = case("counter_8", 8, Workload::Increment);
const LOCK_1: Case = case("lock_1", 1, Workload::Lock);
const LOCK_2: Case = case("lock_2", 2, Workload::Lock);
const MIX_99_2: Case = case("mix_99_1 by 2", 2, Workload::Mix(99));
const MIX_99_4: Case = case("mix_99_1 by 4", 4, Workload::Mix(99));
const MIX_95_2: Case = case("mix_95_5 by 2", 2, Workload::Mix(95));
const MIX_95_4: Case = case("mix_95_5 by 4", 4, Workload::Mix(95));
const MIX_50_2: Case = case("mix_50_50 by 2", 2, Workload::Mix(50));
const MIX_50_4: Case = case("mix_50_50 by 4", 4, Workload::Mix(50));

/// Where more than one has a copy: what a move and a shared write cost then.
const WITH_COPIES: &[Case] = &[
    READ_AGAIN,
    READ_FIRST,
    WRITE_AGAIN,
    WRITE_FIRST,
    COUNTER_1,
    COUNTER_2,
    COUNTER_8,
    LOCK_1,
    LOCK_2,
    MIX_95_2,
    MIX_95_4,
    MIX_50_2,
];

/// All of it.
pub const GROUPS: &[Group] = &[
    Group {
        name: "one copy",
        systems: &[
            System::Kddm,
            System::Redis,
            System::RedisSocket,
            System::RedisCached,
            System::RedisCachedByThread,
            System::Memcached,
        ],
        cases: &[
            READ_AGAIN,
            READ_FIRST,
            WRITE_AGAIN,
            WRITE_FIRST,
            COUNTER_1,
            COUNTER_2,
            COUNTER_8,
            LOCK_1,
            LOCK_2,
            MIX_99_2,
            MIX_99_4,
            MIX_95_2,
            MIX_95_4,
            MIX_50_2,
            MIX_50_4,
        ],
        stale_reads: true,
    },
    Group {
        name: "two copies",
        systems: &[System::KddmReplicated, System::RedisWait],
        cases: WITH_COPIES,
        stale_reads: false,
    },
    Group {
        name: "survives one of three",
        systems: &[System::KddmReplicated, System::Etcd, System::ZooKeeper, System::RedisSentinel],
        cases: WITH_COPIES,
        stale_reads: false,
    },
];
