//! Where nodes find their log.

use std::time::Duration;

use kddm_core::id::NodeId;
use kddm_view::{ClusterId, Identity, LogError, LogSource, NodeLog, SessionId, State};

use crate::book::Book;
use crate::client::EtcdError;
use crate::keys::{self, Keys};
use crate::log::{EtcdLog, check_lease};
use crate::shared::{Settings, Shared};

/// An etcd cluster in which nodes keep their log of views: one for each session.
///
/// `/kddm/session/<session>` says which cluster that is. Who finds nothing there begins one. Who is to begin
/// another one removes all below `/kddm/`, after all nodes of the former one were stopped.
///
/// ```
/// let etcd = kddm_view_etcd::Etcd::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
/// assert_eq!(etcd.least_lease().as_secs(), 5);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Etcd {
    endpoints: Vec<String>,
    ttl_s: Option<u32>,
}

impl Etcd {
    /// Those servers, as `http://HOST:PORT`: one is enough, and with all of them any may be lost.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> Etcd {
        Etcd { endpoints: endpoints.into_iter().map(Into::into).collect(), ttl_s: None }
    }

    /// The same for servers at another pace than the default one; see [`Settings::ttl_s`].
    pub fn with_ttl_s(self, ttl_s: u32) -> Etcd {
        Etcd { ttl_s: Some(ttl_s), ..self }
    }

    /// The shortest lease of a cluster that begins with it; see [`Settings::least_lease_ms`].
    pub fn least_lease(&self) -> Duration {
        let identity = Identity { cluster: ClusterId(0), session: SessionId::DEFAULT };
        Duration::from_millis(self.settings(identity).least_lease_ms().into())
    }

    fn settings(&self, identity: Identity) -> Settings {
        let settings = Settings::new(self.endpoints.iter().cloned(), identity);
        Settings { ttl_s: self.ttl_s.unwrap_or(settings.ttl_s), ..settings }
    }

    /// Which cluster the session is, once there is one: `beginning` if there was none.
    fn identity(&self, me: NodeId, origin: u64, beginning: &State) -> Result<Identity, EtcdError> {
        let settings = self.settings(beginning.identity());
        let asks = Shared::new(&settings, Book::new(me, origin, beginning.clone()))?;
        let key = Keys::session(beginning.identity().session);
        let mut answer = asks.transaction(&[], &[keys::get(&key)], &[])?;
        if keys::range(&answer, 0).is_empty() {
            check_lease(&settings, beginning)?;
            let base = asks.keys.base();
            let puts = [
                keys::put(&key, &keys::cluster_bytes(beginning.identity().cluster), 0),
                keys::put(&base, &beginning.encode(), 0),
            ];
            // It may have been done although no answer has come: then it is read by the next question.
            answer = asks.transaction(&[keys::is_absent(&key), keys::is_absent(&base)], &puts, &[keys::get(&key)])?;
            if answer["succeeded"] == true {
                return Ok(beginning.identity());
            }
        }
        let strange = |what: String| EtcdError::Strange { prefix: key.clone(), what };
        let kept = keys::range(&answer, 0).pop().ok_or_else(|| strange("a log without its session".into()))?;
        Ok(Identity { cluster: keys::cluster(&kept).map_err(strange)?, ..beginning.identity() })
    }
}

impl LogSource for Etcd {
    fn name(&self) -> &str {
        "etcd"
    }

    fn open(&self, me: NodeId, origin: u64, beginning: &State) -> Result<Box<dyn NodeLog>, LogError> {
        let open = || {
            let identity = self.identity(me, origin, beginning)?;
            let mut log = EtcdLog::open(&self.settings(identity), me, origin)?;
            log.read()?;
            Ok(log)
        };
        match open() {
            Ok(log) => Ok(Box::new(log)),
            Err(error @ EtcdError::Unreachable { .. }) => Err(LogError::Unreachable { reason: error.to_string() }),
            Err(error) => Err(LogError::Elsewhere { reason: error.to_string() }),
        }
    }
}
