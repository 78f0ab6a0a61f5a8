//! Questions to etcd: its JSON gateway, HTTP/1.1, one endpoint after the other.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

/// How long one endpoint may take: longer than a write on a slow disk, and short beside the shortest lease
/// that can be kept with etcd, so that another one is asked in time.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(700);

/// How long a watch is listened to before all is read again: a server that was cut off says nothing, and
/// nobody notices by that.
pub(crate) const WATCH: Duration = Duration::from_secs(2);

/// Endpoints that one log may have: etcd clusters have up to seven servers.
pub(crate) const ENDPOINTS: usize = 16;

/// The longest answer in bytes: the largest state, in base64, beside a page of entries.
const ANSWER_BYTES: u64 = 4 << 20;

/// Why etcd did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// No endpoint has answered.
    #[error("no etcd server answers ({reason}): check the endpoints, and whether a majority of the servers runs")]
    Unreachable {
        /// What the last one asked came to.
        reason: String,
    },
    /// A server has refused.
    #[error("etcd has refused a request: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// What is kept there is none of this program's.
    #[error("etcd holds something else than a view log below {prefix} ({what}): give the log keys of its own")]
    Strange {
        /// Where.
        prefix: String,
        /// What is wrong.
        what: String,
    },
    /// There is no log yet.
    #[error("etcd holds no view log below {prefix}: start the first node of the cluster, or check the prefix")]
    NoLog {
        /// Where.
        prefix: String,
    },
    /// Endpoints that cannot be meant.
    #[error("{count} etcd endpoints are refused: give 1 to {ENDPOINTS}, as http://HOST:PORT")]
    Endpoints {
        /// How many.
        count: usize,
    },
    /// Members would lose their leases whenever the node that leads is lost.
    #[error(
        "a lease of {lease_ms} ms is too short for etcd, which notices after {ttl_s} s that a leader is gone: found \
         the cluster with a lease of {least_ms} ms at least"
    )]
    LeaseTooShort {
        /// The lease of the cluster.
        lease_ms: u32,
        /// For how long etcd keeps the key of a leader that says nothing.
        ttl_s: u32,
        /// The shortest that goes with it.
        least_ms: u32,
    },
    /// The log could not do its part on this host.
    #[error("no thread for the view log: {reason}")]
    Thread {
        /// What the system said.
        reason: String,
    },
}

/// The servers, and which of them is asked first.
pub(crate) struct Client {
    agent: ureq::Agent,
    endpoints: Vec<String>,
    current: AtomicUsize,
}

impl Client {
    pub fn new(endpoints: &[String]) -> Result<Client, EtcdError> {
        let are_meant = endpoints.iter().all(|endpoint| endpoint.starts_with("http://"));
        if !(1..=ENDPOINTS).contains(&endpoints.len()) || !are_meant {
            return Err(EtcdError::Endpoints { count: endpoints.len() });
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None);
        let endpoints = endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect();
        Ok(Client { agent: config.build().into(), endpoints, current: AtomicUsize::new(0) })
    }

    /// Puts one question, to each endpoint once until one answers. It may have been done although none did.
    pub fn ask(&self, path: &str, question: &Value) -> Result<Value, EtcdError> {
        let mut reason = String::new();
        for _ in &self.endpoints {
            match self.ask_one(path, question) {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Refused(reason)) => return Err(EtcdError::Refused { reason }),
                Err(Attempt::Failed(why)) => {
                    reason = why;
                    self.current.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Err(EtcdError::Unreachable { reason })
    }

    fn url(&self, path: &str) -> String {
        let at = self.current.load(Ordering::Relaxed) % self.endpoints.len().max(1);
        format!("{}{path}", self.endpoints.get(at).map_or("", String::as_str))
    }

    fn post(&self, path: &str, question: &Value, limit: Duration) -> Result<ureq::Body, Attempt> {
        let failed = |error: ureq::Error| Attempt::Failed(error.to_string());
        let request = self.agent.post(self.url(path)).config().timeout_global(Some(limit)).build();
        let response = request.content_type("application/json").send(question.to_string()).map_err(failed)?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if status == 200 {
            return Ok(body);
        }
        let said = body.with_config().limit(ANSWER_BYTES).read_to_string().unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
        // What a server in trouble says another one may not say.
        if status >= 500 { Err(Attempt::Failed(said)) } else { Err(Attempt::Refused(format!("{status} {said}"))) }
    }

    fn ask_one(&self, path: &str, question: &Value) -> Result<Value, Attempt> {
        let mut body = self.post(path, question, ATTEMPT)?;
        let bytes = body.with_config().limit(ANSWER_BYTES).read_to_vec();
        let bytes = bytes.map_err(|error| Attempt::Failed(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| Attempt::Failed(error.to_string()))
    }

    /// Listens for at most [`WATCH`], and hands over each answer, until `take` wants no more. An end says nothing:
    /// all is read again after it.
    pub fn watch(&self, question: &Value, mut take: impl FnMut(&Value) -> bool) {
        let Ok(body) = self.post("/v3/watch", question, WATCH) else {
            self.current.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut lines = BufReader::new(body.into_reader());
        let mut line = Vec::new();
        loop {
            line.clear();
            match lines.by_ref().take(ANSWER_BYTES).read_until(b'\n', &mut line) {
                Ok(1..) if line.ends_with(b"\n") => {}
                _ => return,
            }
            let Ok(answer) = serde_json::from_slice(&line) else { return };
            if !take(&answer) {
                return;
            }
        }
    }
}

enum Attempt {
    /// Another endpoint may do it.
    Failed(String),
    /// None will.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_cannot_be_meant_are_refused() {
        for wrong in [&[][..], &["https://10.0.0.1:2379"], &["10.0.0.1:2379"], &["http://a:1"; ENDPOINTS + 1]] {
            let wrong: Vec<String> = wrong.iter().map(|word| (*word).to_owned()).collect();
            let error = Client::new(&wrong).err().expect("it is refused");
            assert_eq!(error, EtcdError::Endpoints { count: wrong.len() });
        }
    }

    #[test]
    fn a_port_at_which_nobody_listens_is_an_error_that_says_what_to_look_at() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let client = Client::new(&[format!("http://{free}/")]).expect("an endpoint");
        let error = client.ask("/v3/kv/range", &Value::Null).expect_err("nobody listens").to_string();
        assert!(error.contains("check the endpoints"), "{error}");
    }
}
