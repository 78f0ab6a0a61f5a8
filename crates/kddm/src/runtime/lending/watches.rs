//! Watches of programs: a connection for each, on which the node says what changes and where the watch has come to. When
//! the node is gone, the program goes on from there with the next life of it, or is told that it cannot.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kddm_core::id::SetId;
use serde::{Deserialize, Serialize};

use super::attach::{Lender, Pass, open};
use super::door::{NOT_ATTACHED, Purpose, Reply, Told, refuse};
use super::failure::Failure;
use crate::error::{AccessError, Error, MembershipError, SetError};
use crate::rpc::RpcError;
use crate::runtime::Runtime;
use crate::runtime::control::CONTROL_LIMIT;
use crate::transport::{Stream, greeting};
use crate::watch::Seen;
use crate::watch_all::{BadPosition, Change, Heard, Inbox, Mark, Position, Wanted, WatchAll, begin};

/// Watches of programs that a node serves: a quarter of the watchers that each owner does.
const WATCHES: usize = 64;

/// Changes that are said together.
const BATCH: usize = 256;

/// How often something is said, also when nothing changes: so long it takes until either side knows that the other is gone.
const BEAT: Duration = Duration::from_millis(500);

/// A node that says nothing for so long is gone, or hangs.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the node may take to begin: it asks all members.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The pause before the node is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What a program wants to watch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    session: u32,
    secret: u64,
    set: u64,
    object: Option<u64>,
    from: Option<String>,
}

/// A change, as it travels.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Item {
    Put { object: u64, tenure: u64, version: u64 },
    Removed { object: u64, tenure: u64 },
    Skipped { count: Option<u64> },
}

/// With what it comes, how far a member was heard: its number, its life, and the number of what it told.
type Far = (u16, u32, u64);

/// What a node says.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// Where the watch has come to behind these; with nothing in it, that the node is there.
    Changes { items: Vec<(Item, Vec<Far>)>, position: Option<String> },
    /// Nothing follows.
    Ended(Failure),
}

impl From<Change> for Item {
    fn from(change: Change) -> Item {
        match change {
            Change::Put { object, seen } => Item::Put { object, tenure: seen.tenure, version: seen.version },
            Change::Removed { object, tenure } => Item::Removed { object, tenure },
            Change::Skipped { count } => Item::Skipped { count },
        }
    }
}

impl From<Item> for Change {
    fn from(item: Item) -> Change {
        match item {
            Item::Put { object, tenure, version } => Change::Put { object, seen: Seen { tenure, version } },
            Item::Removed { object, tenure } => Change::Removed { object, tenure },
            Item::Skipped { count } => Change::Skipped { count },
        }
    }
}

/// How many watches of programs a node serves.
#[derive(Default)]
pub(crate) struct Watches(AtomicUsize);

impl Watches {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

struct Place<'a>(&'a Runtime);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.program_watches.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The node's side: until the program is gone, or the set, or this node.
pub(super) fn serve(runtime: &Arc<Runtime>, stream: &Stream, ask: Ask) -> io::Result<()> {
    let malformed = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let Ask { session, secret, set, object, from } = ask;
    if runtime.name_of(session, secret).is_none() {
        return refuse(runtime, stream, NOT_ATTACHED.into());
    }
    let from = from.map(|text| text.parse::<Position>()).transpose();
    let from = from.map_err(|BadPosition| malformed("no position of a watch"))?;
    let set = SetId(set);
    if set.policy().is_none() {
        return Err(malformed("no number of a set"));
    }
    let outstanding = runtime.program_watches.0.fetch_add(1, Ordering::AcqRel);
    let _place = Place(runtime);
    let begun = if outstanding < WATCHES {
        begin(runtime, Wanted { set, object, from }, runtime.config.wait_limit).wait()
    } else {
        Err(AccessError::Overloaded { outstanding, limit: WATCHES }.into())
    };
    stream.set_limit(Some(CONTROL_LIMIT))?;
    match begun {
        Ok(mut changes) => {
            greeting::send(stream, &Reply::Lane)?;
            say_all(stream, &mut changes)
        }
        Err(error) => greeting::send(stream, &Reply::Told(Told::Failed(Failure::of(&error)))),
    }
}

fn say_all(stream: &Stream, changes: &mut WatchAll) -> io::Result<()> {
    let mut said = changes.position();
    let mut position = Some(said.to_string());
    let mut items = Vec::new();
    loop {
        greeting::send(stream, &Said::Changes { items, position })?;
        items = Vec::new();
        match changes.receive_marked().wait_for(BEAT) {
            Ok(change) => {
                items.push(item(change));
                while items.len() < BATCH
                    && let Some(Ok(change)) = changes.taken()
                {
                    items.push(item(change));
                }
            }
            Err(Error::Rpc(RpcError::Idle { .. })) => {}
            Err(error) => return greeting::send(stream, &Said::Ended(Failure::of(&error))),
        }
        let now = changes.position();
        position = (now != said).then(|| now.to_string());
        said = now;
    }
}

/// The members of the position are said behind the last item.
fn item((change, marks): (Change, Vec<Mark>)) -> (Item, Vec<Far>) {
    let far = marks.into_iter().filter_map(|mark| match mark {
        Mark::Source(node, Heard { incarnation, upto }) => Some((node, incarnation, upto)),
        Mark::Members(_) | Mark::All(_) => None,
    });
    (change.into(), far.collect())
}

/// Why nothing is heard any more.
enum End {
    /// It may be heard later.
    Lost,
    ForGood(Error),
}

/// The program's side: a thread.
pub(crate) fn follow(runtime: &Weak<Runtime>, wanted: &Wanted, inbox: &Inbox) {
    let mut from = wanted.from.clone();
    loop {
        let Some(runtime) = runtime.upgrade() else { return inbox.fail(MembershipError::Stopped.into()) };
        if inbox.is_closed() {
            return;
        }
        let is_wanted = || !inbox.is_closed() && !runtime.is_stopping();
        let end = match connect(&runtime, wanted, from.as_ref(), inbox.begun().is_some(), is_wanted) {
            Ok(stream) => hear(&stream, inbox, &mut from, is_wanted),
            Err(end) => end,
        };
        match end {
            End::Lost => inbox.rest(ASK_AGAIN),
            End::ForGood(error) => return inbox.fail(error),
        }
    }
}

/// Asks the node.
fn connect(
    runtime: &Runtime,
    wanted: &Wanted,
    from: Option<&Position>,
    has_begun: bool,
    is_wanted: impl Fn() -> bool,
) -> Result<Stream, End> {
    let Some(lender) = runtime.lender.as_ref().filter(|_| !runtime.is_stopping()) else {
        return Err(End::ForGood(MembershipError::Stopped.into()));
    };
    let state = runtime.lanes[0].lock();
    if state.destroyed.contains(wanted.set) {
        return Err(End::ForGood(SetError::Destroyed.into()));
    }
    if state.link.as_ref().is_none_or(|link| link.is_given_up) {
        return Err(End::ForGood(MembershipError::Detached.into()));
    }
    drop(state);
    let from = from.map(Position::to_string);
    let (set, object) = (wanted.set.0, wanted.object);
    match lender.connect_watch(is_wanted, |session, secret| Ask { session, secret, set, object, from }) {
        Ok(stream) => Ok(stream),
        // What the node has said of the set stays so; all else may be otherwise in its next life.
        Err(error) if !has_begun || matches!(error, Error::Set(_)) => match error {
            Error::Membership(MembershipError::Reattaching) => Err(End::Lost),
            error => Err(End::ForGood(error)),
        },
        Err(error) => {
            tracing::debug!(%error, "a watch does not go on yet");
            Err(End::Lost)
        }
    }
}

/// Takes what the node says.
fn hear(stream: &Stream, inbox: &Inbox, from: &mut Option<Position>, is_wanted: impl Fn() -> bool) -> End {
    let mut silent = Duration::ZERO;
    loop {
        if !is_wanted() || silent >= SILENCE {
            return End::Lost;
        }
        if !stream.wait_readable(BEAT) {
            silent += BEAT;
            continue;
        }
        silent = Duration::ZERO;
        let (items, position) = match greeting::receive(stream) {
            Ok(Said::Changes { items, position }) => (items, position),
            Ok(Said::Ended(failure)) => match failure.error() {
                error @ Error::Set(_) => return End::ForGood(error),
                _ => return End::Lost,
            },
            Err(_) => return End::Lost,
        };
        let is_news = !items.is_empty();
        for (item, far) in items {
            inbox.push(item.into(), None);
            // One that is no member of the position is not told apart from what comes behind.
            let known = far.into_iter().filter(|(node, ..)| from.as_ref().is_some_and(|from| from.names(*node)));
            known.for_each(|(node, incarnation, upto)| inbox.mark(Mark::Source(node, Heard { incarnation, upto })));
        }
        match position.map(|text| text.parse::<Position>()) {
            Some(Ok(position)) => {
                *from = Some(position.clone());
                inbox.mark(Mark::All(position));
            }
            None => {}
            Some(Err(BadPosition)) => return End::Lost,
        }
        if inbox.begun().is_none() {
            inbox.begins();
        } else if is_news {
            inbox.seat.tell();
        }
    }
}

impl Lender {
    /// A connection on which the node says what changes.
    fn connect_watch(&self, is_wanted: impl Fn() -> bool, ask: impl FnOnce(u32, u64) -> Ask) -> Result<Stream, Error> {
        let Pass { session, secret, .. } = *self.pass.lock();
        let Ok(stream) = open(&self.socket, &Purpose::Watch(ask(session, secret)), CONTROL_LIMIT) else {
            return Err(MembershipError::Reattaching.into());
        };
        // It may take long: whoever waits may be gone before, or this program.
        let mut silent = Duration::ZERO;
        while is_wanted() && silent < ANSWER_LIMIT && !stream.wait_readable(BEAT) {
            silent += BEAT;
        }
        if !is_wanted() || silent >= ANSWER_LIMIT {
            return Err(MembershipError::Reattaching.into());
        }
        let answered = stream.set_limit(Some(CONTROL_LIMIT)).and_then(|()| greeting::receive(&stream));
        match answered {
            Ok(Reply::Lane) => Ok(stream),
            Ok(Reply::Told(Told::Failed(failure))) => Err(failure.error()),
            // Whoever is there now does not know this program yet.
            _ => Err(MembershipError::Reattaching.into()),
        }
    }
}
