//! The other systems' servers: started in a folder of their own, on free ports of this host, gone with this program.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::Failure;
use crate::store::{self, START_LIMIT, TRY_AGAIN};
use crate::system::System;

mod quorum;

pub use self::quorum::Quorum;

/// Programs and what to install where they are missing.
const PROGRAMS: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("memcached", "memcached"),
    ("etcd", "etcd-server"),
    ("java", "zookeeper default-jre-headless"),
];

/// Where a program lies.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Servers often lie where only root looks.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// What to do where that program is not installed.
///
/// # Errors
/// That.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let package = PROGRAMS.iter().find(|(program, _)| *program == name).map_or(name, |(_, package)| package);
    found(name).ok_or_else(|| format!("{name} is not here; apt-get install {package}"))
}

/// A process that is killed when whoever starts it ends, however that happens.
pub fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Servers of one group of systems.
pub struct Servers {
    folder: PathBuf,
    children: Vec<Child>,
    /// Where one Redis answers, over TCP and on its socket: the same one for all who do not need another.
    redis: Option<[String; 2]>,
    /// Of what was started last and survives the loss of a host: whom to kill, and whom to ask then.
    quorum: Option<Quorum>,
}

impl Servers {
    /// None yet. The folder is in memory where the host has that, so that no disk of ours slows anybody down.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(name: &str) -> Result<Servers, Failure> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let folder = parent.join(format!("kddm-peers-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Servers { folder, children: Vec::new(), redis: None, quorum: None })
    }

    /// Where their files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts one; it is killed when this program ends, however that happens. Its number here.
    ///
    /// # Errors
    /// The program is missing, or does not start.
    pub fn start(&mut self, name: &str, words: &[&str]) -> Result<usize, Failure> {
        self.start_at(&program(name)?, words)
    }

    /// The same of a program that lies there.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_at(&mut self, program: &Path, words: &[&str]) -> Result<usize, Failure> {
        let log = File::create(self.folder.join(format!("log-{}", self.children.len())))?;
        let mut command = mortal(program);
        command.args(words).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.children.push(command.spawn()?);
        Ok(self.children.len() - 1)
    }

    /// Whom to kill, and whom to ask then, of what was started last and survives the loss of a host.
    ///
    /// # Errors
    /// Nothing here does.
    pub fn take_quorum(&mut self) -> Result<Quorum, Failure> {
        self.quorum.take().ok_or_else(|| "nothing here survives the loss of a host".into())
    }

    /// Kills that one, as if its host had failed.
    pub fn kill(&mut self, number: usize) {
        if let Some(child) = self.children.get_mut(number) {
            let _it_may_have_ended = child.kill();
            let _it_is_ours = child.wait();
        }
    }

    /// Starts what that system needs; where it answers.
    ///
    /// # Errors
    /// It is not installed, which is said with what to do, or does not come up.
    pub fn address(&mut self, system: System) -> Result<String, Failure> {
        match system {
            System::Kddm | System::KddmReplicated => Ok(String::new()),
            System::Redis => Ok(self.redis()?[0].clone()),
            System::RedisSocket | System::RedisCached | System::RedisCachedByThread => Ok(self.redis()?[1].clone()),
            System::RedisWait => self.redis_with_replica(),
            System::Memcached => self.memcached(),
            System::Etcd => self.etcd(),
            System::ZooKeeper => self.zookeeper(),
            System::RedisSentinel | System::RedisSentinelAsync => self.redis_with_sentinels(system),
        }
    }

    /// Redis on a port and a Unix socket, without files; the addresses of both.
    fn redis(&mut self) -> Result<&[String; 2], Failure> {
        if self.redis.is_none() {
            let (port, socket) = (free_port()?, self.folder.join("redis.sock").display().to_string());
            self.redis_at(port, &["--unixsocket", &socket])?;
            await_answer(System::RedisSocket, &socket)?;
            self.redis = Some([format!("127.0.0.1:{port}"), socket]);
        }
        Ok(self.redis.as_ref().expect("it has just been started"))
    }

    /// Redis with one replica; its address.
    fn redis_with_replica(&mut self) -> Result<String, Failure> {
        let (port, replica) = (free_port()?, free_port()?);
        self.redis_at(port, &["--repl-diskless-sync-delay", "0"])?;
        self.redis_at(replica, &["--replicaof", "127.0.0.1", &port.to_string()])?;
        let address = format!("127.0.0.1:{port}");
        await_answer(System::RedisWait, &address)?;
        Ok(address)
    }

    fn redis_at(&mut self, port: u16, more: &[&str]) -> Result<usize, Failure> {
        let port = port.to_string();
        let words = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        self.start("redis-server", &[&words[..], more].concat())
    }

    /// memcached; its address.
    fn memcached(&mut self) -> Result<String, Failure> {
        let port = free_port()?;
        // Root has to name another user, which changes nothing here.
        self.start("memcached", &["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-u", "nobody"])?;
        let address = format!("127.0.0.1:{port}");
        await_answer(System::Memcached, &address)?;
        Ok(address)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        (0..self.children.len()).for_each(|number| self.kill(number));
        let _it_is_in_memory_and_small = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port that nobody has.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until a write succeeds there.
///
/// # Errors
/// It never does.
pub fn await_answer(system: System, address: &str) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        match store::connect(system, address).and_then(|mut store| store.write(0, 0)) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > START_LIMIT => {
                return Err(format!("{} does not come up: {error}", system.name()).into());
            }
            Err(_) => std::thread::sleep(TRY_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_the_package_to_install() {
        assert!(program("sh").is_ok());
        let missing = program("no-such-server").unwrap_err();
        assert_eq!(missing, "no-such-server is not here; apt-get install no-such-server");
    }

    #[test]
    fn servers_and_their_folder_are_gone_with_the_last_of_them() {
        let mut servers = Servers::new("test").unwrap();
        let folder = servers.folder().to_path_buf();
        let number = servers.start("sleep", &["600"]).unwrap();
        let id = servers.children[number].id();
        assert!(Path::new(&format!("/proc/{id}")).exists());
        drop(servers);
        assert!(!Path::new(&format!("/proc/{id}")).exists() && !folder.exists());
    }
}
