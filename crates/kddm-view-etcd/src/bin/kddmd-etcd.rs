//! `kddmd-etcd`: the daemon kddmd whose node keeps its log of views in etcd. All else is as with kddmd, and so are all
//! its settings.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use kddm_view_etcd::Etcd;

/// The KDDM daemon, with the log of its members in etcd.
#[derive(Debug, Parser)]
#[command(name = "kddmd-etcd", version)]
struct OnEtcd {
    /// The etcd servers in which all daemons of the cluster keep the log of their members; each daemon needs a --node-id,
    /// and the cluster a --lease-ms of 5000 or more.
    #[arg(long, value_name = "http://HOST:PORT,...", env = "KDDM_ETCD", value_delimiter = ',', required = true)]
    etcd: Vec<String>,
    /// For how long etcd keeps the key of a leader that says nothing, in seconds: longer where the elections of its servers
    /// take longer than by default [default: 2]
    #[arg(long, value_name = "SECONDS", env = "KDDM_ETCD_TTL_S")]
    etcd_ttl_s: Option<u32>,
    #[command(flatten)]
    daemon: kddmd::daemon::Arguments,
}

fn main() -> ExitCode {
    let OnEtcd { etcd, etcd_ttl_s, mut daemon } = OnEtcd::parse();
    let etcd = Etcd::new(etcd);
    daemon.view_log_in = Some(Arc::new(match etcd_ttl_s {
        Some(ttl_s) => etcd.with_ttl_s(ttl_s),
        None => etcd,
    }));
    kddmd::daemon::main(daemon)
}
