//! Network namespaces of one test: one for each node, and one with a switch between them, whose cables can be cut.
//!
//! ```text
//!  ek-PID-N-0            ek-PID-N-switch            ek-PID-N-1
//!    eth0 10.77.0.1 ------ p0 | bridge | p1 ------ eth0 10.77.0.2
//! ```
//!
//! A cut cable is a port of the switch that is down: packets vanish both ways, and no socket is told. The names hold
//! the process id of the test, so that what a killed test left behind is found and removed by the next one.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};

use crate::tools::{run, tool};

/// Where the kernel's namespaces are named.
const NAMED: &str = "/run/netns";

/// The namespaces of one cluster. Removed when dropped.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    nodes: usize,
}

impl Network {
    /// Makes a switch and this many hosts, all connected.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn new(nodes: usize) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root: run the tests as root");
        remove_leftovers();
        let prefix = format!("ek-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // From here on it is dropped, and so removed, if something fails.
        let network = Self { prefix, nodes };
        let switch = network.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "bridge", "up"])?;
        for node in 0..nodes {
            let (host, port) = (network.namespace(node), port(node));
            ip(&["netns", "add", &host])?;
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host,
            ])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "bridge", "up"])?;
            let address = format!("{}/24", network.address(node));
            ip(&["-n", &host, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    /// The namespace of a node.
    #[must_use]
    pub fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.prefix)
    }

    /// The address of a node.
    ///
    /// # Panics
    /// With more than 250 nodes.
    #[must_use]
    pub fn address(&self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(node + 1).expect("few nodes"))
    }

    /// Cuts the cable of a node.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn cut(&self, node: usize) -> Result<()> {
        ip(&["-n", &self.switch(), "link", "set", &port(node), "down"])
    }

    /// Mends the cable of a node.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mend(&self, node: usize) -> Result<()> {
        ip(&["-n", &self.switch(), "link", "set", &port(node), "up"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Best effort: what is left is removed by the next test.
        let _ = ip(&["netns", "delete", &self.switch()]);
        for node in 0..self.nodes {
            let _ = ip(&["netns", "delete", &self.namespace(node)]);
        }
    }
}

/// The switch's end of a node's cable.
fn port(node: usize) -> String {
    format!("p{node}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(tool("ip")?.args(arguments))?.success().context("the kernel refused a part of the network")?;
    Ok(())
}

/// Removes the namespaces of tests that were killed.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(NAMED) else { return };
    for name in entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        let owner = name.strip_prefix("ek-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test may do the same at the same time.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_reach_one_another_until_a_cable_is_cut() -> Result<()> {
        let network = Network::new(2)?;
        let reaches = || -> Result<bool> {
            let peer = network.address(1).to_string();
            let mut ping = tool("ip")?;
            ping.args(["netns", "exec", &network.namespace(0), "ping", "-c", "1", "-W", "1", &peer]);
            Ok(run(&mut ping)?.status.success())
        };
        tool("ping")?;
        assert!(reaches()?);
        network.cut(1)?;
        assert!(!reaches()?);
        network.mend(1)?;
        assert!(reaches()?);
        let names = (0..2).map(|node| network.namespace(node)).collect::<Vec<_>>();
        drop(network);
        assert!(names.iter().all(|name| !Path::new(NAMED).join(name).exists()));
        Ok(())
    }
}
