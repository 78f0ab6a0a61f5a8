//! The Prometheus text format, from what the node counts anyway: nothing is added to any operation.

use std::fmt::Write;

use kddm::NameCounts;
use kddm::invoke::InvokeCounts;
use kddm::rpc::CallCounts;
use kddm::{Node, NodeState, Statistics};

use crate::admin::answer::{Subject, resident_bytes, word};

/// What the format is called.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _a_string_takes_all = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// `labels` has its braces, or is empty.
    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _a_string_takes_all = writeln!(self.0, "{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    /// Counters without a label: name, help, value.
    fn counters<const COUNT: usize>(&mut self, counters: [(&str, &str, u64); COUNT]) {
        for (name, help, value) in counters {
            self.single(name, "counter", help, value);
        }
    }
}

/// Who is in when nodes fail.
fn leases(page: &mut Page, lease: kddm::LeaseInfo) {
    page.single("kddm_lease_seconds", "gauge", "Length of a lease of this cluster.", lease.length.as_secs_f64());
    let help = "What is left of this node's lease; +Inf if it needs none, 0 if it has fenced itself.";
    let left = lease.remaining.map_or("+Inf".into(), |left| left.as_secs_f64().to_string());
    page.single("kddm_lease_remaining_seconds", "gauge", help, left);
    let help = "Members lost uncleanly since all was whole last.";
    page.single("kddm_failures", "gauge", help, lease.failures);
    page.counters([
        ("kddm_lease_renewals_total", "Renewals that this node was granted.", lease.counts.renewals),
        ("kddm_lease_grants_total", "Renewals that this node has granted others.", lease.counts.granted),
        ("kddm_suspicions_total", "Members that fell silent, as this node guessed.", lease.counts.suspicions),
        ("kddm_expulsions_total", "Members that this node has proposed to expel.", lease.counts.expulsions),
    ]);
}

fn members(page: &mut Page, node: &Node) {
    let members = node.members();
    page.family("kddm_members", "gauge", "Members of the cluster by state.");
    for state in [NodeState::Online, NodeState::Possible] {
        let count = members.iter().filter(|member| member.state == state).count();
        page.sample("kddm_members", &format!("{{state=\"{}\"}}", word(state)), count);
    }
    let unreachable = members.iter().filter(|member| !member.reachable).count();
    page.single("kddm_members_unreachable", "gauge", "Members without a connection to this node.", unreachable);
}

/// Who decides.
fn voting(page: &mut Page, voting: &kddm::VotingInfo) {
    page.single(
        "kddm_view_term",
        "gauge",
        "Number of the leadership of those who decide who is a member.",
        voting.term,
    );
    page.single(
        "kddm_view_leader",
        "gauge",
        "Who leads them; 0 while they elect somebody.",
        voting.leader.unwrap_or(0),
    );
    let help = "How many nodes decide who is a member; 0 where the log of that is kept elsewhere.";
    page.single("kddm_view_voters", "gauge", help, voting.voters.len());
    page.single("kddm_view_votes", "gauge", "Whether this node is one of them.", u8::from(voting.votes));
    let help = "Whether this node has no part in deciding any more, because its disk has failed.";
    page.single("kddm_view_log_failed", "gauge", help, u8::from(voting.failure.is_some()));
    let help = "Members that have told this node, which leads, that their disks have failed.";
    page.single("kddm_view_disks_failed", "gauge", help, voting.failing.len());
}

/// What a loss of members has left.
fn recovered(page: &mut Page, node: &Node, usage: &std::collections::BTreeMap<u64, kddm::SetUsage>) {
    let recovery = node.recovery();
    page.single("kddm_replicas", "gauge", "Objects of others of which this node keeps a replica.", recovery.replicas);
    let help = "Members were lost, and this node still hears what others have.";
    page.single("kddm_recovering", "gauge", help, u8::from(recovery.is_recovering));
    page.family("kddm_objects_lost", "gauge", "Objects that are lost, at their home, by number of the set.");
    for (set, one) in usage {
        page.sample("kddm_objects_lost", &format!("{{set=\"{set}\"}}"), one.lost);
    }
}

/// What a doctor would find of objects here. They are looked at only while replicas are being made.
fn health(page: &mut Page, node: &Node) {
    let health = node.health();
    let help = "Shards that this node answers for, of 1,024 in a set, in which more may be lost, by number of the set.";
    page.family("kddm_shards_in_doubt", "gauge", help);
    for (set, one) in &health.sets {
        page.sample("kddm_shards_in_doubt", &format!("{{set=\"{set}\"}}"), one.in_doubt);
    }
    let help = "Objects with fewer replicas than they are to have, by number of the set; sum it over all nodes.";
    page.family("kddm_objects_short_of_replicas", "gauge", help);
    for (set, one) in &health.sets {
        page.sample("kddm_objects_short_of_replicas", &format!("{{set=\"{set}\"}}"), one.short);
    }
    let help = "Members that were lost, as far as this node remembers, and have not come back.";
    page.single("kddm_members_lost", "gauge", help, health.lost_members.len());
    let help = "Whether a guardian watches this process.";
    page.single("kddm_guarded", "gauge", help, u8::from(health.is_guarded));
}

/// What has become of what former lives of this process had.
fn of_former_lives(page: &mut Page, counted: &Statistics) {
    let help = "Objects of a former life that are offered again.";
    page.single("kddm_remembered_total", "counter", help, counted.remembered);
    let help = "Read copies of a former life that are the newest still.";
    page.single("kddm_revalidated_total", "counter", help, counted.revalidated);
    let help = "Read copies of a former life that are not, or of which nobody can tell.";
    page.single("kddm_forgotten_copies_total", "counter", help, counted.forgotten_copies);
}

/// Operations that go to the owners of their objects, calls, and names.
fn asked_of_others(page: &mut Page, counted: &InvokeCounts, called: &CallCounts, of_names: &NameCounts) {
    names(page, of_names);
    page.counters([
        ("kddm_invoked_total", "Operations that were invoked here.", counted.invoked),
        ("kddm_delegated_total", "Calls of operations that went to another node.", counted.delegated),
        ("kddm_served_total", "Operations that were run here for others.", counted.served),
        ("kddm_combined_total", "Operations published together with an earlier one.", counted.combined),
        ("kddm_invoke_fallbacks_total", "Operations whose object came here after all.", counted.fallbacks),
    ]);
    calls(page, called);
}

/// Names that this node uses.
fn names(page: &mut Page, counted: &NameCounts) {
    page.single("kddm_names_used", "gauge", "Names that this node itself uses, of all classes.", counted.used);
    let help = "Names that it uses no more, and of which the cluster could not be told yet.";
    page.single("kddm_names_untold", "gauge", help, counted.untold);
    let help = "Uses of names that it has ended because whoever used them was gone.";
    page.single("kddm_name_uses_ended_total", "counter", help, counted.ended);
}

/// Watches of sets.
fn watches(page: &mut Page, counted: kddm::WatchCounts) {
    page.single("kddm_watchers", "gauge", "Watchers of sets that this node tells.", counted.watchers);
    let help = "Sets that are watched, or were a moment ago.";
    page.single("kddm_watched_sets", "gauge", help, counted.sets);
    page.single("kddm_program_watches", "gauge", "Watches of attached programs.", counted.of_programs);
}

/// Calls and streams between nodes.
fn calls(page: &mut Page, counted: &CallCounts) {
    page.counters([
        ("kddm_calls_total", "Calls that were sent, also for programs.", counted.called),
        ("kddm_casts_total", "Casts that were sent.", counted.cast),
        ("kddm_calls_asked_total", "Calls, casts and streams that came in.", counted.asked),
        ("kddm_calls_queued_total", "Such that waited for their service.", counted.queued),
        ("kddm_calls_refused_total", "Such that were refused: no service, or too much.", counted.refused),
        ("kddm_calls_forwarded_total", "Calls that handlers have passed on.", counted.forwarded),
        ("kddm_streams_total", "Streams that were opened here, or came in.", counted.streams),
    ]);
    page.single("kddm_streams", "gauge", "Streams that are open.", counted.open_streams);
}

/// What has been counted without a label.
fn counters(page: &mut Page, counted: &kddm::Statistics) {
    page.counters([
        ("kddm_misses_total", "Requests that left a local thread waiting.", counted.misses),
        ("kddm_moves_total", "Ownerships that moved away from this node.", counted.moves()),
        ("kddm_installs_total", "Copies of objects taken in.", counted.installs),
        ("kddm_dropped_total", "Messages that could not be meant, or came for a destroyed set.", counted.dropped),
        ("kddm_malformed_total", "Frames and greetings that were malformed.", counted.malformed),
        ("kddm_undecodable_total", "Objects whose bytes do not fit their type.", counted.undecodable),
        ("kddm_faults_total", "Broken invariants; the node fences itself at the first.", counted.faults),
        ("kddm_reconnects_total", "Connections that ended and were made again.", counted.reconnects),
        (
            "kddm_members_proven_dead_total",
            "Members whose processes have ended, by their guardians.",
            counted.proven_dead,
        ),
        (
            "kddm_losses_accepted_total",
            "Losses that were accepted by this node: of one object, or all of a set.",
            counted.losses_accepted,
        ),
        ("kddm_sets_destroyed_total", "Sets that have ended at this node.", counted.sets_destroyed),
        (
            "kddm_rolled_back_total",
            "Lost objects whose places older versions have taken, of those that this node is the home of.",
            counted.rolled_back,
        ),
        ("kddm_waits_for_thaw_total", "Writers that waited for the thaw of a set.", counted.waits_for_thaw),
        ("kddm_refused_greetings_total", "Greetings and claims that were refused.", counted.refused_greetings),
        ("kddm_overdue_holds_total", "Holds in somebody's way beyond their limit.", counted.overdue_holds),
        ("kddm_notifier_overruns_total", "Notifiers that overran their limit.", counted.notifier_overruns),
        ("kddm_notifier_panics_total", "Notifiers that panicked.", counted.notifier_panics),
        ("kddm_programs_detached_total", "Programs that were attached and are not any more.", counted.detached),
        ("kddm_program_frames_sent_total", "Frames to attached programs.", counted.frames_sent),
        ("kddm_program_frames_received_total", "Frames from attached programs.", counted.frames_received),
    ]);
}

/// Figures of some sets, each a family with a sample for every set; nothing where there is no such set.
fn of_sets<I, R: Copy>(
    page: &mut Page,
    infos: &[I],
    families: &[(&str, &str, &str, R)],
    set_id: fn(&I) -> u64,
    read: fn(&I, R) -> u64,
) {
    for (name, kind, help, figure) in families.iter().filter(|_| !infos.is_empty()) {
        page.family(name, kind, help);
        for info in infos {
            page.sample(name, &format!("{{set=\"{}\"}}", set_id(info)), read(info, *figure));
        }
    }
}

/// What the linkers of the sets of this node were asked for; nothing where no set has one.
fn linkers(page: &mut Page, linkers: &[kddm::linker::LinkerInfo]) {
    type Read = fn(&kddm::linker::LinkerCounts) -> u64;
    let counters: [(&str, &str, &str, Read); 12] = [
        ("kddm_linker_reads_total", "counter", "First touches that a linker was asked for.", |counts| counts.reads),
        ("kddm_linker_absent_total", "counter", "Those for which there was nothing.", |counts| counts.absent),
        ("kddm_linker_writes_total", "counter", "Values and removals that it was to write.", |counts| counts.writes),
        ("kddm_linker_refused_total", "counter", "Those that were older than what was there.", |counts| counts.refused),
        ("kddm_linker_errors_total", "counter", "Errors and panics of its methods.", |counts| counts.errors),
        ("kddm_linker_timeouts_total", "counter", "Methods that took too long.", |counts| counts.timed_out),
        ("kddm_linker_full_total", "counter", "Puts refused: too much was to be written.", |counts| counts.full),
        ("kddm_linker_hooks_total", "counter", "Hooks that were told of copies.", |counts| counts.hooks),
        ("kddm_linker_hooks_failed_total", "counter", "Those that failed.", |counts| counts.hooks_failed),
        ("kddm_linker_hooks_late_total", "counter", "Copies for which a hook took too long.", |counts| {
            counts.hooks_late
        }),
        ("kddm_linker_queued", "gauge", "Objects that are to be written.", |counts| counts.queued),
        ("kddm_linker_queued_bytes", "gauge", "Their encoded bytes.", |counts| counts.queued_bytes),
    ];
    of_sets(page, linkers, &counters, |linker| linker.set_id, |linker, read| read(&linker.counts));
}

/// What of the sets of this node that have a budget is here, and what went; nothing where no set has one.
fn budgets(page: &mut Page, budgets: &[kddm::BudgetInfo]) {
    type Read = fn(&kddm::BudgetInfo) -> u64;
    let counters: [(&str, &str, &str, Read); 9] = [
        ("kddm_budget_limit_bytes", "gauge", "How much of the set may be here.", |budget| budget.limit_bytes),
        ("kddm_budget_bytes", "gauge", "How much of it is here.", |budget| budget.bytes),
        ("kddm_budget_misses_total", "counter", "Objects that were wanted and not here.", |budget| budget.misses),
        ("kddm_budget_dropped_copies_total", "counter", "Copies to read that went.", |budget| budget.dropped_copies),
        ("kddm_budget_passed_on_total", "counter", "Objects that a reader owns now.", |budget| budget.passed_on),
        ("kddm_budget_evicted_total", "counter", "Objects only behind the set now.", |budget| budget.evicted),
        ("kddm_budget_freed_bytes_total", "counter", "What all of these counted.", |budget| budget.freed_bytes),
        ("kddm_budget_stuck_total", "counter", "How often nothing could go.", |budget| budget.stuck),
        ("kddm_budget_refused_total", "counter", "Operations refused for that.", |budget| budget.refused),
    ];
    of_sets(page, budgets, &counters, |budget| budget.set_id, |budget, read| read(budget));
    let ratios: Vec<_> = budgets.iter().filter_map(|budget| Some((budget.set_id, budget.hit_ratio?))).collect();
    if !ratios.is_empty() {
        page.family("kddm_budget_hit_ratio", "gauge", "How many reads found their object here, of a sample.");
    }
    for (set, ratio) in ratios {
        page.sample("kddm_budget_hit_ratio", &format!("{{set=\"{set}\"}}"), ratio);
    }
}

/// What of the sets whose objects leave by themselves has left here; nothing where there is none.
fn expiries(page: &mut Page, expiries: &[kddm::ExpiryInfo]) {
    type Read = fn(&kddm::ExpiryInfo) -> u64;
    let counters: [(&str, &str, &str, Read); 4] = [
        ("kddm_expired_total", "counter", "Objects whose time was over, and that left here.", |set| set.expired),
        ("kddm_expiry_failed_total", "counter", "Those that were to, and stayed for then.", |set| set.failed),
        ("kddm_expiry_watched", "gauge", "Objects whose time is kept here.", |set| set.watched),
        ("kddm_expiry_unread", "gauge", "Parts of their own times that could not be read.", |set| set.unread),
    ];
    of_sets(page, expiries, &counters, |set| set.set_id, |set, read| read(set));
}

/// The page.
pub fn render(subject: &Subject) -> String {
    let node = &subject.node;
    let counted = node.statistics();
    let mut page = Page(String::with_capacity(8192));
    page.family("kddm_messages_total", "counter", "Messages of the protocol, by kind and direction.");
    for (kind, sent, received) in counted.by_kind() {
        page.sample("kddm_messages_total", &format!("{{kind=\"{kind}\",direction=\"sent\"}}"), sent);
        page.sample("kddm_messages_total", &format!("{{kind=\"{kind}\",direction=\"received\"}}"), received);
    }
    counters(&mut page, &counted);
    of_former_lives(&mut page, &counted);
    asked_of_others(&mut page, &counted.invoking, &node.rpc().counts(), &counted.names);
    watches(&mut page, node.watch_counts());
    linkers(&mut page, &node.linkers());
    budgets(&mut page, &node.budgets());
    expiries(&mut page, &node.expiries());
    leases(&mut page, node.lease());
    let help = "Threads of this node that serve objects, each with its share of them.";
    page.single("kddm_lanes", "gauge", help, node.lanes());
    members(&mut page, node);
    voting(&mut page, &node.voting());
    let programs = node.programs();
    let lent: usize = programs.iter().map(|program| program.lent).sum();
    page.single("kddm_programs", "gauge", "Programs that are attached to this node.", programs.len());
    page.single("kddm_objects_lent", "gauge", "Objects that attached programs have, each once a program.", lent);
    page.single("kddm_epoch", "gauge", "Epoch of the installed view.", node.epoch());
    let usage = node.usage();
    let (mut objects, mut entries, mut bytes) = (0, 0, 0);
    for one in usage.values() {
        objects += one.objects;
        entries += one.directory_entries;
        bytes += one.metadata_bytes;
    }
    page.family("kddm_set_inputs_total", "counter", "Wishes and messages handled, by number of the set. Never a hit.");
    for (set, one) in &usage {
        page.sample("kddm_set_inputs_total", &format!("{{set=\"{set}\"}}"), one.inputs);
    }
    recovered(&mut page, node, &usage);
    health(&mut page, node);
    page.single("kddm_sets_frozen", "gauge", "Sets that are frozen, by whichever node.", node.frozen_sets().len());
    page.single("kddm_sets", "gauge", "Sets of which this node keeps something.", usage.len());
    page.single("kddm_objects", "gauge", "Objects of which this node knows something.", objects);
    page.single("kddm_directory_entries", "gauge", "Objects whose home is this node.", entries);
    page.single("kddm_metadata_bytes", "gauge", "Memory of all sets without their values.", bytes);
    page.single("process_resident_memory_bytes", "gauge", "Memory of the daemon's process.", resident_bytes());
    page.single("kddm_uptime_seconds", "gauge", "Age of the daemon.", subject.started.elapsed().as_secs_f64());
    page.family("kddm_build_info", "gauge", "The version, as a label.");
    page.sample("kddm_build_info", &format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1);
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_family_and_a_number() {
        let node = kddm::Node::local_cluster(1).expect("a node").remove(0);
        let set: kddm::Set<String> = node.set("counted").open().wait().expect("a set");
        set.grab(1).wait().expect("granted").put().wait().expect("put");
        let number = node.set_info("counted").expect("it is there").id;
        let builder = node.set("linked").linker("memory", kddm::linker::Memory::default());
        let builder = builder.memory_budget(1 << 20).expire_after(std::time::Duration::from_secs(3600));
        let linked = builder.open();
        let linked: kddm::Set<String> = linked.wait().expect("a set");
        linked.grab(1).wait().expect("granted").put().wait().expect("put");
        let of_linked = format!("{{set=\"{}\"}}", node.set_info("linked").expect("it is there").id);
        let page = render(&Subject::new(node, std::time::Instant::now(), std::time::Duration::ZERO));
        let families: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        for line in &samples {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(families.contains(&name.split('{').next().expect("a name")), "{line}");
        }
        for what in ["kddm_expired_total", "kddm_expiry_failed_total", "kddm_expiry_unread"] {
            assert!(samples.contains(&format!("{what}{of_linked} 0").as_str()), "{what}");
        }
        assert!(samples.contains(&"kddm_members{state=\"possible\"} 1"));
        let of_set = format!("{{set=\"{number}\"}}");
        assert!(
            samples.contains(&format!("kddm_objects_short_of_replicas{of_set} 1").as_str()),
            "one replica, one node"
        );
        assert!(samples.contains(&format!("kddm_shards_in_doubt{of_set} 0").as_str()));
        for (what, count) in [("reads_total", 1), ("writes_total", 1), ("queued", 0)] {
            assert!(samples.contains(&format!("kddm_linker_{what}{of_linked} {count}").as_str()), "{what}");
        }
        for (what, count) in [("limit_bytes", 1 << 20), ("misses_total", 1), ("evicted_total", 0)] {
            assert!(samples.contains(&format!("kddm_budget_{what}{of_linked} {count}").as_str()), "{what}");
        }
        assert!(page.contains("kddm_messages_total{kind=\"request\",direction=\"sent\"}"));
        assert!(page.lines().any(|line| line.strip_prefix("kddm_objects ").is_some_and(|count| count != "0")));
    }
}
