//! What replicates here, started side by side on one storage: our two daemons, qemu's quorum, and our server without a
//! replica.
//!
//! ```text
//!   generator ─nbd─> evenkeel serve ─> image
//!   generator ─nbd─> daemon alpha ─> image, and over QUIC (TLS, loopback) ─> daemon beta ─> image
//!   generator ─nbd─> qemu-storage-daemon, quorum of two ─> image, and over NBD (unix socket) ─> qemu-nbd ─> image
//! ```
//!
//! All run at once, but only one is loaded at a time.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::UdpSocket,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    load::{Extent, Generator, Job},
    process::Process,
};

/// The export of what is not a daemon of ours.
const EXPORT: &str = "bench";
/// Where qemu-nbd is from.
const NBD_PACKAGE: &str = "qemu-utils";
/// Where qemu-storage-daemon is from on Debian 12; with newer ones it comes with [`NBD_PACKAGE`].
const DAEMON_PACKAGE: &str = "qemu-system-common";
const NODES: [&str; 2] = ["alpha", "beta"];
/// How images are filled.
const FILL: Job = Job { block_bytes: 1 << 20, depth: 4, extent: Extent::All };

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// `evenkeel serve`: no replica.
    Serve,
    /// Two daemons of ours, with this protocol.
    Mirror(Protocol),
    /// qemu-storage-daemon with a quorum of two, one of them behind NBD.
    Quorum,
}

/// When our daemon answers a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// When it is on the own disk.
    A,
    /// When the peer has it in memory, too.
    B,
    /// When it is on the peer's disk, too.
    C,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    const fn volume(self) -> &'static str {
        match self {
            Self::A => "ra",
            Self::B => "rb",
            Self::C => "rc",
        }
    }
}

impl System {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] = [
        Self::Serve,
        Self::Mirror(Protocol::A),
        Self::Mirror(Protocol::B),
        Self::Mirror(Protocol::C),
        Self::Quorum,
    ];

    /// For the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serve => "evenkeel serve (no replica)",
            Self::Mirror(Protocol::A) => "evenkeel, protocol A",
            Self::Mirror(Protocol::B) => "evenkeel, protocol B",
            Self::Mirror(Protocol::C) => "evenkeel, protocol C",
            Self::Quorum => "qemu quorum",
        }
    }

    const fn export(self) -> &'static str {
        match self {
            Self::Serve | Self::Quorum => EXPORT,
            Self::Mirror(protocol) => protocol.volume(),
        }
    }
}

/// All systems, running on images in one folder.
#[derive(Debug)]
pub struct Systems {
    folder: PathBuf,
    serve: Process,
    /// Primary first.
    daemons: [Process; 2],
    /// qemu-storage-daemon, then qemu-nbd.
    quorum: [Process; 2],
}

impl Systems {
    /// Starts everything in an empty `folder` and writes every image in full.
    ///
    /// # Errors
    /// A program is missing or does not come up, or the disk is full.
    pub fn start(evenkeel: &Path, folder: &Path, size_mib: u64) -> Result<Self> {
        let systems = Self {
            folder: folder.to_owned(),
            serve: start_serve(evenkeel, folder, size_mib)?,
            daemons: start_daemons(evenkeel, folder, size_mib)?,
            quorum: start_quorum(folder, size_mib)?,
        };
        for system in System::ALL {
            let filled = systems.connect(system).and_then(|mut generator| generator.run(&FILL));
            filled.with_context(|| format!("filling {}", system.name()))?;
        }
        Ok(systems)
    }

    /// Connects a generator.
    ///
    /// # Errors
    /// It does not serve.
    pub fn connect(&self, system: System) -> Result<Generator> {
        let socket = match system {
            System::Serve => self.folder.join("serve.sock"),
            System::Mirror(_) => self.folder.join("alpha/run/nbd.sock"),
            System::Quorum => self.folder.join("quorum.sock"),
        };
        Generator::connect(&socket, system.export())
    }

    /// CPU time so far of what clients talk to, and of what has the replica.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn cpu_times(&self, system: System) -> Result<(Duration, Option<Duration>)> {
        match system {
            System::Serve => Ok((self.serve.cpu_time()?, None)),
            System::Mirror(_) => Ok((self.daemons[0].cpu_time()?, Some(self.daemons[1].cpu_time()?))),
            System::Quorum => Ok((self.quorum[0].cpu_time()?, Some(self.quorum[1].cpu_time()?))),
        }
    }

    /// Ends all of them.
    ///
    /// # Errors
    /// One does not end.
    pub fn stop(self) -> Result<()> {
        let Self { serve, daemons, quorum, .. } = self;
        serve.stop()?;
        daemons.into_iter().chain(quorum).try_for_each(Process::stop)
    }
}

/// The first line of what qemu-storage-daemon says of its version.
///
/// # Errors
/// It is missing.
pub fn qemu_version() -> Result<String> {
    let output = Command::new("qemu-storage-daemon")
        .arg("--version")
        .output()
        .with_context(|| format!("qemu-storage-daemon cannot be started: Debian package {DAEMON_PACKAGE}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("unknown").to_owned())
}

fn new_image(path: PathBuf, size_mib: u64) -> Result<PathBuf> {
    File::create(&path)?.set_len(size_mib << 20)?;
    Ok(path)
}

fn start_serve(evenkeel: &Path, folder: &Path, size_mib: u64) -> Result<Process> {
    let (image, socket) = (new_image(folder.join("serve.img"), size_mib)?, folder.join("serve.sock"));
    let mut command = Command::new(evenkeel);
    command.arg("serve").arg(image).args(["--export", EXPORT, "--socket"]).arg(&socket);
    Process::start("evenkeel serve", "none", &mut command, || UnixStream::connect(&socket).is_ok())
}

fn start_quorum(folder: &Path, size_mib: u64) -> Result<[Process; 2]> {
    let [near, far] = ["quorum.img", "replica.img"].map(|name| new_image(folder.join(name), size_mib));
    let (near, far, replica, front) = (near?, far?, folder.join("replica.sock"), folder.join("quorum.sock"));
    let mut command = Command::new("qemu-nbd");
    command.args(["--cache=none", "--aio=io_uring", "-f", "raw", "-t", "-x", EXPORT, "-k"]);
    command.arg(&replica).arg(far);
    let secondary =
        Process::start("qemu-nbd", NBD_PACKAGE, &mut command, || UnixStream::connect(&replica).is_ok())?;
    let mut command = Command::new("qemu-storage-daemon");
    for blockdev in [
        format!("driver=file,node-name=near,cache.direct=on,aio=io_uring,filename={}", near.display()),
        format!(
            "driver=nbd,node-name=far,export={EXPORT},server.type=unix,server.path={}",
            replica.display()
        ),
        "driver=quorum,node-name=both,vote-threshold=2,children.0=near,children.1=far".to_owned(),
    ] {
        command.args(["--blockdev", &blockdev]);
    }
    command.args(["--nbd-server", &format!("addr.type=unix,addr.path={}", front.display())]);
    command.args(["--export", &format!("type=nbd,id=export,node-name=both,name={EXPORT},writable=on")]);
    let primary = Process::start("qemu-storage-daemon", DAEMON_PACKAGE, &mut command, || {
        UnixStream::connect(&front).is_ok()
    })?;
    Ok([primary, secondary])
}

fn start_daemons(evenkeel: &Path, folder: &Path, size_mib: u64) -> Result<[Process; 2]> {
    let node = |command: &str, name: &str| {
        let mut whole = Command::new(evenkeel);
        whole.arg(command).args(["--node", name, "--state-dir"]).arg(folder.join(name));
        whole
    };
    let mut config = String::from("cluster = \"bench\"\n");
    for name in NODES {
        let printed = said(&mut node("init", name))?;
        // Free a moment ago: nothing else on this machine asks for ports that it was not given.
        let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        write!(config, "[node.{name}]\naddress = \"{address}\"\nfingerprint = \"{}\"\n", printed.trim())?;
    }
    for protocol in Protocol::ALL {
        let volume = protocol.volume();
        write!(config, "[volume.{volume}]\nsize = \"{size_mib}MiB\"\nprotocol = \"{protocol:?}\"\n")?;
    }
    let path = folder.join("evenkeel.toml");
    fs::write(&path, config)?;
    let run_dir = |name: &str| folder.join(name).join("run");
    let start = |name| {
        let mut command = node("daemon", name);
        command.arg("--config").arg(&path).arg("--run-dir").arg(run_dir(name));
        let socket = run_dir(name).join("nbd.sock");
        Process::start("evenkeel daemon", "none", &mut command, || UnixStream::connect(&socket).is_ok())
    };
    let daemons = [start(NODES[0])?, start(NODES[1])?];
    for protocol in Protocol::ALL {
        let volume = protocol.volume();
        for words in [&["wait", volume, "--for", "synced", "--timeout", "30s"][..], &["primary", volume]] {
            said(Command::new(evenkeel).args(words).env("EVENKEEL_RUN_DIR", run_dir(NODES[0])))?;
        }
    }
    Ok(daemons)
}

/// Runs a command to its end, and returns what it printed.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}
