//! The network of a run: a namespace with a switch, and one for each host, with a cable between.

use crate::command::{run, run_with};

/// Hosts in one network: the last byte of their addresses, and more daemons than a machine carries.
pub const MOST_HOSTS: u16 = 64;

/// Packets that come in are dropped here: from some hosts, or some of all.
const RULES: &str = "table inet kddm {
    set cut { type ipv4_addr; }
    chain cut_off { type filter hook input priority -200; iifname \"eth0\" ip saddr @cut counter drop; }
    chain lossy { type filter hook input priority -199; }
}
";

/// It is gone when the run is: its namespaces have names in the run's own mount namespace only.
pub struct Network {
    /// What all names begin with.
    prefix: String,
    hosts: u16,
}

impl Network {
    /// Makes the switch and the hosts, which are numbered from 1.
    ///
    /// # Errors
    /// What the system does not do.
    pub fn make(hosts: u16) -> Result<Network, String> {
        let network = Network { prefix: format!("kddm-chaos-{}", std::process::id()), hosts };
        let switch = network.switch();
        run(&["ip", "netns", "add", &switch])?;
        run(&["ip", "-n", &switch, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
        run(&["ip", "-n", &switch, "link", "set", "br0", "up"])?;
        for host in 1..=hosts {
            network.add_host(host)?;
        }
        Ok(network)
    }

    fn add_host(&self, host: u16) -> Result<(), String> {
        let (name, switch, port) = (self.host(host), self.switch(), port(host));
        let hardware = format!("02:00:00:00:00:{host:02x}");
        run(&["ip", "netns", "add", &name])?;
        let cable = ["type", "veth", "peer", "name", &port, "netns", &switch];
        run(&[&["ip", "link", "add", "eth0", "netns", &name, "address", &hardware][..], &cable].concat())?;
        run(&["ip", "-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
        run(&["ip", "-n", &name, "addr", "add", &format!("{}/24", address(host)), "dev", "eth0"])?;
        run(&["ip", "-n", &name, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        run_with(&["ip", "netns", "exec", &name, "nft", "-f", "-"], RULES).map(|_| ())
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> u16 {
        self.hosts
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    /// The name of a host's namespace.
    pub fn host(&self, host: u16) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Pulls the cable of a host, or plugs it in.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_cable(&self, host: u16, state: Cable) -> Result<(), String> {
        let state = if state == Cable::Plugged { "up" } else { "down" };
        run(&["ip", "-n", &self.switch(), "link", "set", &port(host), state]).map(|_| ())
    }

    /// That host does not hear those others any more, which hear it.
    ///
    /// # Errors
    /// What the system says.
    pub fn deafen(&self, host: u16, to: &[u16]) -> Result<(), String> {
        let addresses: Vec<String> = to.iter().map(|other| address(*other)).collect();
        self.nft(host, &["add", "element", "inet", "kddm", "cut", &format!("{{ {} }}", addresses.join(", "))])
    }

    /// That share of what comes to a host is lost, in percent.
    ///
    /// # Errors
    /// What the system says.
    pub fn lose(&self, host: u16, percent: u32) -> Result<(), String> {
        let (rule, percent) = (["add", "rule", "inet", "kddm", "lossy", "iifname", "eth0"], percent.to_string());
        self.nft(host, &[&rule[..], &["numgen", "random", "mod", "100", "<", &percent, "counter", "drop"]].concat())
    }

    /// Everything comes through to that host again. How many packets did not since the last time.
    ///
    /// # Errors
    /// What the system says.
    pub fn heal(&self, host: u16) -> Result<u64, String> {
        let rules = run(&["ip", "netns", "exec", &self.host(host), "nft", "list", "table", "inet", "kddm"])?;
        // In one step, with counters that begin anew.
        let anew = format!("delete table inet kddm\n{RULES}");
        run_with(&["ip", "netns", "exec", &self.host(host), "nft", "-f", "-"], &anew)?;
        Ok(dropped(&rules))
    }

    fn nft(&self, host: u16, words: &[&str]) -> Result<(), String> {
        run(&[&["ip", "netns", "exec", &self.host(host), "nft"][..], words].concat()).map(|_| ())
    }
}

/// Whether a cable is plugged in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cable {
    /// It is.
    Plugged,
    /// It is not.
    Pulled,
}

fn port(host: u16) -> String {
    format!("p{host}")
}

/// The address of a host.
pub fn address(host: u16) -> String {
    format!("10.77.0.{host}")
}

/// The sum of the counters in a list of rules.
fn dropped(rules: &str) -> u64 {
    let counters = rules.split("counter packets ").skip(1);
    counters.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up() {
        let rules = "ip saddr @cut counter packets 12 bytes 720 drop\nnumgen random mod 100 < 30 counter packets 3 bytes 9 drop";
        assert_eq!(dropped(rules), 15);
        assert_eq!(dropped("no rules"), 0);
    }
}
