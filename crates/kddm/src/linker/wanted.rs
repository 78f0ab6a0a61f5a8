//! A set is opened, or made, with what stands behind it: what is compared, and who is told what.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use kddm_core::id::SetId;

use super::LinkerError;
use super::builder::{Claim, LINKER_LIMIT};
use super::linked::Linked;
use super::policy::LinkerOf;
use crate::chain::Pause;
use crate::error::{ConfigurationError, Error, MembershipError, SetError};
use crate::node::Node;
use crate::operation::Make;
use crate::pending::Pending;
use crate::promise::promise;
use crate::runtime::Runtime;
use crate::runtime::wait::deadline_in;
use crate::system::{Description, SetBuilder, Wanted, bucket, check_name, late};
use crate::value::Value;

/// Who opens a set.
pub(crate) enum Opener {
    /// A node, which has a linker for it, perhaps.
    Node(Option<Claim>),
    /// A program that is attached to it, whose first touches its node knows nothing of.
    Program,
}

/// A linker needs a node: it writes while the protocol keeps others away.
pub(crate) fn not_attached() -> Error {
    let (what, instead) = ("have a linker", "open the set in a node of its own (`Node::join`) instead");
    MembershipError::Attached { what, instead }.into()
}

impl<T: Value> SetBuilder<T> {
    /// The linker of the set on this node: the one that is here already, or the one that was given.
    pub(crate) fn linked(
        &self,
        description: &Description,
        first_touch: &Make<T>,
    ) -> Result<Option<Arc<Linked<T>>>, Error> {
        let Some(of) = &description.linker else { return Ok(None) };
        let (linkers, set) = (&self.node.runtime().linkers, SetId(description.set));
        let given = self.linker.as_ref().filter(|given| given.name == of.name);
        let linked = match given {
            None => linkers.of(set),
            Some(given) => linkers.of_or(set, &description.name, |me| {
                let limit = self.linker_limit.unwrap_or(LINKER_LIMIT);
                let given = (Arc::clone(&given.linker), limit, self.is_linker_quick);
                Linked::new(me, of.clone(), given, Arc::clone(first_touch))
            }),
        };
        linked.map(Some).ok_or_else(|| missing(description, of))
    }
}

fn missing(description: &Description, of: &LinkerOf) -> Error {
    LinkerError::Missing { set: description.name.clone(), linker: of.name.clone() }.into()
}

impl Wanted {
    /// What cannot be, whatever the set is.
    pub(crate) fn check_linker(&self, opener: &Opener) -> Result<(), Error> {
        let has_none = self.linker.is_none();
        if let Some(name) = &self.linker {
            check_name(name).map_err(|_| {
                let rule = "a linker's name has 1 to 64 bytes and no empty part between slashes";
                ConfigurationError::OutOfRange { setting: "linker", value: name.clone(), rule }
            })?;
        }
        if let Err(rule) = self.write_policy.unwrap_or_default().check() {
            let value = format!("{:?}", self.write_policy.unwrap_or_default());
            return Err(ConfigurationError::OutOfRange { setting: "write_policy", value, rule }.into());
        }
        match opener {
            Opener::Program if !has_none => Err(not_attached()),
            _ if has_none && self.create && self.write_policy.is_some() => {
                let (value, rule) = (self.write_policy.unwrap_or_default().word(), "it needs a `.linker(..)`");
                Err(ConfigurationError::OutOfRange { setting: "write_policy", value: value.into(), rule }.into())
            }
            _ => Ok(()),
        }
    }

    /// What becomes of lost objects must be possible for a set that would be made like this.
    pub(crate) fn check_on_loss(&self) -> Result<(), Error> {
        // Whether a set that is there has a linker shows when it is compared.
        let may_exist = !self.create && self.linker.is_none();
        let policy = (self.linker.is_some() || may_exist).then(|| self.write_policy.unwrap_or_default());
        self.on_loss.unwrap_or_default().check(policy)
    }

    /// Begins the term of a set that is made with a linker. Called by whoever makes it, alone.
    pub(crate) async fn claimed(&self, node: &Node, opener: &Opener) -> Result<Option<LinkerOf>, Error> {
        let (Some(name), Opener::Node(Some(claim))) = (&self.linker, opener) else { return Ok(None) };
        let (claim, linker, runtime) = (Arc::clone(claim), name.clone(), node.runtime());
        let work = move || {
            // It is code of whoever wrote the linker.
            let claimed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim()));
            claimed.unwrap_or(Err(LinkerError::Panicked { linker, object: 0, was_writing: false })).map_err(Error::from)
        };
        let claimed = promise("kddm-claim", work, late(runtime, bucket(&self.name)));
        let pause = Pause::until(&runtime.lanes[0], deadline_in(LINKER_LIMIT));
        let Some(term) = within(claimed, pause).await else {
            let limit_ms = LINKER_LIMIT.as_millis().try_into().unwrap_or(u64::MAX);
            return Err(LinkerError::TimedOut { linker: name.clone(), object: 0, limit_ms }.into());
        };
        Ok(Some(LinkerOf { name: name.clone(), policy: self.write_policy.unwrap_or_default(), term: term? }))
    }

    /// Only what was given explicitly is compared; but whoever opens a set that has a linker needs that.
    pub(crate) fn compare_linker(
        &self,
        description: &Description,
        runtime: &Runtime,
        opener: &Opener,
    ) -> Result<(), Error> {
        let differs = |setting, has: String, wanted: String| {
            Err(SetError::SettingsDiffer { name: self.name.clone(), setting, has, wanted }.into())
        };
        let Some(has) = &description.linker else {
            return self.linker.as_ref().map_or(Ok(()), |wanted| differs("linker", "none".into(), wanted.clone()));
        };
        let is_here = matches!(opener, Opener::Node(_)) && runtime.linkers.has(SetId(description.set));
        let is_given = self.linker.as_ref() == Some(&has.name);
        match self.write_policy {
            _ if !is_given && (!is_here || self.linker.is_some()) => Err(missing(description, has)),
            Some(wanted) if wanted != has.policy => {
                differs("write_policy", format!("{:?}", has.policy), format!("{wanted:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// The answer, unless the pause is over before.
pub(super) async fn within<O: Unpin>(mut pending: Pending<O>, mut pause: Pause) -> Option<Result<O, Error>> {
    poll_fn(|context| match Pin::new(&mut pending).poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => Pin::new(&mut pause).poll(context).map(|()| None),
    })
    .await
}
