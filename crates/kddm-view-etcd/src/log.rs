//! The log of one node.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use kddm_core::id::{NodeId, Time};
use kddm_view::{Change, Decided, LogError, News, NodeLog, Outgoing, State, ViewLog};

use crate::book::Book;
use crate::client::EtcdError;
use crate::keys::{is_absent, put};
use crate::shared::{Settings, Shared};

/// What one thread does.
type Part = fn(&Shared);

/// The view log of one node, which etcd keeps. See the [crate].
///
/// No call waits for etcd but those that make a log and [`Self::close`]: three threads speak to it, and
/// [`Self::on_news`] tells when there is something to take.
pub struct EtcdLog {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// What [`ViewLog::state`] lends out.
    base: State,
    /// Its failure has been told.
    is_retired: bool,
}

impl EtcdLog {
    /// The log of the first node of a new cluster. If etcd has a log of that cluster already, it is gone on with.
    /// `origin` is any number that no other life of a node has.
    ///
    /// # Errors
    /// If etcd does not answer, holds something else there, or the lease of the cluster is
    /// [too short](Settings::least_lease_ms).
    pub fn found(settings: &Settings, me: NodeId, origin: u64, state: State) -> Result<EtcdLog, EtcdError> {
        check_lease(settings, &state)?;
        let shared = Shared::new(settings, Book::new(me, origin, state.clone()))?;
        let base = shared.keys.base();
        shared.transaction(&[is_absent(&base)], &[put(&base, &state.encode(), 0)], &[])?;
        let mut log = EtcdLog::open(settings, me, origin)?;
        log.stand();
        Ok(log)
    }

    /// The log of a node that knows nothing of it but where it is: it begins with the state that is kept there, and leads
    /// only after [`Self::stand`].
    ///
    /// # Errors
    /// As for [`Self::found`], and if there is no log.
    pub fn open(settings: &Settings, me: NodeId, origin: u64) -> Result<EtcdLog, EtcdError> {
        let asks = Shared::new(settings, Book::new(me, origin, State::new(settings.identity, me)))?;
        let state = asks.kept_base()?.ok_or(EtcdError::NoLog { prefix: asks.keys.prefix.clone() })?;
        EtcdLog::follow(settings, me, origin, state)
    }

    /// The log of a node that was let in with that state. It leads only after [`Self::stand`].
    ///
    /// # Errors
    /// As for [`Self::found`], but etcd need not answer yet.
    pub fn follow(settings: &Settings, me: NodeId, origin: u64, state: State) -> Result<EtcdLog, EtcdError> {
        check_lease(settings, &state)?;
        let shared = Arc::new(Shared::new(settings, Book::new(me, origin, state.clone()))?);
        let mut log = EtcdLog { shared, threads: Vec::new(), base: state, is_retired: false };
        let parts: [(&str, Part); 3] =
            [("kddm-etcd-read", Shared::follow), ("kddm-etcd-write", Shared::write), ("kddm-etcd-lead", Shared::lead)];
        for (name, part) in parts {
            let shared = Arc::clone(&log.shared);
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || part(&shared));
            log.threads.push(thread.map_err(|error| EtcdError::Thread { reason: error.to_string() })?);
        }
        Ok(log)
    }

    /// Reads all that there is now.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub(crate) fn read(&mut self) -> Result<(), EtcdError> {
        self.shared.read_all()?;
        self.tick(Time(0));
        Ok(())
    }

    /// Has that called, on a thread of the log, whenever there may be something new here. It must not end the log.
    pub fn on_news(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.shared.on_news(Arc::new(tell));
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.shared.book().led().is_some()
    }

    /// The number of the last leadership that is known here.
    pub fn term(&self) -> u64 {
        self.shared.book().term()
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.shared.book().leader.map(|leader| leader.node).filter(|node| node.is_somebody())
    }

    /// From when the lease of this node counts, if it leads: the last moment before it asked etcd, with the answer that
    /// it leads. Nobody else was elected before that moment; whoever is later waits for one lease of the cluster.
    pub fn confirmed(&self) -> Option<Instant> {
        self.shared.book().confirmed()
    }

    /// Writes what holds only as long as this node leads, in the leadership in which it was judged or not at all. Whether
    /// it is going to be tried: it is not if this node leads in that term no more, or is not sure yet of what was
    /// decided before. Name the [term](Self::term) of the state that was judged by: another one may have begun since.
    ///
    /// # Errors
    /// If the change cannot be meant, or the log cannot be read any more.
    pub fn write_as_leader(&mut self, term: u64, change: Change) -> Result<bool, LogError> {
        change.check()?;
        let mut book = self.shared.book();
        working(&book)?;
        if book.led_for_sure().is_none_or(|led| led.term != term) {
            return Ok(false);
        }
        let is_noted = book.wish(change, Some(term)).is_ok();
        drop(book);
        self.shared.wake();
        Ok(is_noted)
    }

    /// That node is proven dead. If it led, this node wants to lead now, and not only when etcd has noticed.
    pub fn is_dead(&mut self, node: NodeId) {
        let mut book = self.shared.book();
        if let Some(leader) = book.leader.filter(|leader| leader.node == node) {
            book.dead_term = leader.term;
        }
        drop(book);
        self.shared.wake();
    }

    /// From now on this node does not want to lead. If it does, another one takes over.
    pub fn stand_back(&mut self) {
        self.shared.book().stands = false;
        self.resign(None);
    }

    /// This node may lead, from now on or again.
    pub fn stand(&mut self) {
        self.shared.book().stands = true;
        self.shared.wake();
    }

    fn resign(&mut self, heir: Option<NodeId>) {
        let mut book = self.shared.book();
        if let Some(led) = book.led() {
            book.drop_wishes_of_others(None);
            book.resigned = Some((led.term, heir));
        }
        drop(book);
        self.shared.wake();
    }

    /// Ends it: a node that leads says so to etcd first, so that another one is elected at once.
    pub fn close(mut self) {
        self.shared.end();
        for thread in self.threads.drain(..) {
            // One that has panicked has ended, too.
            let _ended = thread.join();
        }
    }
}

impl Drop for EtcdLog {
    /// The threads end soon, and nobody waits for them.
    fn drop(&mut self) {
        self.shared.end();
    }
}

pub(crate) fn check_lease(settings: &Settings, state: &State) -> Result<(), EtcdError> {
    let (lease_ms, least_ms) = (state.lease_ms(), settings.least_lease_ms());
    if lease_ms >= least_ms {
        return Ok(());
    }
    Err(EtcdError::LeaseTooShort { lease_ms, ttl_s: settings.ttl_s, least_ms })
}

fn working(book: &Book) -> Result<(), LogError> {
    book.failure.clone().map_or(Ok(()), |reason| Err(LogError::Elsewhere { reason }))
}

impl ViewLog for EtcdLog {
    fn propose(&mut self, change: Change) -> Result<(), LogError> {
        change.check()?;
        let mut book = self.shared.book();
        working(&book)?;
        book.wish(change, None).map_err(|waiting| LogError::TooManyProposals { waiting })?;
        drop(book);
        self.shared.wake();
        Ok(())
    }

    fn step(&mut self, from: NodeId, _message: &[u8]) -> Result<(), LogError> {
        Err(LogError::BadMessage { from, what: "nodes whose log etcd keeps tell each other nothing of it" })
    }

    /// The threads have clocks of their own.
    fn tick(&mut self, _now: Time) {
        let book = self.shared.book();
        if book.base.applied() > self.base.applied() {
            self.base = book.base.clone();
        }
    }

    fn take_outgoing(&mut self) -> Vec<Outgoing> {
        Vec::new()
    }

    fn decided_since(&self, index: u64) -> Result<Vec<Decided>, LogError> {
        let book = self.shared.book();
        let entries = book.since(index).ok_or(LogError::Forgotten { first: book.base.applied().saturating_add(1) })?;
        // What came before the failure is decided all the same.
        if entries.is_empty() && !self.is_retired { working(&book).map(|()| entries) } else { Ok(entries) }
    }

    fn known_by(&self, node: NodeId) -> u64 {
        let book = self.shared.book();
        if node == book.me { book.last() } else { 0 }
    }

    fn skip_to(&mut self, state: &State) {
        self.shared.take_in(|book| {
            book.skip_to(state);
            false
        });
    }

    fn state(&self) -> Option<&State> {
        Some(&self.base)
    }

    /// Etcd decides: what can be asked for is another leader.
    fn reconfigure(&mut self, voters: &[NodeId]) -> Result<(), LogError> {
        let led = self.shared.book().led();
        match (voters, led) {
            (&[to], Some(led)) if to == led.node => Ok(()),
            (&[to], Some(_)) => {
                self.resign(Some(to));
                Ok(())
            }
            (_, led) => Err(LogError::OneVoter { voter: led.map_or(NodeId::NOBODY, |led| led.node) }),
        }
    }

    fn voters_are(&mut self, _voters: &[NodeId]) {}
}

impl NodeLog for EtcdLog {
    fn is_leader(&self) -> bool {
        EtcdLog::is_leader(self)
    }

    fn leader(&self) -> Option<NodeId> {
        EtcdLog::leader(self)
    }

    fn term(&self) -> u64 {
        EtcdLog::term(self)
    }

    fn base(&self) -> &State {
        &self.base
    }

    fn write_as_leader(&mut self, term: u64, change: Change) -> Result<bool, LogError> {
        EtcdLog::write_as_leader(self, term, change)
    }

    fn has_undecided(&self) -> bool {
        !self.shared.book().wishes.is_empty()
    }

    fn has_proposals(&self) -> bool {
        self.shared.book().wishes.iter().any(|wish| wish.term.is_none())
    }

    fn failure(&self) -> Option<LogError> {
        working(&self.shared.book()).err()
    }

    /// Whoever cannot read the log does not know who is a member.
    fn retire(&mut self) -> bool {
        self.is_retired = true;
        EtcdLog::stand_back(self);
        false
    }

    fn stand_back(&mut self) {
        EtcdLog::stand_back(self);
    }

    fn stand(&mut self) {
        EtcdLog::stand(self);
    }

    fn is_dead(&mut self, node: NodeId) {
        EtcdLog::is_dead(self, node);
    }

    fn close(&mut self) {
        self.shared.end();
        // The last one tells etcd if this node leads; a watch of the others may last for seconds.
        if let Some(leads) = self.threads.pop() {
            let _ended = leads.join();
        }
        self.threads.clear();
    }

    fn confirmed(&self, term: u64) -> Option<Instant> {
        let book = self.shared.book();
        book.led().filter(|led| led.term == term).and_then(|_| book.confirmed())
    }

    fn on_news(&mut self, tell: News) {
        self.shared.on_news(tell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kddm_view::{ClusterId, Identity, SessionId};

    #[test]
    fn a_lease_that_ends_before_etcd_notices_anything_is_refused() {
        let identity = Identity { cluster: ClusterId(1), session: SessionId::DEFAULT };
        let settings = Settings::new(["http://127.0.0.1:1"], identity);
        let state = State::new(identity, NodeId(1));
        let error = EtcdLog::found(&settings, NodeId(1), 1, state.clone()).err().expect("it is refused");
        assert_eq!(error, EtcdError::LeaseTooShort { lease_ms: 1_000, ttl_s: 2, least_ms: 5_000 });
        for (ttl_s, least_ms) in [(0, 2_500), (24, 60_000), (u32::MAX, 60_000)] {
            assert_eq!(Settings { ttl_s, ..settings.clone() }.least_lease_ms(), least_ms);
        }
        let slow = EtcdLog::found(&settings, NodeId(1), 1, state.with_lease_ms(5_000)).err();
        assert!(matches!(slow, Some(EtcdError::Unreachable { .. })), "{slow:?}");
    }
}
