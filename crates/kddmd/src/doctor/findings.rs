//! What is wrong with a cluster, from what its daemons say of themselves: for each finding what it is, why, and what
//! to do about it. Nothing here asks anybody.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::facts::{Facts, Unsaid};

/// How much of a limit is close to it, in percent.
const CLOSE_PERCENT: u64 = 90;

/// A lease that has so little of itself left is close to its end, in percent: a member asks for more four times in a
/// lease, so that three times were in vain.
const LEASE_LEFT_PERCENT: u64 = 20;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is lost, or does not work now.
    Error,
    /// The next thing that goes wrong may cost something.
    Warning,
    /// Worth knowing; a cluster with nothing else is healthy.
    Note,
}

/// One thing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// A word for programs that stays.
    pub code: &'static str,
    /// The nodes that it is about.
    pub nodes: Vec<u16>,
    /// The set that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// What is wrong.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do: the command where there is one.
    pub to_do: String,
}

/// A member, as the daemon that is asked knows it.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// It shares objects.
    pub shares: bool,
    /// What fails together with it.
    pub zone: Option<String>,
    /// It decides and shares nothing, by its own will.
    pub is_witness: bool,
}

/// A set, by its number.
#[derive(Clone, Debug, Default)]
pub struct NamedSet {
    /// Its name.
    pub name: String,
    /// How many replicas its objects are to have.
    pub replicas: u8,
    /// What is lost of it has never existed as soon as somebody asks for it.
    pub forgives_loss: bool,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Who was asked first.
    pub asked: u16,
    /// The members.
    pub members: BTreeMap<u16, Member>,
    /// What those say of themselves that answer.
    pub facts: BTreeMap<u16, Facts>,
    /// Those that do not, and why.
    pub silent: BTreeMap<u16, Unsaid>,
    /// The sets; none if the list of sets could not be read.
    pub sets: BTreeMap<u64, NamedSet>,
    /// Why not.
    pub no_sets: Option<String>,
}

/// "node 1", "nodes 1, 2".
fn named(nodes: &[u16]) -> String {
    let list: Vec<String> = nodes.iter().map(u16::to_string).collect();
    format!("node{} {}", if nodes.len() == 1 { "" } else { "s" }, list.join(", "))
}

fn have(nodes: &[u16]) -> &'static str {
    if nodes.len() == 1 { "has" } else { "have" }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A name as a shell takes it.
pub(super) fn quoted(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/_-.:@%+=,".contains(letter);
    let is_safe = !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain);
    if is_safe { name.into() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}

/// What is wrong, the worst first.
pub fn findings(case: &Case) -> Vec<Finding> {
    let mut found = Found { case, all: Vec::new() };
    found.members();
    found.leases();
    found.sets();
    found.voters();
    found.places();
    found.hosts();
    found.forgive();
    found.all.sort_by_key(|finding| finding.level);
    found.all
}

struct Found<'a> {
    case: &'a Case,
    all: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, (level, code): (Level, &'static str), nodes: &[u16], what: String, why: &str, to_do: &str) {
        let (why, to_do) = (why.into(), to_do.into());
        self.all.push(Finding { level, code, nodes: nodes.to_vec(), set: None, what, why, to_do });
    }

    /// The members of which that is so.
    fn which(&self, is_so: impl Fn(&Facts) -> bool) -> Vec<u16> {
        self.case.facts.iter().filter(|(_, facts)| is_so(facts)).map(|(node, _)| *node).collect()
    }

    /// That a member was lost is no more than a note when all has been made whole without it.
    fn forgive(&mut self) {
        let is_of_loss = |finding: &Finding| finding.code == "expelled" || finding.level == Level::Note;
        if self.all.iter().all(is_of_loss) && self.case.facts.values().all(|facts| facts.missing.is_none()) {
            self.all.iter_mut().for_each(|finding| finding.level = Level::Note);
        }
    }

    /// Who does not answer, who was lost, who does not share.
    fn members(&mut self) {
        let case = self.case;
        for (node, unsaid) in &case.silent {
            let Unsaid::Silent(reason) = unsaid else {
                let why = "it is a program with a node of its own, or a daemon of an older version";
                let what = format!("node {node} does not say how it is");
                self.add((Level::Note, "not_asked"), &[*node], what, why, "nothing, if it is such a program");
                continue;
            };
            let why = format!("{reason}; it is expelled when its lease is over, unless it is heard of again");
            let to_do = "look at its host and its process there; a process that is stopped goes on with `kill -CONT`";
            self.add((Level::Error, "silent"), &[*node], format!("node {node} is a member and silent"), &why, to_do);
        }
        for (node, facts) in &case.facts {
            let cut: Vec<u16> =
                facts.unreachable.iter().copied().filter(|other| case.facts.contains_key(other)).collect();
            if !cut.is_empty() {
                let what = format!("node {node} does not reach {}", named(&cut));
                let why = "both answer here, so that the network between them is cut, or one of them is held up";
                self.add((Level::Error, "unreachable"), &[*node], what, why, "look at the network between their hosts");
            }
        }
        let present = |node: &u16| case.members.contains_key(node);
        let lost: BTreeSet<u16> = case.facts.values().flat_map(|facts| facts.lost_members.iter().copied()).collect();
        let lost: Vec<u16> = lost.into_iter().filter(|node| !present(node)).collect();
        if !lost.is_empty() {
            let what = format!("{} {} been lost and not come back", named(&lost), have(&lost));
            let why = "its process ended without handing over, or its host was not heard of for a lease; others have \
                       taken over what has replicas";
            let to_do = "start its daemon again with its data directory: `kddmd --data-dir DIR`";
            self.add((Level::Warning, "expelled"), &lost, what, why, to_do);
        }
        let idle = |(_, member): &(&u16, &Member)| !member.shares && !member.is_witness;
        for (node, _) in case.members.iter().filter(idle) {
            let why = "it was told to stop sharing, was started with autostart off, or is about to join or leave";
            let what = format!("node {node} shares no objects");
            self.add((Level::Warning, "not_sharing"), &[*node], what, why, &format!("kddmadm cluster start -n {node}"));
        }
        let broken = self.which(|facts| facts.faults > 0);
        if !broken.is_empty() {
            let what = format!("{} {} found a broken invariant", named(&broken), have(&broken));
            let to_do = "keep its log, start it again, and report it";
            self.add((Level::Error, "fault"), &broken, what, "that is a bug, and its log says which", to_do);
        }
    }

    fn leases(&mut self) {
        let fenced = self.which(|facts| facts.is_fenced || facts.lease_left_ms == Some(0));
        if !fenced.is_empty() {
            let what =
                format!("{} {} fenced itself: all operations there answer Fenced", named(&fenced), have(&fenced));
            let why = "its lease ended without word from those who decide: it was held up, or cut off, or fewer than \
                       a majority of them are there";
            let to_do = "a daemon joins again by itself as soon as those who decide are there: start those that are \
                         missing";
            self.add((Level::Error, "fenced"), &fenced, what, why, to_do);
        }
        let is_close = |facts: &Facts| {
            let left = |left: u64| left > 0 && left * 100 < facts.lease_ms * LEASE_LEFT_PERCENT;
            !facts.is_fenced && facts.lease_left_ms.is_some_and(left)
        };
        let close = self.which(is_close);
        if !close.is_empty() {
            let what = format!("the lease of {} is close to its end", named(&close));
            let why = "it asks for more four times in a lease and was not answered: whoever leads is held up, or the \
                       network is";
            let to_do = "look at the load of these hosts and of the one that leads (`kddmadm cluster status`)";
            self.add((Level::Error, "lease_ends"), &close, what, why, to_do);
        }
        let short = self.which(|facts| facts.lease_ms > 0 && facts.lease_ms < facts.least_lease_ms);
        if !short.is_empty() {
            let lease_ms = self.case.facts.values().map(|facts| facts.lease_ms).max().unwrap_or_default();
            let what = format!("a lease of {lease_ms} ms is short for {}", named(&short));
            let why = "its host is virtual: it can be stopped for longer without noticing, and is expelled for that";
            let to_do = "begin the cluster with `lease_ms` of 200 or more (`kddmd --found --lease-ms 1000`)";
            self.add((Level::Warning, "short_lease"), &short, what, why, to_do);
        }
    }

    fn sets(&mut self) {
        let case = self.case;
        if let Some(reason) = &case.no_sets {
            let why = "the list of sets is an object too, and could not be had";
            let to_do = "see the other findings; then ask again";
            self.add((Level::Error, "no_list"), &[case.asked], format!("the sets have no names: {reason}"), why, to_do);
        }
        let mut sums: BTreeMap<u64, super::facts::SetFacts> = BTreeMap::new();
        for (set, facts) in case.facts.values().flat_map(|facts| &facts.sets) {
            let sum = sums.entry(*set).or_default();
            sum.objects += facts.objects;
            sum.lost += facts.lost;
            sum.in_doubt += facts.in_doubt;
            sum.short += facts.short;
        }
        for (set, mut sum) in sums {
            let known = case.sets.get(&set);
            let name = known.map_or_else(|| format!("#{set}"), |known| known.name.clone());
            let mut add = |level, code, what: String, why: String, to_do: String| {
                self.all.push(Finding { level, code, nodes: Vec::new(), set: Some(name.clone()), what, why, to_do });
            };
            let accept = format!("kddmadm sets accept-loss {} --yes", quoted(&name));
            if known.is_some_and(|known| known.forgives_loss) {
                (sum.lost, sum.in_doubt) = (0, 0);
            }
            if sum.lost > 0 {
                let what = format!("{} of set {name:?} {} lost", counted(sum.lost, "object"), is_are(sum.lost));
                let why = "more members were lost than its replicas make up for: the newest version cannot be proven \
                           present";
                let to_do = format!("if nothing of it comes back: {accept}");
                add(Level::Error, "lost", what, why.into(), to_do);
            }
            if sum.in_doubt > 0 {
                let what = format!(
                    "{} of 1024 of set {name:?} {} in doubt: what is not found there answers Lost",
                    counted(sum.in_doubt, "shard"),
                    is_are(sum.in_doubt)
                );
                let why = "their home was lost with the directory, and more members than its replicas make up for: \
                           nobody knows which names existed";
                add(Level::Error, "in_doubt", what, why.into(), format!("if nothing of it comes back: {accept}"));
            }
            let wanted = known.map_or(0, |known| known.replicas);
            if sum.short > 0 && wanted > 0 {
                let what = format!(
                    "{} of set {name:?} {} fewer than {}",
                    counted(sum.short, "object"),
                    if sum.short == 1 { "has" } else { "have" },
                    counted(wanted.into(), "replica")
                );
                let (why, to_do) = self.why_short(wanted);
                add_short(&mut self.all, name, what, why, to_do);
            }
        }
    }

    /// Why objects have fewer replicas than they are to have.
    fn why_short(&self, wanted: u8) -> (String, String) {
        let homes = self.case.members.values().filter(|member| member.shares).count();
        if homes <= usize::from(wanted) {
            let why = format!("only {} shares objects, and each keeps one copy", counted(homes as u64, "member"));
            let why = if homes == 1 { why } else { why.replace("shares", "share") };
            return (why, "start another daemon: `kddmd --contact ADDRESS`".into());
        }
        let missing = self.case.facts.values().find_map(|facts| facts.missing.clone());
        let missing = missing.unwrap_or_else(|| "replicas are on their way".into());
        (format!("members have come or gone, and {missing}"), "wait: `kddmadm cluster status` says \"whole\"".into())
    }

    fn voters(&mut self) {
        let case = self.case;
        // Who has the latest word of it: one that was cut off may not.
        let Some(facts) = case.facts.get(&case.asked) else { return };
        let voters = facts.voters.clone();
        let members = case.members.len();
        if let [voter] = voters[..]
            && members > 1
        {
            let what = format!("node {voter} decides alone who is a member of {members}");
            let why = format!("while node {voter} is gone all others stop sharing; the loss of any other is survived");
            let to_do = "start a third node, or a witness in a place of its own: `kddmd --witness --contact ADDRESS`";
            self.add((Level::Warning, "one_voter"), &voters, what, &why, to_do);
        } else if voters.len().is_multiple_of(2) && !voters.is_empty() {
            let what = format!("an even number of nodes decides: {}", named(&voters));
            let why = "a majority of them may lose no more nodes than that of one fewer";
            self.add((Level::Warning, "even_voters"), &voters, what, why, "start another node, or a witness");
        }
        for (node, facts) in &case.facts {
            if let Some(reason) = &facts.voting_failure {
                let what = format!("node {node} decides no more: {reason}");
                let why = "its disk failed, or is full; the others need one vote more of those that are left";
                let to_do = "see to its disk, then start its daemon again";
                self.add((Level::Error, "no_vote"), &[*node], what, why, to_do);
            }
        }
        let is_voter = |facts: &Facts| voters.contains(&facts.node);
        let forgetful = self.which(|facts| is_voter(facts) && !facts.keeps_view_log);
        if !forgetful.is_empty() {
            let what = format!(
                "{} {} on no disk what was decided",
                named(&forgetful),
                if forgetful.len() == 1 { "keeps" } else { "keep" }
            );
            let why = "after a stop of all nodes the cluster begins anew, with another number";
            let to_do = "give it a data directory that stays (a node of a program: `Config::view_log`)";
            self.add((Level::Note, "no_view_log"), &forgetful, what, why, to_do);
        }
    }

    /// Zones, and versions.
    fn places(&mut self) {
        let case = self.case;
        let sharing: Vec<u16> =
            case.members.iter().filter(|(_, member)| member.shares).map(|(node, _)| *node).collect();
        let zones: BTreeSet<&Option<String>> = sharing.iter().map(|node| &case.members[node].zone).collect();
        if let [Some(zone)] = zones.into_iter().collect::<Vec<_>>()[..]
            && sharing.len() > 1
        {
            let what = format!("all members that share objects are in zone {zone:?}");
            let why = "what ends that zone ends all copies of an object";
            self.add(
                (Level::Warning, "one_zone"),
                &sharing,
                what,
                why,
                "start nodes in another place: `kddmd --zone NAME`",
            );
        }
        let versions: BTreeSet<&str> = case.facts.values().map(|facts| facts.version.as_str()).collect();
        if versions.len() > 1 {
            let each = case.facts.iter().map(|(node, facts)| format!("{node}: {}", facts.version));
            let what = format!("members have different versions ({})", each.collect::<Vec<_>>().join(", "));
            let nodes: Vec<u16> = case.facts.keys().copied().collect();
            let why = "that is meant for the time of a rolling restart only";
            self.add((Level::Warning, "versions"), &nodes, what, why, "restart the older ones, one after the other");
        }
    }

    /// What each host gives its daemon.
    fn hosts(&mut self) {
        let is_close = |used: u64, limit: Option<u64>| {
            limit.is_some_and(|limit| limit > 0 && used.saturating_mul(100) / limit >= CLOSE_PERCENT)
        };
        for (node, facts) in &self.case.facts {
            if is_close(facts.resident_bytes, facts.memory_limit_bytes) {
                let limit = facts.memory_limit_bytes.unwrap_or_default();
                let what =
                    format!("node {node} has {} of the {limit} bytes of memory that it may have", facts.resident_bytes);
                let why = "the system ends a process that wants more, and its objects are then those of its replicas";
                let to_do = "raise the limit (MemoryMax of its unit), or start another node";
                self.add((Level::Warning, "memory"), &[*node], what, why, to_do);
            }
            if is_close(facts.descriptors, facts.descriptor_limit) {
                let limit = facts.descriptor_limit.unwrap_or_default();
                let what = format!("node {node} has {} of {limit} descriptors open", facts.descriptors);
                let why = "each member and each attached program takes some; beyond the limit nobody is let in";
                self.add((Level::Warning, "descriptors"), &[*node], what, why, "raise LimitNOFILE of its unit");
            }
        }
        let bare = self.which(|facts| !facts.is_guarded);
        if !bare.is_empty() && self.case.members.len() > 1 {
            let what = format!("no guardian watches {}", named(&bare));
            let why = "that a process has ended is not proven then: others wait a lease for what it had";
            let to_do = "start `kddm-guardian` on its host";
            self.add((Level::Note, "no_guardian"), &bare, what, why, to_do);
        }
    }
}

fn is_are(count: u64) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

fn add_short(all: &mut Vec<Finding>, name: String, what: String, why: String, to_do: String) {
    let (level, code) = (Level::Warning, "few_replicas");
    all.push(Finding { level, code, nodes: Vec::new(), set: Some(name), what, why, to_do });
}
