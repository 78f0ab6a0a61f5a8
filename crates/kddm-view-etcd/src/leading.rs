//! Who leads: a key that goes with an etcd lease, and the word of etcd that it is still there.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::book::Book;
use crate::client::EtcdError;
use crate::keys::{self, Leadership};
use crate::shared::Shared;

/// How often a leader asks whether it still is: ten times in a lease, as it shows itself to voters.
const ASKS_IN_A_LEASE: u32 = 10;

/// How often a node that could not be elected tries again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// How long a node that only follows waits for news before it looks itself.
const LOOK: Duration = Duration::from_secs(1);

/// What there is to do for a node that may lead.
enum Stance {
    /// It leads.
    Leads(Leadership),
    /// It gives that up.
    GivesUp(Leadership),
    /// It wants to lead, in the place of that leader if there is one.
    Wants(Option<Leadership>),
    /// Another one leads, or is to.
    Follows,
}

impl Stance {
    fn of(book: &Book) -> Stance {
        let is_mine = |leader: &Leadership| leader.node == book.me && leader.origin == book.origin;
        match book.leader {
            Some(leader) if is_mine(&leader) => match book.led() {
                Some(led) => Stance::Leads(led),
                None => Stance::GivesUp(leader),
            },
            Some(leader) if leader.term == book.dead_term && book.stands => Stance::Wants(Some(leader)),
            None if book.stands && book.heir.is_none_or(|heir| heir == book.me) => Stance::Wants(None),
            _ => Stance::Follows,
        }
    }
}

impl Shared {
    /// The thread that leads, or waits for its chance.
    pub fn lead(&self) {
        let (mut keep_at, mut ask_at) = (Instant::now(), Instant::now());
        while !self.is_over() {
            let (stance, lease_ms, heir) = {
                let book = self.book();
                let named = |(term, heir)| book.leader.is_some_and(|leader| leader.term == term).then_some(heir);
                (Stance::of(&book), book.base.lease_ms(), book.resigned.and_then(named).flatten())
            };
            let done = match stance {
                Stance::Leads(led) => self.stay(led, lease_ms, &mut keep_at, &mut ask_at),
                Stance::GivesUp(led) => self.hand_over(led, heir),
                Stance::Wants(before) => self.campaign(before),
                Stance::Follows => Ok(()),
            };
            if let Err(error) = done {
                tracing::debug!(%error, "who leads the members is not known to etcd");
            }
            let mut book = self.book();
            let until = match Stance::of(&book) {
                Stance::Leads(_) => keep_at.min(ask_at),
                Stance::GivesUp(_) | Stance::Wants(_) => Instant::now() + TRY_AGAIN,
                Stance::Follows => Instant::now() + LOOK,
            };
            self.wait(&mut book, until);
        }
        let led = self.book().led();
        if let Some(led) = led {
            // If that fails, etcd notices it when the lease ends.
            let _in_vain = self.hand_over(led, None);
        }
    }

    /// Keeps the key, and asks whether it is still there.
    fn stay(
        &self,
        led: Leadership,
        lease_ms: u32,
        keep_at: &mut Instant,
        ask_at: &mut Instant,
    ) -> Result<(), EtcdError> {
        let now = Instant::now();
        if now >= *ask_at {
            *ask_at = now + Duration::from_millis(u64::from(lease_ms)) / ASKS_IN_A_LEASE;
            self.confirm()?;
        }
        if Instant::now() >= *keep_at {
            *keep_at = Instant::now() + Duration::from_secs(self.settings.ttl_s.into()) / 4;
            // It says nothing of who leads: that is asked by reading.
            self.client.ask("/v3/lease/keepalive", &json!({"ID": led.lease.to_string()}))?;
        }
        Ok(())
    }

    /// Asks who leads. A majority of the servers answers for it, so that no later leader was there before.
    fn confirm(&self) -> Result<(), EtcdError> {
        // Before it is asked: the lease of a leader counts from here.
        let sent = Instant::now();
        let answer = self.transaction(&[], &[keys::get(&self.keys.leader())], &[])?;
        let leader = keys::range(&answer, 0).first().map(Leadership::read);
        let revision = keys::revision(&answer);
        self.take_in(|book| {
            let before = book.confirmed();
            book.leader_seen(leader, revision, Some(sent)) || book.confirmed() != before
        });
        Ok(())
    }

    /// Wants to lead where nobody does, or in the place of one that is proven dead.
    fn campaign(&self, before: Option<Leadership>) -> Result<(), EtcdError> {
        let (me, origin, is_heir) = {
            let book = self.book();
            (book.me, book.origin, book.heir == Some(book.me))
        };
        let granted = self.client.ask("/v3/lease/grant", &json!({"TTL": self.settings.ttl_s.to_string()}))?;
        let lease = keys::lease_number(&granted["ID"]);
        let (leader, heir) = (self.keys.leader(), self.keys.heir());
        let compare = match before {
            Some(before) => vec![keys::is_of(&leader, before.term)],
            None if is_heir => vec![keys::is_absent(&leader), keys::says(&heir, &Leadership::encode(me, 0))],
            None => vec![keys::is_absent(&leader), keys::is_absent(&heir)],
        };
        let success = [keys::put(&leader, &Leadership::encode(me, origin), lease), keys::delete(&heir)];
        let answer = self.transaction(&compare, &success, &[keys::get(&leader)])?;
        let revision = keys::revision(&answer);
        let found = if answer["succeeded"] == true {
            Some(Leadership { node: me, origin, term: revision, lease })
        } else {
            keys::range(&answer, 0).first().map(Leadership::read)
        };
        if found.is_none_or(|found| found.lease != lease) {
            self.client.ask("/v3/lease/revoke", &json!({"ID": lease.to_string()}))?;
        }
        if let Some(leader) = found.filter(|leader| leader.lease == lease) {
            let ttl_s = keys::number(&granted["TTL"]);
            tracing::info!(node = leader.node.0, term = leader.term, ttl_s, "this node leads by the word of etcd");
            if ttl_s > self.settings.ttl_s.into() {
                tracing::warn!(
                    ttl_s,
                    "etcd notices later than it was asked to that a leader is gone: raise ttl_s to that"
                );
            }
        }
        self.take_in(|book| book.leader_seen(found, revision, None));
        Ok(())
    }
}
