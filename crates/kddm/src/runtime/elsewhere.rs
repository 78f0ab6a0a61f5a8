//! A log of views that something else than the members keeps, as etcd does: where a node finds it, what it does when
//! there is news, and who leads.
//!
//! Nobody decides by itself then: also a node that leads has heard of what is decided only when it has read that, and has
//! a lease, from when the log has said last that it leads. A node that joins asks the members that are in the log
//! to let it in; where nobody is there it leads, as one that comes back with a log of its own does (`reviving.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use kddm_core::id::NodeId;
use kddm_view::{Change, ClusterId, Identity as ClusterIdentity, LogError, LogSource, MemberEntry, SessionId, State};

use crate::error::{ConfigurationError, Error, MembershipError};
use crate::options::Config;
use crate::runtime::Runtime;
use crate::runtime::join::random;
use crate::runtime::membership::{Guard, Membership};
use crate::runtime::reviving::Kept;
use crate::runtime::wait::deadline_in;

/// What is kept there of the cluster in which this node is to be: nobody is a member of one that begins.
///
/// # Errors
/// `NoContact` if what keeps the log does not answer; it cannot be read; the node has no number.
pub(crate) fn kept(
    config: &Config,
    source: &dyn LogSource,
    (session, lease_ms): (SessionId, u32),
    nonce: u64,
) -> Result<Kept, Error> {
    let out = |setting, value: String, rule| Err(ConfigurationError::OutOfRange { setting, value, rule }.into());
    if let Some(file) = &config.view_log {
        return out("view_log", file.display().to_string(), "it must not be set where something else keeps the log");
    }
    let Some(id) = config.node_id.map(NodeId) else {
        return out("node_id", "none".into(), "it must be given where something else than members keeps the view log");
    };
    let unusable = |error: &dyn std::fmt::Display| ConfigurationError::System {
        what: "the view log",
        reason: format!("{}: {error}", source.name()),
    };
    let identity = ClusterIdentity { cluster: ClusterId(random()), session };
    let beginning = State::new(identity, id).with_lease_ms(lease_ms);
    let log = source.open(id, nonce, &beginning).map_err(|error| match error {
        LogError::Unreachable { reason } => Error::from(MembershipError::NoContact { reason }),
        error => unusable(&error).into(),
    })?;
    let mut state = log.base().clone();
    for entry in log.decided_since(state.applied()).map_err(|error| unusable(&error))? {
        state.apply(&entry).map_err(|error| unusable(&error))?;
    }
    let before: BTreeMap<NodeId, MemberEntry> = state.members().map(|(node, entry)| (node, entry.clone())).collect();
    let old = before.get(&id).cloned();
    Ok(Kept { id, log, state, old, before })
}

/// Neither is there a member that lets this node in, nor can it lead: `groups` have a say, if any have.
pub(crate) fn not_let_in(groups: &[Vec<NodeId>], reason: &str) -> Error {
    let voters: Vec<u16> = groups.iter().flatten().map(|voter| voter.0).collect();
    let reason = if voters.is_empty() {
        let why = if reason.is_empty() { "none is known" } else { reason };
        format!("no member lets it in ({why}), and too little of what keeps the view log answers for this node to lead")
    } else {
        format!(
            "this node comes back to a cluster of which a majority of nodes {voters:?} decides, and too few of them are \
             there: start the others, too, or begin another cluster without the view log; {reason}"
        )
    };
    MembershipError::Refused { reason }.into()
}

impl Membership {
    /// Whether something else than the members keeps the log.
    pub fn is_kept_elsewhere(&self) -> bool {
        !self.log.has_voters()
    }

    /// Whether this node decides, and asks nobody.
    pub fn decides_alone(&self) -> bool {
        self.state.voters() == [self.node()] && !self.is_kept_elsewhere()
    }
}

impl Runtime {
    /// The thread that takes in what the log has heard.
    pub fn keep_news(self: &Arc<Self>) {
        crate::runtime::wait::mark_part_of_node();
        let news = Arc::clone(&self.signals.news);
        // Not this thread's lock: whoever has that may be waiting for the log.
        self.membership.lock().log.on_news(Arc::new(move || news.raise()));
        while !self.is_stopping() {
            let mut membership = self.membership.lock();
            membership.log.tick(self.now());
            self.advance(&mut membership);
            drop(membership);
            self.signals.news.wait();
        }
    }

    /// One that leads and is about to go hands over to a member that stays, if there is one.
    pub fn choose_who_leads(&self, membership: &mut Guard<'_>) -> bool {
        let me = self.identity.id;
        let stays = |entry: &MemberEntry| (entry.state.can_share() || entry.site.witness) && !entry.draining;
        if membership.state.member(me).is_none_or(stays) {
            return false;
        }
        let heir = membership.state.members().find(|(_, entry)| stays(entry)).map(|(node, _)| node);
        if let Some(heir) = heir
            && let Err(error) = membership.log.reconfigure(&[heir])
        {
            tracing::error!(%error, node = heir.0, "another node could not be named to lead");
        }
        false
    }

    /// Waits until this node has seen all that was decided before: what it proposes comes after that.
    pub fn catch_up(&self, membership: &mut Guard<'_>) -> Result<(), Error> {
        if !crate::runtime::wait::may_block() {
            return Err(crate::error::AccessError::WouldBlock.into());
        }
        let deadline = deadline_in(self.config.wait_limit);
        let me = self.identity;
        let refused =
            || MembershipError::Refused { reason: "the view log does not answer; see to what keeps it".into() };
        let entry = membership.state.member(me.id).cloned().ok_or(MembershipError::Stopped)?;
        // It is a member: this changes nothing.
        let again = Change::Join { node: Some(me.id), address: entry.address, nonce: me.nonce, site: entry.site };
        self.propose_in(membership, again)?;
        while membership.log.has_proposals() {
            if self.is_stopping() {
                return Err(MembershipError::Stopped.into());
            }
            if !self.wait_for_change(membership, deadline) {
                return Err(refused().into());
            }
        }
        self.advance(membership);
        Ok(())
    }
}
