//! What a kill -9 costs: how long nobody gets through, and what is lost of that which was acknowledged.
//!
//! One client writes one key all the time, and writes to a file what was acknowledged. Then the process that has the
//! value is killed: of KDDM the client itself, which is the node that owns the object; of the others whatever leads.
//! At once another client tries to read the key and to write it, until both have succeeded.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::report::{Loss, Spread};
use crate::servers::Servers;
use crate::store;
use crate::system::System;
use crate::worker::{self, Answer, Order, Worker};

/// Kills of each system, each in a cluster that is new.
const KILLS: usize = 5;

/// Writes go on for so long before: the process that is killed is in the middle of one.
const BEFORE: Duration = Duration::from_millis(300);

/// Who is killed, and how the others can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    /// The node that owns the object; a guardian on its host proves its end.
    Owner,
    /// The same, and it leads those who decide who is a member.
    Leader,
    /// The node that owns the object; without a guardian its lease must run out.
    OwnerUnproven,
    /// What leads of another system, with all that is on its host.
    LeaderOf(System),
}

const VICTIMS: &[(Victim, &str)] = &[
    (Victim::Owner, "kddm-replica: the owner"),
    (Victim::Leader, "kddm-replica: the owner, which leads"),
    (Victim::OwnerUnproven, "kddm-replica: the owner, without a guardian"),
    (Victim::LeaderOf(System::Etcd), "etcd: the leader"),
    (Victim::LeaderOf(System::ZooKeeper), "zookeeper: the leader"),
    (Victim::LeaderOf(System::RedisSentinel), "redis-sentinel: the server and its sentinel"),
    (Victim::LeaderOf(System::RedisSentinelAsync), "redis-sentinel-async: the server and its sentinel"),
];

/// All kills of all systems.
///
/// # Errors
/// What has been killed is not the only thing that failed.
pub fn measure(missing: &mut Vec<String>) -> Result<Vec<Loss>, Failure> {
    let mut losses = Vec::new();
    for (victim, name) in VICTIMS {
        eprintln!("peers: kill -9 of {name}");
        let (mut until_ms, mut lost) = (Vec::new(), 0);
        let load = crate::report::load_average();
        for number in 0..KILLS {
            let outcome = match victim {
                Victim::LeaderOf(system) => kill_leader(*system, number),
                _ => kill_node(*victim, number),
            };
            match outcome {
                Ok((after, lost_here)) => {
                    until_ms.push(after.as_secs_f64() * 1e3);
                    lost += lost_here;
                }
                // The first one finds what is not here.
                Err(error) if number == 0 => {
                    missing.push(format!("kill -9 of {name}: {error}"));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if !until_ms.is_empty() {
            let kills = until_ms.len();
            losses.push(Loss { victim: (*name).into(), kills, until_ms: Spread::of(until_ms), lost, load });
        }
    }
    Ok(losses)
}

/// The guardian lies beside this program, where one build leaves both.
fn guardian() -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()?.with_file_name("kddm-guardian");
    if beside.is_file() { Ok(beside) } else { Err("kddm-guardian is not beside this program; build it".into()) }
}

fn kill_node(victim: Victim, number: usize) -> Result<(Duration, u64), Failure> {
    let mut servers = Servers::new(&format!("kill-{number}"))?;
    let folder = servers.folder().to_path_buf();
    let socket = folder.join("guardian.sock");
    if victim != Victim::OwnerUnproven {
        let guardian = guardian()?;
        servers.start_at(&guardian, &["--socket", &socket.display().to_string()])?;
        await_file(&socket)?;
    }
    let file = folder.join("acknowledged");
    worker::stale_file(&file)?;
    let mut nodes: Vec<Worker> = Vec::new();
    for node in 0..3 {
        let contact = nodes.first().map_or("", |first| first.address.as_str());
        let log = folder.join(format!("log-of-{node}")).display().to_string();
        let guardian = if victim == Victim::OwnerUnproven { String::new() } else { socket.display().to_string() };
        nodes.push(Worker::start_with(System::KddmReplicated, contact, &[&log, &guardian])?);
    }
    // All three decide, or the first of them alone would.
    for node in &mut nodes {
        node.order(&Order::AwaitVoters)?;
        node.done()?;
    }
    let (killed, other) = if victim == Victim::Leader { (0, 1) } else { (1, 2) };
    nodes[killed].order(&Order::WriteForKill { file: file.clone() })?;
    std::thread::sleep(BEFORE);
    let start = Instant::now();
    nodes[killed].kill();
    take_over(&mut nodes[other], Vec::new(), &file, start)
}

fn kill_leader(system: System, number: usize) -> Result<(Duration, u64), Failure> {
    let mut servers = Servers::new(&format!("kill-{}-{number}", system.name()))?;
    let leader = servers.address(system)?;
    let file = servers.folder().join("acknowledged");
    worker::stale_file(&file)?;
    let quorum = servers.take_quorum()?;
    let mut writer = Worker::start(system, &leader)?;
    let mut other = Worker::start(system, &quorum.others[0])?;
    writer.order(&Order::WriteForKill { file: file.clone() })?;
    std::thread::sleep(BEFORE);
    let start = Instant::now();
    quorum.leader.iter().for_each(|process| servers.kill(*process));
    take_over(&mut other, quorum.others, &file, start)
}

/// What another client finds, and when.
fn take_over(
    other: &mut Worker,
    addresses: Vec<String>,
    file: &Path,
    start: Instant,
) -> Result<(Duration, u64), Failure> {
    other.order(&Order::TakeOver { addresses })?;
    match other.answer()? {
        Answer::TookOver { number } => {
            let elapsed = start.elapsed();
            let acknowledged = worker::acknowledged(file)?;
            if acknowledged == 0 {
                return Err("nothing had been written".into());
            }
            Ok((elapsed, acknowledged.saturating_sub(number)))
        }
        other => Err(format!("a client said {other:?}").into()),
    }
}

fn await_file(file: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    while !file.exists() {
        if start.elapsed() > store::START_LIMIT {
            return Err(format!("{} does not come up", file.display()).into());
        }
        std::thread::sleep(store::TRY_AGAIN);
    }
    Ok(())
}
