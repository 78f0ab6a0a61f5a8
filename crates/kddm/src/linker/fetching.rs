//! Making an object local in advance, also where only what stands behind the set has it.

use std::sync::Arc;

use kddm_core::id::ObjectId;
use kddm_core::message::RequestKind;

use super::linked::Linked;
use super::task::drive;
use crate::error::{AccessError, Error};
use crate::guard::WriteGuard;
use crate::operation::{Asked, Grab, Plain, Request, Then};
use crate::pending::Pending;
use crate::runtime::local::Wish;
use crate::runtime::told::SetHere;
use crate::runtime::wait::{Op, Outcome};
use crate::set::{Set, Shared};
use crate::value::Value;

impl<T: Value> Shared<T> {
    /// As [`Self::plain`], of a fetch or acquire: it reads what is in the cluster nowhere, and makes nothing where nothing is.
    pub(crate) fn fetch(self: &Arc<Self>, object: u64, wish: Wish) -> Pending<()> {
        // What goes on by itself does not keep the node.
        let handle = |linked: &Arc<Linked<T>>| linked.handle(&self.here, self.name.clone(), self.wait_limit);
        let Some(set) = self.linked.as_ref().and_then(handle) else { return self.plain(object, wish) };
        let op = Arc::new(Op::new(Arc::clone(self.here.lane(object))));
        let answer = Arc::clone(&op);
        drive(async move {
            let fetched = set.read_ahead(object, wish).await;
            set.0.here.answer(object, &answer, fetched.map_or_else(Outcome::Failed, |()| Outcome::Available));
        });
        Pending::asked(Plain(Request::under_way(self.here.clone(), object, wish, op, self.wait_limit)))
    }
}

impl<T: Value> Set<T> {
    async fn read_ahead(&self, object: u64, wish: Wish) -> Result<(), Error> {
        self.0.plain(object, wish).await?;
        if self.0.here.has_value(object) {
            return Ok(());
        }
        let read = match wish {
            Wish::Acquire => self.grab_and_let_go(object, RequestKind::Grab { existing: true }).await,
            _ => self.get_existing(object).await.map(drop),
        };
        match read {
            Err(Error::Access(AccessError::NotFound)) => Ok(()),
            read => read,
        }
    }
}

impl<T: Value> Set<T> {
    /// Has the object brought here, read or made as for a grab, and holds it no longer.
    pub(super) fn grab_and_let_go(&self, object: u64, kind: RequestKind) -> Pending<()> {
        let operation = Grab(Asked::new(&self.0, object, Wish::Request(kind), None, None));
        let let_go = |guard: WriteGuard<T>| {
            drop(guard);
            Ok(())
        };
        Pending::asked(Then { operation, then: Some(let_go) })
    }
}

impl SetHere {
    /// Whether there is a value here that may be read.
    fn has_value(&self, object: u64) -> bool {
        self.lane(object).lock().version_here(self.set, ObjectId(object)).is_some()
    }

    /// Says that to whoever waits there.
    pub(super) fn answer(&self, object: u64, op: &Op, outcome: Outcome) {
        let lane = self.lane(object);
        let mut state = lane.lock();
        state.complete(op, outcome);
        lane.finish(state);
    }
}
