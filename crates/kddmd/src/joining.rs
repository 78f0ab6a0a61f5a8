//! Which cluster a daemon is to be in, from what it was told: the contacts that it was given, the
//! daemon on the default port of this host, or one of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kddm::transport::greeting::{Hello, PROTOCOL, Purpose, greet};
use kddm::{AccessError, Address, Error, LogSource, MembershipError, Node};

use crate::config::{DEFAULT_PORT, Settings};

/// Pause between two attempts while no contact answers.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a member may take to say that it is there.
const GREETING: Duration = Duration::from_secs(1);

/// What the data directory remembers.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The number to ask for.
    pub node_id: Option<u16>,
    /// No node has ever been a member from there.
    pub is_new: bool,
    /// Where the other members of its cluster were.
    pub members: Vec<Address>,
    /// Where what is decided about members is kept, if anywhere.
    pub view_log: Option<PathBuf>,
    /// Something is kept there.
    pub has_log: bool,
    /// Where the log is kept instead, if no member keeps it: the members are found there.
    pub view_log_in: Option<Arc<dyn LogSource>>,
    /// It was a member until its lease ended, and comes back however long that takes.
    pub rejoins: bool,
}

/// Whom to ask, and what to do if nobody answers.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    contacts: Vec<Address>,
    /// Begin a cluster if no contact answers; else they may be on their way up, and are asked again.
    may_found: bool,
}

/// A daemon that was given no contacts asks the daemon on the default port of this host, unless that is
/// itself. With contacts, those that are not itself are asked; the node whose own address comes first
/// in the list begins the cluster if none of the others is there. Whoever has been a member before does
/// not begin a cluster because nobody answers: its own may be there still.
fn plan(settings: &Settings, is_new: bool) -> Plan {
    let own = |address: &Address| *address == settings.listen;
    if settings.found {
        return Plan { contacts: Vec::new(), may_found: true };
    }
    if settings.contacts.is_empty() {
        let default = Address::Tcp { host: "127.0.0.1".into(), port: DEFAULT_PORT };
        let takes_default_port = matches!(settings.listen, Address::Tcp { port: DEFAULT_PORT, .. });
        let contacts = if takes_default_port { Vec::new() } else { vec![default] };
        return Plan { may_found: is_new || contacts.is_empty(), contacts };
    }
    let is_first = settings.contacts.first().is_some_and(own);
    let contacts: Vec<Address> = settings.contacts.iter().filter(|address| !own(address)).cloned().collect();
    Plan { may_found: contacts.is_empty() || (is_new && is_first), contacts }
}

/// Joins the cluster that the settings mean. Blocks, up to the limit of a join, or as long as it is
/// wanted.
///
/// # Errors
/// One sentence that says what to do.
pub fn join(settings: &Settings, past: &Past, is_wanted: &AtomicBool) -> Result<Node, String> {
    let mut plan = plan(settings, past.is_new);
    if let Some(source) = &past.view_log_in {
        find_them_in(source.name(), settings, &mut plan)?;
    }
    let mut contacts = plan.contacts.clone();
    if past.has_log {
        let others =
            past.members.iter().filter(|member| **member != settings.listen && !plan.contacts.contains(member));
        contacts.extend(others.cloned());
    } else if contacts.is_empty() && past.view_log_in.is_none() {
        return found(settings, past);
    }
    let deadline = Instant::now() + settings.join_limit;
    let mut last_reason = String::new();
    loop {
        let mut config = node_config(settings, past);
        config.contacts = contacts.clone();
        let lease = config.lease;
        config.join_limit = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
        match Node::join(config).wait() {
            Ok(node) => return Ok(node),
            Err(Error::Membership(MembershipError::NoContact { reason })) => {
                if plan.may_found {
                    tracing::info!(%reason, "no contact answers");
                    return found(settings, past);
                }
                if (Instant::now() + PAUSE >= deadline && !past.rejoins) || !is_wanted.load(Ordering::Acquire) {
                    return Err(nobody(settings, &reason));
                }
                if reason != last_reason {
                    tracing::info!(%reason, "no contact answers yet");
                    last_reason = reason;
                }
                std::thread::park_timeout(PAUSE);
            }
            Err(error) if past.rejoins && is_wanted.load(Ordering::Acquire) => {
                tracing::warn!(%error, "not back yet");
                std::thread::park_timeout(PAUSE);
            }
            // The network was away while it asked. Once the others have expelled that life its number is free.
            Err(Error::Access(AccessError::Fenced)) if is_wanted.load(Ordering::Acquire) => {
                tracing::warn!("its lease was over when this node was let in: it joins again");
                std::thread::park_timeout(2 * lease);
            }
            Err(error) => return Err(explain(settings, &plan.contacts, &error)),
        }
    }
}

/// The members are found where the log is. Without contacts nobody else is asked: the daemon at the default port may be
/// of another cluster.
fn find_them_in(place: &str, settings: &Settings, plan: &mut Plan) -> Result<(), String> {
    if settings.found {
        return Err(format!(
            "--found is for clusters whose members keep their log: leave it out, and the first daemon begins a cluster if \
             {place} has none; to begin another one, stop all its daemons and remove from {place} what it has of it"
        ));
    }
    plan.contacts.retain(|contact| settings.contacts.contains(contact));
    plan.may_found = false;
    Ok(())
}

/// What the library is told, besides whom to contact.
fn node_config(settings: &Settings, past: &Past) -> kddm::Config {
    let mut config = settings.node_config(past.node_id);
    config.view_log_in.clone_from(&past.view_log_in);
    if past.view_log_in.is_none() {
        config.view_log.clone_from(&past.view_log);
    }
    config
}

/// Begins a cluster, unless the one that this node was in is still there.
fn found(settings: &Settings, past: &Past) -> Result<Node, String> {
    if !settings.found
        && let Some(member) = past.members.iter().find(|member| is_member(settings, member))
    {
        return Err(format!(
            "the cluster that this node was in is still there, {member} is a member of it: stop its daemons and start \
             this one first, name one of them with --contact, or begin another cluster with --found"
        ));
    }
    tracing::info!("this node begins a cluster of its own");
    Node::join(node_config(settings, past)).wait().map_err(|error| explain(settings, &[], &error))
}

/// Whether a member of this session answers there, as opposed to nobody, or one on its way up.
fn is_member(settings: &Settings, address: &Address) -> bool {
    let nonce = u64::from(std::process::id());
    let (session, purpose) = (settings.session, Purpose::Control);
    let hello = Hello { protocol: PROTOCOL, session, cluster: 0, node: 0, incarnation: 0, nonce, purpose };
    greet(address, &hello, GREETING).is_ok()
}

fn nobody(settings: &Settings, reason: &str) -> String {
    format!(
        "no contact answered within {:?}: {reason}; start a daemon there, correct --contact, or begin a cluster of \
         its own with --found and without contacts",
        settings.join_limit
    )
}

fn explain(settings: &Settings, contacts: &[Address], error: &Error) -> String {
    match (error, contacts.first()) {
        (Error::Configuration(kddm::ConfigurationError::Listen { address, reason }), _) => {
            format!("cannot listen on {address}: {reason}; --listen says where, for example --listen 127.0.0.1:0")
        }
        (Error::Membership(MembershipError::Refused { .. }), Some(asked)) if settings.contacts.is_empty() => format!(
            "{error}; the daemon at {asked} was asked because no contact was given: to begin a cluster of its own, \
             add --found"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    #[test]
    fn where_the_log_says_who_is_there_nobody_else_is_asked() {
        let layer = |found| Layer { listen: Some("127.0.0.1:7601".into()), found: Some(found), ..Layer::default() };
        let settings = |found| Settings::resolve(layer(found), Some("/d".into())).expect("good");
        let mut plan = plan(&settings(false), true);
        assert_eq!((texts(&plan).len(), plan.may_found), (1, true));
        find_them_in("etcd", &settings(false), &mut plan).expect("it can be meant");
        assert_eq!((texts(&plan).len(), plan.may_found), (0, false));
        let error = find_them_in("etcd", &settings(true), &mut plan).expect_err("etcd has it, or has it not");
        assert!(error.contains("remove from etcd"), "{error}");
    }

    fn planned(listen: Option<&str>, contacts: &[&str], found: bool, is_new: bool) -> Plan {
        let layer = Layer {
            listen: listen.map(String::from),
            contacts: (!contacts.is_empty()).then(|| contacts.iter().map(|text| (*text).into()).collect()),
            found: Some(found),
            ..Layer::default()
        };
        plan(&Settings::resolve(layer, Some("/d".into())).expect("good"), is_new)
    }

    fn texts(plan: &Plan) -> Vec<String> {
        plan.contacts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_contacts_the_default_port_is_asked_by_those_on_other_ports() {
        let first = planned(None, &[], false, true);
        assert!(first.contacts.is_empty() && first.may_found);
        let second = planned(Some("127.0.0.1:7601"), &[], false, true);
        assert_eq!(texts(&second), ["127.0.0.1:7600"]);
        assert!(second.may_found);
        assert!(!planned(Some("127.0.0.1:7601"), &[], false, false).may_found, "its cluster may be there still");
        assert!(planned(Some("127.0.0.1:7601"), &[], true, true).contacts.is_empty());
    }

    #[test]
    fn one_list_does_for_all_and_its_first_begins_only_when_new() {
        let list = ["127.0.0.1:1", "127.0.0.1:2"];
        let first = planned(Some("127.0.0.1:1"), &list, false, true);
        assert_eq!(texts(&first), ["127.0.0.1:2"]);
        assert!(first.may_found);
        assert!(!planned(Some("127.0.0.1:1"), &list, false, false).may_found, "its cluster may be there still");
        let second = planned(Some("127.0.0.1:2"), &list, false, true);
        assert_eq!(texts(&second), ["127.0.0.1:1"]);
        assert!(!second.may_found);
        let alone = planned(Some("127.0.0.1:1"), &list[..1], false, false);
        assert!(alone.may_found && alone.contacts.is_empty());
    }
}
