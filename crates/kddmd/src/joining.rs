//! Which cluster a daemon is to be in, from what it was told: the contacts that it was given, the
//! daemon on the default port of this host, or one of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kddm::{Address, Error, MembershipError, Node};

use crate::config::{DEFAULT_PORT, Settings};

/// Pause between two attempts while no contact answers.
const PAUSE: Duration = Duration::from_millis(100);

/// Whom to ask, and what to do if nobody answers.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    contacts: Vec<Address>,
    /// Nobody who listens there may be passed over, but if nobody listens, this node begins a cluster.
    may_found: bool,
    /// Contacts were given: they may be on their way up, and are asked again.
    is_patient: bool,
}

/// A daemon that was given no contacts asks the daemon on the default port of this host, unless that is
/// itself. With contacts, those that are not itself are asked; the node whose own address comes first
/// in the list begins the cluster, if it is new and none of the others is there.
fn plan(settings: &Settings, is_new: bool) -> Plan {
    let own = |address: &Address| *address == settings.listen;
    if settings.found {
        return Plan { contacts: Vec::new(), may_found: true, is_patient: false };
    }
    if settings.contacts.is_empty() {
        let default = Address::Tcp { host: "127.0.0.1".into(), port: DEFAULT_PORT };
        let takes_default_port = matches!(settings.listen, Address::Tcp { port: DEFAULT_PORT, .. });
        let contacts = if takes_default_port { Vec::new() } else { vec![default] };
        return Plan { contacts, may_found: true, is_patient: false };
    }
    let may_found = is_new && settings.contacts.first().is_some_and(own);
    let contacts = settings.contacts.iter().filter(|address| !own(address)).cloned().collect();
    Plan { contacts, may_found, is_patient: true }
}

/// Joins the cluster that the settings mean. Blocks, up to the limit of a join, or as long as it is
/// wanted.
///
/// # Errors
/// One sentence that says what to do.
pub fn join(settings: &Settings, node_id: Option<u16>, is_new: bool, is_wanted: &AtomicBool) -> Result<Node, String> {
    let plan = plan(settings, is_new);
    let deadline = Instant::now() + settings.join_limit;
    loop {
        let mut config = settings.node_config(node_id);
        config.contacts = plan.contacts.clone();
        config.join_limit = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
        let only_founds = plan.contacts.is_empty();
        match Node::join(config) {
            Ok(node) => return Ok(node),
            Err(Error::Membership(MembershipError::NoContact { reason })) if !only_founds => {
                if plan.may_found {
                    return found(settings, node_id, &reason);
                }
                let is_over = !plan.is_patient || Instant::now() + PAUSE >= deadline;
                if is_over || !is_wanted.load(Ordering::Acquire) {
                    return Err(nobody(settings, &reason));
                }
                tracing::info!(%reason, "no contact answers yet");
                std::thread::park_timeout(PAUSE);
            }
            Err(error) => return Err(explain(settings, &plan, &error)),
        }
    }
}

fn found(settings: &Settings, node_id: Option<u16>, reason: &str) -> Result<Node, String> {
    tracing::info!(%reason, "this node begins a cluster of its own");
    let node = Node::join(settings.node_config(node_id));
    node.map_err(|error| explain(settings, &Plan { contacts: Vec::new(), may_found: true, is_patient: false }, &error))
}

fn nobody(settings: &Settings, reason: &str) -> String {
    format!(
        "no contact answered within {:?}: {reason}; start a daemon there, correct --contact, or begin a cluster of \
         its own with --found and without contacts",
        settings.join_limit
    )
}

fn explain(settings: &Settings, plan: &Plan, error: &Error) -> String {
    match error {
        Error::Configuration(kddm::ConfigurationError::Listen { address, reason }) => {
            format!("cannot listen on {address}: {reason}; --listen says where, for example --listen 127.0.0.1:0")
        }
        Error::Membership(MembershipError::Refused { .. })
            if settings.contacts.is_empty() && !plan.contacts.is_empty() =>
        {
            let asked = &plan.contacts[0];
            format!(
                "{error}; the daemon at {asked} was asked because no contact was given: to begin a cluster of its \
                 own, add --found"
            )
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

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
        assert!(second.may_found && !second.is_patient);
        assert!(planned(Some("127.0.0.1:7601"), &[], true, true).contacts.is_empty());
    }

    #[test]
    fn one_list_does_for_all_and_its_first_begins_only_when_new() {
        let list = ["127.0.0.1:1", "127.0.0.1:2"];
        let first = planned(Some("127.0.0.1:1"), &list, false, true);
        assert_eq!(texts(&first), ["127.0.0.1:2"]);
        assert!(first.may_found && first.is_patient);
        assert!(!planned(Some("127.0.0.1:1"), &list, false, false).may_found, "its cluster may be there still");
        let second = planned(Some("127.0.0.1:2"), &list, false, true);
        assert_eq!(texts(&second), ["127.0.0.1:1"]);
        assert!(!second.may_found);
    }
}
