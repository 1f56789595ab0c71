//! Several real daemons on this machine, for one test: identities, one configuration, folders, a network, and an end
//! that is checked.
//!
//! Each cluster has addresses of its own: loopback ones (all of 127.0.0.0/8 is this machine), or, where links are to
//! be cut, network namespaces around a switch. Nothing outlives its [`Cluster`], also when a test fails; and a test
//! that fails shows the end of each daemon's log and its last status.

pub mod network;
pub mod node;
pub mod status;
pub mod trial;

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

pub use network::Network;
pub use node::Node;
pub use status::{PeerStatus, Problem, VolumeStatus};
pub use trial::Trial;

use crate::{serve::binary, tools::run};

/// Names of nodes, in the order of their ids.
pub const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// The UDP port of every node: each has an address of its own.
const PORT: u16 = 7801;

/// How the nodes reach one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// Over loopback addresses. They cannot be cut.
    #[default]
    Loopback,
    /// From namespaces of their own, over virtual cables that can be cut. Needs root.
    Namespaces,
}

/// A volume in the configuration, on all nodes.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// As in the configuration, for instance `64MiB`.
    pub size: String,
    /// `A`, `B` or `C`.
    pub protocol: char,
    /// Further lines of its section.
    pub lines: Vec<String>,
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self { name: "r0".to_owned(), size: "64MiB".to_owned(), protocol: 'C', lines: Vec::new() }
    }
}

/// How to make a [`Cluster`].
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Number of nodes, up to the number of [`NAMES`].
    pub nodes: usize,
    /// The volumes.
    pub volumes: Vec<VolumeSpec>,
    /// The network.
    pub links: Links,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { nodes: 2, volumes: vec![VolumeSpec::default()], links: Links::Loopback }
    }
}

/// Some daemons of one test.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order of [`NAMES`].
    pub nodes: Vec<Node>,
    /// The network, if there are namespaces.
    pub network: Option<Network>,
    options: ClusterOptions,
    folder: TempDir,
}

impl Cluster {
    /// Makes folders, identities, the network and the configuration; starts nothing.
    ///
    /// # Errors
    /// The binary is missing, or one of these cannot be made.
    pub fn new(options: ClusterOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("evenkeel-mirror-").tempdir()?;
        let (network, addresses) = match options.links {
            Links::Loopback => (None, loopback_addresses(options.nodes)),
            Links::Namespaces => {
                let network = Network::new(options.nodes)?;
                let addresses = (0..options.nodes).map(|node| network.address(node)).collect();
                (Some(network), addresses)
            }
        };
        let config = folder.path().join("evenkeel.toml");
        let nodes = NAMES[..options.nodes]
            .iter()
            .zip(addresses)
            .enumerate()
            .map(|(index, (name, address))| {
                let namespace = network.as_ref().map(|network| network.namespace(index));
                Node::new(name, address, folder.path(), config.clone(), namespace)
            })
            .collect::<Result<Vec<_>>>()?;
        let cluster = Self { nodes, network, options, folder };
        fs::write(&config, cluster.config())?;
        Ok(cluster)
    }

    /// Makes a cluster, starts all nodes, and hands it to a test; when that fails, shows what the daemons said.
    ///
    /// # Errors
    /// Those of the test.
    pub fn run(options: ClusterOptions, test: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        Self::prepare(options, |cluster| {
            for node in &cluster.nodes {
                node.launch()?;
            }
            for node in &cluster.nodes {
                node.wait_until_it_answers()?;
            }
            test(cluster)
        })
    }

    /// As [`run`](Self::run), but starts nothing.
    ///
    /// # Errors
    /// Those of the test.
    pub fn prepare(options: ClusterOptions, test: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut cluster = Self::new(options)?;
        test(&mut cluster).map_err(|error| error.context(cluster.report()))?;
        // A daemon that panicked fails the test, whichever way it ended.
        for node in &cluster.nodes {
            node.check_no_panic()?;
        }
        Ok(())
    }

    /// The folder of this cluster; the test may put its own files there.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration, the same on all nodes.
    #[must_use]
    pub fn config(&self) -> String {
        let volumes: Vec<String> =
            self.options.volumes.iter().map(|volume| volume_section(volume, &self.nodes)).collect();
        format!("cluster = \"test\"\n\n{}\n{}", node_sections(&self.nodes), volumes.join("\n"))
    }

    /// What the daemons said, for the report of a failure.
    fn report(&self) -> String {
        let mut text = String::from("the daemons:");
        for node in &self.nodes {
            // Writing to a string does not fail.
            let _ = write!(text, "\n--- {}\n{}", node.name(), node.report());
        }
        text
    }
}

/// The `[node.…]` sections for these nodes.
#[must_use]
pub fn node_sections(nodes: &[Node]) -> String {
    nodes
        .iter()
        .map(|node| {
            let (name, address, fingerprint) = (node.name(), node.address(), node.fingerprint());
            format!("[node.{name}]\naddress = \"{address}:{PORT}\"\nfingerprint = \"{fingerprint}\"\n")
        })
        .collect()
}

/// The sections of a volume on these nodes.
#[must_use]
pub fn volume_section(volume: &VolumeSpec, nodes: &[Node]) -> String {
    let VolumeSpec { name, size, protocol, lines } = volume;
    let mut text = format!("[volume.{name}]\nsize = \"{size}\"\nprotocol = \"{protocol}\"\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    for node in nodes {
        let (data, meta) = (node.data(name), node.meta(name));
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "[volume.{name}.on.{}]\ndata = \"{}\"\nmeta = \"{}\"\n",
            node.name(),
            data.display(),
            meta.display()
        );
    }
    text
}

/// Loopback addresses that no other cluster on this machine has.
fn loopback_addresses(count: usize) -> Vec<Ipv4Addr> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let pid = std::process::id();
    let [high, low] = [pid / 250 % 250, pid % 250].map(|part| u8::try_from(part + 1).unwrap_or(1));
    (0..count)
        .map(|_| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed) % 250 + 1;
            Ipv4Addr::new(127, high, low, u8::try_from(number).unwrap_or(1))
        })
        .collect()
}

/// Makes a node's identity in its state folder; its fingerprint.
fn init(name: &str, state: &Path) -> Result<String> {
    let mut command = Command::new(binary()?);
    command.arg("init").arg("--node").arg(name).arg("--state-dir").arg(state);
    let printed = run(&mut command)?.success().context("evenkeel init")?;
    let fingerprint = printed.trim_end_matches('\n');
    let digits = fingerprint.strip_prefix("sha256:").context("init prints sha256:… and nothing else")?;
    let hex = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure!(hex, "init printed {printed:?}");
    Ok(fingerprint.to_owned())
}

/// Paths of one node below the cluster's folder.
#[derive(Clone, Debug)]
struct Folders {
    state: PathBuf,
    run: PathBuf,
    data: PathBuf,
}

impl Folders {
    fn new(cluster: &Path, node: &str) -> Result<Self> {
        let folder = |name: &str| cluster.join(node).join(name);
        let folders = Self { state: folder("state"), run: folder("run"), data: folder("data") };
        for path in [&folders.state, &folders.run, &folders.data] {
            fs::create_dir_all(path)?;
        }
        Ok(folders)
    }
}
