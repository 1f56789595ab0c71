//! A running `evenkeel serve` for one test: its own folder, image and sockets, and an end that is checked.
//!
//! Invariants: the process never outlives its [`Server`]; one that printed a panic fails the test, whichever
//! way it ended; nothing waits without a bound.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::tools::{pid_of, wait_for_exit};

/// From start to the line that says "serving". Generous: the machine may be busy with other tests.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// From SIGTERM to the end (design rule P6).
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// `--disk-backend` of `evenkeel serve`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskBackend {
    /// io_uring where the kernel allows it.
    #[default]
    Auto,
    /// io_uring or a refusal to start.
    IoUring,
    /// `pread` and `pwrite` on threads.
    Pread,
}

impl DiskBackend {
    /// The two that a test names when the backend matters.
    pub const BOTH: [Self; 2] = [Self::IoUring, Self::Pread];

    /// The value on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Pread => "pread",
        }
    }
}

/// How to start a [`Server`]. `ServeOptions { size: …, ..Default::default() }` in most tests.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Size of the device in bytes.
    pub size: u64,
    /// Name of the export.
    pub export: String,
    /// Text for clients that ask for INFO_DESCRIPTION.
    pub description: Option<String>,
    /// Serve the image without letting clients write.
    pub read_only: bool,
    /// Listen on a free TCP port of 127.0.0.1 too.
    pub tcp: bool,
    /// How the server does its disk I/O.
    pub backend: DiskBackend,
    /// Serve this file instead of a new one in the server's own folder.
    pub image: Option<PathBuf>,
    /// Further arguments of `evenkeel serve`.
    pub arguments: Vec<String>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            size: 64 << 20,
            export: "disk".to_owned(),
            description: None,
            read_only: false,
            tcp: false,
            backend: DiskBackend::Auto,
            image: None,
            arguments: Vec::new(),
        }
    }
}

/// A running `evenkeel serve`.
#[derive(Debug)]
pub struct Server {
    options: ServeOptions,
    folder: TempDir,
    image: PathBuf,
    process: Option<Child>,
    tcp_address: Option<SocketAddr>,
}

impl Server {
    /// Starts the server in a new temporary folder and waits until it serves.
    ///
    /// # Errors
    /// The binary is missing, ended early, or did not say in time that it serves; its log is in the text.
    pub fn start(options: ServeOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("evenkeel-test-").tempdir()?;
        let image = options.image.clone().unwrap_or_else(|| folder.path().join("disk.img"));
        let mut server = Self { options, folder, image, process: None, tcp_address: None };
        server.launch()?;
        Ok(server)
    }

    /// Starts the server again, on the same image, socket and TCP address, after [`stop`](Self::stop) or
    /// [`kill`](Self::kill).
    ///
    /// # Errors
    /// As [`start`](Self::start); or it still runs.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "stop() or kill() comes before restart()");
        self.launch()
    }

    /// The unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    /// The file that is served.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// A folder that lives as long as the server, for the files of the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The NBD URI of the export on the unix socket, as libnbd's and qemu's tools take it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", percent_encode(&self.options.export), self.socket().display())
    }

    /// The NBD URI of the export over TCP.
    ///
    /// # Errors
    /// The server was started without `tcp`.
    pub fn tcp_uri(&self) -> Result<String> {
        Ok(format!("nbd://{}/{}", self.tcp_address()?, percent_encode(&self.options.export)))
    }

    /// The TCP address.
    ///
    /// # Errors
    /// The server was started without `tcp`.
    pub fn tcp_address(&self) -> Result<SocketAddr> {
        self.tcp_address.context("ServeOptions::tcp was not set")
    }

    /// The process id.
    ///
    /// # Panics
    /// After [`stop`](Self::stop) or [`kill`](Self::kill).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// What the server has written to standard error so far, over all its starts.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        let path = self.log_path();
        Ok(String::from_utf8_lossy(&fs::read(&path).with_context(|| path.display().to_string())?)
            .into_owned())
    }

    /// Asks the server to end (SIGTERM) and checks how it does: in time, with exit code 0, without a panic.
    ///
    /// # Errors
    /// It does not.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        kill_process(pid_of(&process), Signal::TERM)?;
        let Some(status) = wait_for_exit(&mut process, STOP_LIMIT)? else {
            process.kill()?;
            process.wait()?;
            bail!("the server did not end within {STOP_LIMIT:?} of SIGTERM\n{}", self.log()?);
        };
        ensure!(status.success(), "the server ended with {status}\n{}", self.log()?);
        self.check_no_panic()
    }

    /// Kills the server (SIGKILL): what a crash of the process leaves behind.
    ///
    /// # Errors
    /// It had ended before, or had panicked.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        if let Some(status) = process.try_wait()? {
            bail!("the server had already ended with {status}\n{}", self.log()?);
        }
        process.kill()?;
        process.wait()?;
        self.check_no_panic()
    }

    /// Fails if the server has panicked, be it in a task that did not end the process.
    ///
    /// # Errors
    /// It has; its log is in the text.
    pub fn check_no_panic(&self) -> Result<()> {
        let log = self.log()?;
        ensure!(!log.contains("panicked"), "the server panicked\n{log}");
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    fn launch(&mut self) -> Result<()> {
        let binary = binary()?;
        let options = &self.options;
        let mut command = Command::new(&binary);
        command.arg("serve").arg(&self.image).arg("--size").arg(options.size.to_string());
        command.arg("--export").arg(&options.export).arg("--socket").arg(self.socket());
        command.arg("--disk-backend").arg(options.backend.name());
        if options.tcp {
            // A restart must be found where the clients know it; the first start lets the kernel choose.
            let address = self.tcp_address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
            command.arg("--tcp").arg(address.to_string());
        }
        if options.read_only {
            command.arg("--read-only");
        }
        if let Some(description) = &options.description {
            command.arg("--description").arg(description);
        }
        command.args(&options.arguments);
        let log = File::options().create(true).append(true).open(self.log_path())?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;

        let stdout = process.stdout.take().expect("the pipe was asked for");
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            // Reads to the end, so that the server never blocks on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more after the first line.
                let _ = send.send(line);
            }
        });
        let Ok(ready) = lines.recv_timeout(READY_LIMIT) else {
            let ended = process.try_wait()?;
            process.kill()?;
            process.wait()?;
            bail!("{command:?} did not say that it serves ({ended:?})\n{}", self.log()?);
        };
        self.process = Some(process);
        if options.tcp {
            let address = address_in(&ready)
                .with_context(|| format!("no TCP address in the server's first line: {ready}"))?;
            self.tcp_address = Some(address);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only if the process is already gone.
            let _ = process.kill();
            let _ = process.wait();
        }
        if thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log().unwrap_or_default());
        } else if let Err(error) = self.check_no_panic() {
            panic!("{error:#}");
        }
    }
}

/// Where the binary under test is: `EVENKEEL_BIN`, or the release build beside this test's own build.
///
/// # Errors
/// It is not there; the text says how to build it.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("EVENKEEL_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            // <target dir>/<profile>/deps/<this test>
            let test = std::env::current_exe()?;
            let target =
                test.ancestors().nth(3).context("a test lies three folders deep in the target dir")?;
            target.join("release/evenkeel")
        }
    };
    ensure!(path.is_file(), "{} is missing: run `cargo build --release` first", path.display());
    Ok(path)
}

/// The first `127.0.0.1:PORT` in a line.
fn address_in(line: &str) -> Option<SocketAddr> {
    let address = &line[line.find("127.0.0.1:")?..];
    let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').unwrap_or(address.len());
    address[..end].parse().ok()
}

/// Escapes what may not stand in the path of a URI (RFC 3986 section 2.3).
fn percent_encode(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{address_in, percent_encode};

    #[test]
    fn the_address_is_found_in_a_line() {
        let address = address_in("serving disk on unix:/tmp/x and tcp:127.0.0.1:40123, ready");
        assert_eq!(address, Some(([127, 0, 0, 1], 40123).into()));
        assert_eq!(address_in("nbd://127.0.0.1:10809/disk"), Some(([127, 0, 0, 1], 10809).into()));
        assert_eq!(address_in("serving disk on /tmp/x"), None);
    }

    #[test]
    fn names_are_escaped_for_a_uri() {
        assert_eq!(percent_encode("r0.main"), "r0.main");
        assert_eq!(percent_encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}
