//! Where the objects of a set are, for people.

use std::collections::BTreeMap;

use kddm_core::id::SetId;

use super::wire::{Look, Question, Told};
use super::{Cursor, Found, ObjectState, ask};
use crate::error::{Error, SetError};
use crate::node::Node;
use crate::runtime::told::SetHere;

/// Where an object is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// The object.
    pub id: u64,
    /// Its home.
    pub home: u16,
    /// What its home knows of it.
    pub state: ObjectState,
    /// Its owner, as far as its home has heard.
    pub owner: Option<u16>,
    /// Whether the owner has said so; else it was another one by then, or did not answer, and nothing more is known.
    pub is_confirmed: bool,
    /// The ownership: the epoch, and which one of the object it is.
    pub tenure: (u32, u64),
    /// Puts that the value has seen.
    pub version: u64,
    /// Nodes that have a copy to read.
    pub sharers: Vec<u16>,
    /// Nodes that keep a replica.
    pub replicas: Vec<u16>,
    /// Requests that wait at the owner.
    pub waiting: u32,
}

/// A part of the objects of a set: [`Node::objects_of`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ObjectPage {
    /// The objects.
    pub objects: Vec<ObjectInfo>,
    /// Where the next ones begin; `None`: that was all.
    pub next: Option<Cursor>,
    /// Shards of this page of which nobody can say any more what they have.
    pub in_doubt: u16,
}

impl Node {
    /// Objects of a set, and where each is: the homes say which there are, the owners how these stand. Moments later they may be
    /// elsewhere. At most `most` of them, and at most 4,096; perhaps fewer though there are more. Blocks. A program asks
    /// its daemon: `kddmadm set show`.
    ///
    /// ```
    /// let nodes = kddm::Node::local_cluster(2)?;
    /// let set: kddm::Set<u64> = nodes[0].set("shown").open().wait()?;
    /// set.grab(7).wait()?.put().wait()?;
    /// let mut cursor = Some(kddm::Cursor::default());
    /// while let Some(from) = cursor {
    ///     let page = nodes[1].objects_of("shown", from, 100)?;
    ///     assert!(page.objects.iter().all(|object| (object.id, object.owner) == (7, Some(1))));
    ///     cursor = page.next;
    /// }
    /// # Ok::<(), kddm::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unknown` if there is no such set; as [`Set::scan`](crate::Set::scan); `Attached` in a program.
    pub fn objects_of(&self, set: &str, from: Cursor, most: usize) -> Result<ObjectPage, Error> {
        self.is_no_program("look at objects", "`kddmadm set show` does")?;
        let info = self.set_info(set)?;
        if info.is_ending {
            return Err(SetError::Destroyed.into());
        }
        let here = SetHere { runtime: std::sync::Arc::clone(self.runtime()), set: SetId(info.id) };
        let page = ask::page(&here, from, most, self.runtime().config.wait_limit)?;
        let mut objects: Vec<ObjectInfo> = page.found.iter().map(unconfirmed).collect();
        self.confirm(&here, &mut objects);
        Ok(ObjectPage { objects, next: page.next, in_doubt: page.in_doubt })
    }

    /// How many objects a set has in the cluster. Blocks.
    ///
    /// # Errors
    /// As [`objects_of`](Node::objects_of), and `InDoubt`.
    pub fn object_count(&self, set: &str) -> Result<u64, Error> {
        self.is_no_program("count objects", "`kddmadm set show` does")?;
        let info = self.set_info(set)?;
        let here = SetHere { runtime: std::sync::Arc::clone(self.runtime()), set: SetId(info.id) };
        let counted = ask::census(&here, self.runtime().config.wait_limit)?;
        if counted.in_doubt > 0 { Err(ask::in_doubt(set, counted.in_doubt)) } else { Ok(counted.objects) }
    }

    /// Asks the owners. Who does not answer has said nothing.
    pub(super) fn confirm(&self, here: &SetHere, objects: &mut [ObjectInfo]) {
        let mut by_owner: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (at, owner) in objects.iter().enumerate().filter_map(|(at, object)| Some((at, object.owner?))) {
            by_owner.entry(owner).or_default().push(at);
        }
        let (me, limit) = (self.id(), here.runtime.config.wait_limit);
        let question = |places: &[usize]| Question::Look {
            set: here.set.0,
            objects: places.iter().map(|at| objects[*at].id).collect(),
        };
        let asked: Vec<_> = by_owner
            .iter()
            .map(|(owner, places)| {
                let question = question(places);
                let asked = (*owner != me).then(|| ask::call(&here.runtime, *owner, &question, limit));
                (*owner, places, question, asked)
            })
            .collect();
        for (owner, places, question, asked) in asked {
            let told = match asked {
                None => Ok(here.runtime.scanned(&question)),
                Some(asked) => asked.wait().and_then(|body| ask::decoded(owner, body)),
            };
            match told {
                Ok(Told::Look(looks)) => {
                    for (at, look) in places.iter().zip(looks) {
                        note(&mut objects[*at], look);
                    }
                }
                Ok(other) => tracing::debug!(owner, error = %ask::unfit(owner, &other), "an owner says nothing"),
                Err(error) => tracing::debug!(owner, %error, "an owner says nothing"),
            }
        }
    }
}

pub(super) fn unconfirmed(found: &Found) -> ObjectInfo {
    ObjectInfo {
        id: found.id,
        home: found.home,
        state: found.state,
        owner: found.owner,
        is_confirmed: false,
        tenure: (0, 0),
        version: 0,
        sharers: Vec::new(),
        replicas: Vec::new(),
        waiting: 0,
    }
}

fn note(object: &mut ObjectInfo, look: Look) {
    if !look.owns {
        return;
    }
    let tenure = kddm_core::id::Tenure(look.tenure);
    (object.is_confirmed, object.tenure) = (true, (tenure.epoch().0, tenure.n()));
    (object.version, object.waiting) = (look.version, look.waiting);
    (object.sharers, object.replicas) = (look.sharers, look.replicas);
}
