//! The settings of a daemon: flag beats environment beats file beats default. What is wrong is said in
//! one sentence that names the place and what to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kddm::Address;
use serde::Deserialize;

/// The port of a daemon that is given none.
pub const DEFAULT_PORT: u16 = 7600;

/// The session of those who give none.
pub const DEFAULT_SESSION: u16 = 4711;

/// How long a clean stop may take: what the notifiers of a node are given at most.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(60);

/// Longest limit that can be set, one day: longer than anybody watches.
const MOST_LIMIT_MS: u64 = 24 * 3600 * 1000;

/// Leases that can be set; on a host that is virtual the library wants more.
const LEASES_MS: std::ops::RangeInclusive<u64> = 50..=60_000;

/// Lanes that a node can have, as the library has it.
const LANES: std::ops::RangeInclusive<usize> = 1..=16;

/// Largest object that can be set, 1 GiB.
const MOST_OBJECT_BYTES: usize = 1 << 30;

/// Longest name of a zone, as the library has it.
const ZONE_BYTES: usize = 64;

/// A settings file is not larger: nobody writes one, and it is read whole.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// Why the settings do not work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    fn new(text: impl Into<String>) -> ConfigError {
        ConfigError(text.into())
    }
}

/// What one source says: the flags, the environment or the file. All of it may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// This node's number, 1 to 65535 [default: the cluster gives one, and the data directory keeps it].
    #[arg(long, value_name = "NUMBER")]
    pub node_id: Option<u16>,
    /// Where this node listens: HOST:PORT, a port of 127.0.0.1, or unix:/PATH [default: 127.0.0.1:7600].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Allow addresses that other machines reach, without encryption.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub insecure: Option<bool>,
    /// A member to ask for admission; may be repeated, or be a list with commas.
    #[arg(long = "contact", value_name = "ADDRESS", value_delimiter = ',')]
    pub contacts: Option<Vec<String>>,
    /// Begin a cluster of its own and ask nobody.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub found: Option<bool>,
    /// Share objects as soon as it is a member [default: true]; else after `kddmadm cluster start`.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub autostart: Option<bool>,
    /// Keeps clusters on one network apart, 1 to 9999 [default: 4711].
    #[arg(long, value_name = "NUMBER")]
    pub session: Option<u16>,
    /// What fails together with this host, a rack or a room: those who decide who is a member are spread over
    /// zones.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// A witness: it shares no objects, and helps to decide who is a member. It makes three of two.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub witness: Option<bool>,
    /// Of two nodes this is the one that decides who is a member: the other one may be lost, and stops sharing while
    /// this one is gone.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub preferred: Option<bool>,
    /// Where this daemon keeps its number, its lock and its admin socket [default: $XDG_STATE_HOME/kddm,
    /// /var/lib/kddm for root, or ~/.local/state/kddm].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Serve /metrics, /health and /ready there: HOST:PORT, or a port of 127.0.0.1 [default: off].
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// The socket of this host's guardian, which tells the members when this process has ended [default:
    /// guardian.sock in the directory above; a daemon without one works all the same].
    #[arg(long, value_name = "PATH")]
    pub guardian: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as kddm=debug [default: info].
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// The limit of a wait that has none of its own [default: 10000].
    #[arg(long, value_name = "MS")]
    pub wait_limit_ms: Option<u64>,
    /// How long admission may take, with all attempts [default: 10000].
    #[arg(long, value_name = "MS")]
    pub join_limit_ms: Option<u64>,
    /// The lease of a cluster that this daemon begins: 200 to 60000, from 50 on a host that is not virtual
    /// [default: 1000].
    #[arg(long, value_name = "MS")]
    pub lease_ms: Option<u64>,
    /// How long a clean stop may take [default: 60000].
    #[arg(long, value_name = "MS")]
    pub drain_limit_ms: Option<u64>,
    /// The largest object that may be put here, up to 1 GiB [default: 16 MiB].
    #[arg(long, value_name = "BYTES")]
    pub object_limit_bytes: Option<usize>,
    /// Requests that may wait for an answer at one time [default: 65536].
    #[arg(long, value_name = "COUNT")]
    pub outstanding_limit: Option<usize>,
    /// Bytes that may wait for one peer [default: 64 MiB].
    #[arg(long, value_name = "BYTES")]
    pub peer_buffer_limit_bytes: Option<usize>,
    /// Threads that serve objects, each with its share of them, 1 to 16; all nodes of a cluster need the same number
    /// [default: 1].
    #[arg(long, value_name = "COUNT")]
    pub lanes: Option<usize>,
}

/// Where a layer comes from, and how it names its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flags,
    /// The environment.
    Environment,
    /// A file.
    File(PathBuf),
}

impl Source {
    fn key(&self, key: &str) -> String {
        match self {
            Source::Flags if key == "contacts" => "--contact".into(),
            Source::Flags => format!("--{}", key.replace('_', "-")),
            Source::Environment => variable(key),
            Source::File(path) => format!("{}: `{key}`", path.display()),
        }
    }
}

/// The variable of a key.
fn variable(key: &str) -> String {
    if key == "contacts" { "KDDM_CONTACT".into() } else { format!("KDDM_{}", key.to_uppercase()) }
}

/// An address, where a bare port is one of loopback.
fn address(text: &str) -> Result<Address, String> {
    let full = if text.parse::<u16>().is_ok() { format!("127.0.0.1:{text}") } else { text.to_string() };
    full.parse::<Address>().map_err(|error| error.to_string())
}

impl Layer {
    /// What a file says.
    ///
    /// # Errors
    /// Names the file, the line and the key.
    pub fn from_file(path: &Path) -> Result<Layer, ConfigError> {
        let bad = |reason: String| ConfigError::new(format!("the settings file {}: {reason}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
        if length > FILE_LIMIT_BYTES {
            return Err(bad(format!("it has {length} bytes; a settings file has at most {FILE_LIMIT_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        Layer::from_toml(&text, path)
    }

    /// The same for its text.
    ///
    /// # Errors
    /// Names the file, the line and the key.
    pub fn from_toml(text: &str, path: &Path) -> Result<Layer, ConfigError> {
        let layer: Layer = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let reason = error.message().trim().replace('\n', ", ");
            ConfigError::new(format!("{} line {line}: {reason}; correct or remove that line", path.display()))
        })?;
        layer.check(&Source::File(path.into()))?;
        Ok(layer)
    }

    /// What the environment says, read by `variables`.
    ///
    /// # Errors
    /// Names the variable.
    pub fn from_environment(variables: impl Fn(&str) -> Option<String>) -> Result<Layer, ConfigError> {
        fn number<N: std::str::FromStr>(key: &str, text: Option<String>, rule: &str) -> Result<Option<N>, ConfigError> {
            let wrong = |text: &str| ConfigError::new(format!("{} is `{text}`; {rule}", variable(key)));
            text.map(|text| text.trim().parse().map_err(|_| wrong(&text))).transpose()
        }
        let get = |key: &str| variables(&variable(key)).filter(|text| !text.is_empty());
        let (count, truth) = ("it must be a number", "it must be `true` or `false`");
        let list = |text: String| text.split(',').map(|part| part.trim().to_string()).collect();
        let layer = Layer {
            node_id: number("node_id", get("node_id"), "it must be a number from 1 to 65535")?,
            listen: get("listen"),
            insecure: number("insecure", get("insecure"), truth)?,
            contacts: get("contacts").map(list),
            found: number("found", get("found"), truth)?,
            autostart: number("autostart", get("autostart"), truth)?,
            session: number("session", get("session"), "it must be a number from 1 to 9999")?,
            zone: get("zone"),
            witness: number("witness", get("witness"), truth)?,
            preferred: number("preferred", get("preferred"), truth)?,
            data_dir: get("data_dir").map(PathBuf::from),
            http: get("http"),
            guardian: get("guardian").map(PathBuf::from),
            log: get("log"),
            wait_limit_ms: number("wait_limit_ms", get("wait_limit_ms"), count)?,
            join_limit_ms: number("join_limit_ms", get("join_limit_ms"), count)?,
            lease_ms: number("lease_ms", get("lease_ms"), count)?,
            drain_limit_ms: number("drain_limit_ms", get("drain_limit_ms"), count)?,
            object_limit_bytes: number("object_limit_bytes", get("object_limit_bytes"), count)?,
            outstanding_limit: number("outstanding_limit", get("outstanding_limit"), count)?,
            peer_buffer_limit_bytes: number("peer_buffer_limit_bytes", get("peer_buffer_limit_bytes"), count)?,
            lanes: number("lanes", get("lanes"), "it must be a number from 1 to 16")?,
        };
        layer.check(&Source::Environment)?;
        Ok(layer)
    }

    /// Whether every value can be meant. Each source is looked at by itself, so that the error names it.
    ///
    /// # Errors
    /// Names the source and the key, and says what is allowed.
    pub fn check(&self, source: &Source) -> Result<(), ConfigError> {
        let wrong = |key: &str, value: String, rule: &str| {
            Err(ConfigError::new(format!("{} is {value}; {rule}", source.key(key))))
        };
        if self.node_id == Some(0) {
            return wrong("node_id", "0".into(), "it must be from 1 to 65535");
        }
        if let Some(session) = self.session.filter(|session| !(1..=9999).contains(session)) {
            return wrong("session", session.to_string(), "it must be from 1 to 9999");
        }
        let named = [("listen", &self.listen), ("http", &self.http)];
        let contacts = self.contacts.iter().flatten().map(|contact| ("contacts", contact));
        for (key, text) in named.iter().filter_map(|(key, text)| Some((*key, text.as_ref()?))).chain(contacts) {
            match address(text) {
                Err(reason) => return wrong(key, format!("`{text}`"), &reason),
                Ok(Address::Local(_)) => {
                    return wrong(key, format!("`{text}`"), "a local: address is one inside a process");
                }
                Ok(Address::Unix(_)) if key == "http" => {
                    return wrong(key, format!("`{text}`"), "it must be HOST:PORT or a port");
                }
                Ok(_) => {}
            }
        }
        let fits = |zone: &String| (1..=ZONE_BYTES).contains(&zone.len()) && !zone.chars().any(char::is_control);
        if let Some(zone) = self.zone.as_ref().filter(|zone| !fits(zone)) {
            let shown = format!("`{}`", zone.escape_debug());
            return wrong("zone", shown, "it must have 1 to 64 bytes without control characters");
        }
        let limits = [
            ("wait_limit_ms", self.wait_limit_ms),
            ("join_limit_ms", self.join_limit_ms),
            ("drain_limit_ms", self.drain_limit_ms),
        ];
        for (key, limit) in limits {
            if let Some(limit) = limit.filter(|limit| !(1..=MOST_LIMIT_MS).contains(limit)) {
                return wrong(key, limit.to_string(), "it must be from 1 to 86400000, which is one day");
            }
        }
        if let Some(lease) = self.lease_ms.filter(|lease| !LEASES_MS.contains(lease)) {
            return wrong("lease_ms", lease.to_string(), "it must be from 50 to 60000");
        }
        if let Some(limit) = self.object_limit_bytes.filter(|limit| !(1..=MOST_OBJECT_BYTES).contains(limit)) {
            return wrong("object_limit_bytes", limit.to_string(), "it must be from 1 to 1073741824, which is 1 GiB");
        }
        if let Some(lanes) = self.lanes.filter(|lanes| !LANES.contains(lanes)) {
            let rule = "it must be from 1 to 16, and the same for all nodes of the cluster";
            return wrong("lanes", lanes.to_string(), rule);
        }
        let counts =
            [("outstanding_limit", self.outstanding_limit), ("peer_buffer_limit_bytes", self.peer_buffer_limit_bytes)];
        match counts.iter().find(|(_, count)| *count == Some(0)) {
            Some((key, _)) => wrong(key, "0".into(), "it must be at least 1"),
            None => Ok(()),
        }
    }

    /// This layer, and where it says nothing, the one below.
    pub fn over(self, below: Layer) -> Layer {
        Layer {
            node_id: self.node_id.or(below.node_id),
            listen: self.listen.or(below.listen),
            insecure: self.insecure.or(below.insecure),
            contacts: self.contacts.or(below.contacts),
            found: self.found.or(below.found),
            autostart: self.autostart.or(below.autostart),
            session: self.session.or(below.session),
            zone: self.zone.or(below.zone),
            witness: self.witness.or(below.witness),
            preferred: self.preferred.or(below.preferred),
            data_dir: self.data_dir.or(below.data_dir),
            http: self.http.or(below.http),
            guardian: self.guardian.or(below.guardian),
            log: self.log.or(below.log),
            wait_limit_ms: self.wait_limit_ms.or(below.wait_limit_ms),
            join_limit_ms: self.join_limit_ms.or(below.join_limit_ms),
            lease_ms: self.lease_ms.or(below.lease_ms),
            drain_limit_ms: self.drain_limit_ms.or(below.drain_limit_ms),
            object_limit_bytes: self.object_limit_bytes.or(below.object_limit_bytes),
            outstanding_limit: self.outstanding_limit.or(below.outstanding_limit),
            peer_buffer_limit_bytes: self.peer_buffer_limit_bytes.or(below.peer_buffer_limit_bytes),
            lanes: self.lanes.or(below.lanes),
        }
    }
}

/// What a daemon runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The number asked for.
    pub node_id: Option<u16>,
    /// Where the node listens.
    pub listen: Address,
    /// Beyond loopback without encryption.
    pub insecure: bool,
    /// Whom to ask for admission, as they were given.
    pub contacts: Vec<Address>,
    /// Begin a cluster and ask nobody.
    pub found: bool,
    /// Which session.
    pub session: u16,
    /// Where things are kept.
    pub data_dir: PathBuf,
    /// Metrics and health, if wanted.
    pub http: Option<Address>,
    /// The log filter.
    pub log: String,
    /// How long admission may take, with all attempts.
    pub join_limit: Duration,
    /// How long a clean stop may take.
    pub drain_limit: Duration,
    /// The layers, for what the library has defaults for.
    layer: Layer,
}

impl Settings {
    /// Puts the layers together. `default_data_dir` is asked only if nobody says where.
    ///
    /// # Errors
    /// What does not go together, and where no data directory can be found.
    pub fn resolve(layer: Layer, default_data_dir: Option<PathBuf>) -> Result<Settings, ConfigError> {
        let parsed = |text: &String| address(text).map_err(ConfigError::new);
        let listen = match &layer.listen {
            Some(text) => parsed(text)?,
            None => Address::Tcp { host: "127.0.0.1".into(), port: DEFAULT_PORT },
        };
        // Members tell each other where they listen, and `everywhere` is no place to go to.
        let is_everywhere = |host: &str| matches!(host, "0.0.0.0" | "[::]");
        if matches!(&listen, Address::Tcp { host, .. } if is_everywhere(host)) {
            return Err(ConfigError::new(format!(
                "`listen` is {listen}, and others must be able to reach this node by it; give this host's own address"
            )));
        }
        let http = layer.http.as_ref().map(parsed).transpose()?;
        let contacts: Vec<Address> = layer.contacts.iter().flatten().map(parsed).collect::<Result<_, _>>()?;
        let insecure = layer.insecure.unwrap_or(false);
        for (key, beyond) in [("listen", Some(&listen)), ("http", http.as_ref())] {
            if let Some(beyond) = beyond.filter(|address| !address.is_loopback() && !insecure) {
                return Err(ConfigError::new(format!(
                    "`{key}` is {beyond}, which other machines reach, and there is no encryption yet; \
                     listen on 127.0.0.1, or allow it with --insecure where you trust the network"
                )));
            }
        }
        let found = layer.found.unwrap_or(false);
        if found && !contacts.is_empty() {
            let text =
                "`found` begins a cluster of its own and `contacts` asks to be let into another; give one of them";
            return Err(ConfigError::new(text));
        }
        if layer.witness == Some(true) && layer.preferred == Some(true) {
            let text = "a `witness` shares no objects and `preferred` is one of two nodes that do; give one of them";
            return Err(ConfigError::new(text));
        }
        let data_dir = layer.data_dir.clone().or(default_data_dir).ok_or_else(|| {
            ConfigError::new("no data directory: neither HOME nor XDG_STATE_HOME is set; name one with --data-dir")
        })?;
        let milliseconds = |limit: Option<u64>, default| limit.map_or(default, Duration::from_millis);
        Ok(Settings {
            node_id: layer.node_id,
            listen,
            insecure,
            contacts,
            found,
            session: layer.session.unwrap_or(DEFAULT_SESSION),
            data_dir,
            http,
            log: layer.log.clone().unwrap_or_else(|| "info".into()),
            join_limit: milliseconds(layer.join_limit_ms, Duration::from_secs(10)),
            drain_limit: milliseconds(layer.drain_limit_ms, DEFAULT_DRAIN),
            layer,
        })
    }

    /// What the library is told, besides whom to contact.
    pub fn node_config(&self, node_id: Option<u16>) -> kddm::Config {
        let mut config = kddm::Config::new().listen(self.listen.clone()).session(self.session);
        config.node_id = node_id;
        config.insecure = self.insecure;
        config.drain_limit = self.drain_limit;
        if let Some(guardian) = &self.layer.guardian {
            config.guardian = Some(guardian.clone());
        }
        if self.layer.autostart == Some(false) {
            config = config.without_autostart();
        }
        if let Some(zone) = &self.layer.zone {
            config = config.zone(zone);
        }
        if self.layer.witness == Some(true) {
            config = config.witness();
        }
        if self.layer.preferred == Some(true) {
            config = config.preferred();
        }
        if let Some(lease) = self.layer.lease_ms {
            config.lease = Duration::from_millis(lease);
        }
        if let Some(limit) = self.layer.wait_limit_ms {
            config.wait_limit = Duration::from_millis(limit);
        }
        if let Some(limit) = self.layer.object_limit_bytes {
            config.object_limit_bytes = limit;
        }
        if let Some(limit) = self.layer.outstanding_limit {
            config.outstanding_limit = limit;
        }
        if let Some(limit) = self.layer.peer_buffer_limit_bytes {
            config.peer_buffer_limit_bytes = limit;
        }
        if let Some(lanes) = self.layer.lanes {
            config = config.lanes(lanes);
        }
        config
    }
}

#[cfg(test)]
mod tests;
