//! What becomes of a set's objects that are lost.

use kddm_core::id::SetId;
use serde::{Deserialize, Serialize};

use crate::error::{ConfigurationError, Error};
use crate::linker::WritePolicy;
use crate::system::SetBuilder;
use crate::value::Value;

/// What whoever asks for an object meets that is lost, because more members were lost than its replicas make up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OnLoss {
    /// [`Lost`](crate::AccessError::Lost), until a node comes back that has it, or somebody accepts it.
    #[default]
    Error,
    /// As if it had never existed: whoever asks for it first accepts the loss for all, and the next grab makes it anew.
    /// For what can be computed again, a cache for example. [`Incident::Accepted`](crate::Incident::Accepted) tells of
    /// it.
    FirstTouch,
    /// The newest version that is left anywhere, though it may not be the newest there was: what the former owner still has
    /// of an object whose new owner was lost with it, or what a node that comes back owned, while nobody can prove that
    /// nobody has written it since. Whoever comes back later with a newer one is too late. If nothing is left it is
    /// [`Lost`](crate::AccessError::Lost), until something is. Nobody keeps versions for this alone: with replicas there is seldom one.
    /// [`Incident::RolledBack`](crate::Incident::RolledBack) tells of it.
    Rollback,
    /// What stands behind the set has its newest value, because each put was kept there before anybody saw it: it is read
    /// from there, as [`FirstTouch`](OnLoss::FirstTouch) would. Only for a set with a linker, and with
    /// [`WritePolicy::Through`](crate::linker::WritePolicy::Through).
    Linker,
}

impl OnLoss {
    /// The word for it, in text and JSON.
    ///
    /// ```
    /// assert_eq!(kddm::OnLoss::FirstTouch.word(), "first_touch");
    /// ```
    pub fn word(self) -> &'static str {
        match self {
            OnLoss::Error => "error",
            OnLoss::FirstTouch => "first_touch",
            OnLoss::Rollback => "rollback",
            OnLoss::Linker => "linker",
        }
    }

    /// That of a set, of which its number says what every member acts upon without looking anything up: with a linker to
    /// which each put goes first, a first touch is a read of the newest value.
    pub(crate) fn of(set: SetId, write_policy: Option<WritePolicy>) -> OnLoss {
        match (set.forgives_loss(), set.rolls_back()) {
            (true, _) => OnLoss::FirstTouch.with(write_policy),
            (false, true) => OnLoss::Rollback,
            (false, false) => OnLoss::Error,
        }
    }

    /// What it comes to in a set with that policy.
    pub(crate) fn with(self, write_policy: Option<WritePolicy>) -> OnLoss {
        match (self, write_policy) {
            (OnLoss::FirstTouch, Some(WritePolicy::Through)) => OnLoss::Linker,
            (other, _) => other,
        }
    }

    /// The number of a set for which this was asked.
    pub(crate) fn apply(self, set: SetId) -> SetId {
        match self {
            OnLoss::FirstTouch | OnLoss::Linker => set.forgiving_loss(),
            OnLoss::Rollback => set.rolling_back(),
            OnLoss::Error => set,
        }
    }

    /// An error for what cannot be had, in a set that would be made with that policy.
    pub(crate) fn check(self, write_policy: Option<WritePolicy>) -> Result<(), Error> {
        let rule = match self {
            OnLoss::Error | OnLoss::FirstTouch | OnLoss::Rollback => return Ok(()),
            OnLoss::Linker if write_policy == Some(WritePolicy::Through) => return Ok(()),
            OnLoss::Linker => {
                "it needs a linker to which each put goes first; give one, or take error, first_touch or rollback"
            }
        };
        Err(ConfigurationError::OutOfRange { setting: "on_loss", value: self.word().into(), rule }.into())
    }
}

impl<T: Value> SetBuilder<T> {
    /// What becomes of objects that are lost. [`OnLoss::Error`] by default. Compared with an existing set only if given.
    ///
    /// ```
    /// use kddm::OnLoss;
    /// let nodes = kddm::Node::local_cluster(1)?;
    /// let cache: kddm::Set<String> = nodes[0].set("cache").replicas(0).on_loss(OnLoss::FirstTouch).open().wait()?;
    /// assert_eq!(nodes[0].set_info("cache")?.on_loss, OnLoss::FirstTouch);
    /// let differs = nodes[0].set::<String>("cache").on_loss(OnLoss::Error).open().wait();
    /// assert!(differs.unwrap_err().to_string().contains("on_loss"));
    /// let refused = nodes[0].set::<String>("other").on_loss(OnLoss::Linker).open().wait();
    /// assert!(refused.unwrap_err().to_string().contains("linker"));
    /// # Ok::<(), kddm::Error>(())
    /// ```
    pub fn on_loss(mut self, on_loss: OnLoss) -> SetBuilder<T> {
        self.on_loss = Some(on_loss);
        self
    }
}
