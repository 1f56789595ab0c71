//! `evenkeel serve`: one file or block device over NBD; no metadata, no peers.
//!
//! Two threads (design section 9). The control thread accepts, does the handshakes and waits for signals; the
//! data thread owns the disk and all established connections. They share nothing but channels.
//!
//! ```text
//!   starting ──device announced──> serving ──SIGTERM, SIGINT──> draining ──all answered and stable──> ended
//!                                                                  └──────a disk that hangs──> ended, exit code 6
//! ```

use std::{
    io::Write as _, net::SocketAddr, path::PathBuf, rc::Rc, sync::Arc, thread::JoinHandle, time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use evenkeel_driver::{
    device::{DeviceOptions, FileDevice},
    disk::{self, Backend, BackendChoice, DiskFile, OpenOptions},
};
use evenkeel_nbd::{
    device::{BlockDevice, ExportState, Features},
    limits::Limits,
    server::{Directory, Door, Export, Hall, Handover, Listener},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
};

use crate::units::ByteSize;

/// Entries of the ring below the runtime; hot I/O has its own ring.
const RUNTIME_RING_ENTRIES: u32 = 64;

/// From the signal to the end (design rule P6 says 10 s). Clients have 6 s of it to take their last replies, the
/// rest is for the disk.
const STOP_TIME: Duration = Duration::from_secs(9);

/// What clients and the log are told when the server ends.
const STOPPING: &str = "the server is stopping";

/// Serve one file or block device over NBD, without replication.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").args(["socket", "tcp"]).required(true).multiple(true))]
pub(crate) struct Arguments {
    /// File or block device to serve.
    path: PathBuf,
    /// Size, as 64MiB, 1GiB or 1000000: creates a missing file, sparse; must agree with one that exists.
    #[arg(long)]
    size: Option<ByteSize>,
    /// Name under which clients ask for it.
    #[arg(long, default_value = "disk", value_parser = parse_export)]
    export: String,
    /// Unix socket to listen on.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// TCP address and port to listen on; only addresses of this machine itself.
    #[arg(long, value_parser = parse_loopback)]
    tcp: Option<SocketAddr>,
    /// Serve without the right to write.
    #[arg(long)]
    read_only: bool,
    /// Tell clients that the disk turns.
    #[arg(long)]
    rotational: bool,
    /// Text for people, shown by clients that ask.
    #[arg(long, default_value = "")]
    description: String,
    /// How the disk is used: auto, io_uring or pread.
    #[arg(long, default_value = "auto")]
    disk_backend: BackendChoice,
}

/// NBD has names of 1 to 4096 bytes; an empty one would mean "the default export" to clients.
fn parse_export(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err("an export name has 1 to 4096 bytes".into());
    }
    Ok(text.to_owned())
}

fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("'{text}' is not an address with a port: write 127.0.0.1:10809 or [::1]:10809")
    })?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "NBD over TCP is not encrypted and asks for no password, so only loopback is allowed, not {}: use \
             127.0.0.1 and a tunnel (ssh -L)",
            address.ip()
        ));
    }
    Ok(address)
}

/// What the data thread tells once the device serves.
struct Announcement {
    features: Arc<Features>,
    state: watch::Receiver<ExportState>,
}

/// What the data thread needs to begin.
struct DataSide {
    file: DiskFile,
    backend: Backend,
    options: DeviceOptions,
    limits: Limits,
    handovers: mpsc::UnboundedReceiver<Handover>,
    announce: oneshot::Sender<Announcement>,
    stop: oneshot::Receiver<()>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let options = OpenOptions {
        path: arguments.path.clone(),
        size_bytes: arguments.size.map(|size| size.0),
        read_only: arguments.read_only,
    };
    let backend = disk::choose_backend(arguments.disk_backend)?;
    let file = DiskFile::open(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread's runtime")?;
    runtime.block_on(control(&arguments, file, backend))
}

/// The control thread.
async fn control(arguments: &Arguments, file: DiskFile, backend: Backend) -> Result<()> {
    // Before anything can be in flight: a signal always drains.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;

    let size = ByteSize(file.size_bytes());
    let mut listeners = Vec::new();
    let mut places = Vec::new();
    if let Some(path) = &arguments.socket {
        listeners.push(Listener::unix(path)?);
        places.push(path.display().to_string());
    }
    if let Some(address) = arguments.tcp {
        let listener = Listener::tcp(address)?;
        places.push(listener.tcp_address().unwrap_or(address).to_string());
        listeners.push(listener);
    }

    let limits = Limits::default();
    let directory = Directory::default();
    let (door, handovers) = Door::new(directory.clone(), limits.clone());
    let (announce, announced) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let options =
        DeviceOptions { description: arguments.description.clone(), rotational: arguments.rotational };
    let data = DataSide { file, backend, options, limits, handovers, announce, stop: stopped };
    let (thread, mut ended) = start_data_thread(data)?;

    let Ok(Announcement { features, state }) = announced.await else {
        // It ended before it served, and knows why.
        return join(thread);
    };
    directory.publish(&arguments.export, Export { features, state, hold: Duration::ZERO });
    let doors: Vec<_> =
        listeners.into_iter().map(|listener| tokio::spawn(Arc::clone(&door).run(listener))).collect();
    let line = format!("serving {} ({size}) on {}", arguments.export, places.join(" and "));
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::warn!(%error, "nobody reads standard output: {line}");
    }

    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = &mut ended => return join(thread).and(Err(anyhow!("the data thread ended by itself"))),
    };
    tracing::info!(signal, "stopping: no new clients, what is in flight is answered");
    let drained = async {
        door.stop();
        for door in doors {
            // The listener, and the socket's file, go with it.
            door.await.context("the accepting task failed")?;
        }
        // If it is gone already, joining tells why.
        let _ = stop.send(());
        // Joining blocks, so wait without blocking first: handshakes that are told goodbye need this thread.
        let _ = ended.await;
        anyhow::Ok(())
    };
    match tokio::time::timeout(STOP_TIME, drained).await {
        Ok(drained) => drained?,
        // The data thread waits for the kernel. Nobody waits for the thread: it ends with the process.
        Err(_) => {
            return Err(anyhow!(
                "{}: the disk has not finished within {} s of {signal}: what clients wrote since their last FLUSH \
                 may be lost; look at the disk and the kernel's log (dmesg)",
                arguments.path.display(),
                STOP_TIME.as_secs()
            ));
        }
    }
    join(thread)?;
    tracing::info!("everything is stable; ended");
    Ok(())
}

/// Starts the data thread. The receiver gets an error when the thread ends, for whatever reason.
fn start_data_thread(data: DataSide) -> Result<(JoinHandle<Result<()>>, oneshot::Receiver<()>)> {
    let (alive, ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new()
        .name("data".into())
        .spawn(move || {
            let _alive = alive;
            match data.backend {
                Backend::IoUring => tokio_uring::builder().entries(RUNTIME_RING_ENTRIES).start(data.serve()),
                Backend::Threads => {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    LocalSet::new().block_on(&runtime, data.serve())
                }
            }
        })
        .context("cannot start the data thread")?;
    Ok((thread, ended))
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("the data thread panicked"))?
}

impl DataSide {
    /// The data thread: owns the device and every established connection, until it is told to stop.
    async fn serve(mut self) -> Result<()> {
        let path = self.file.path().display().to_string();
        let hall = Hall::new(self.limits.clone());
        let disk = disk::open(self.file, self.backend)?;
        let device = Rc::new(FileDevice::start(disk, self.limits.read_memory_bytes(), self.options));
        let announcement = Announcement { features: Arc::new(device.features()), state: device.state() };
        if self.announce.send(announcement).is_err() {
            // The control thread has failed, and reports it.
            return Ok(());
        }
        loop {
            tokio::select! {
                biased;
                _ = &mut self.stop => break,
                handover = self.handovers.recv() => match handover {
                    Some(handover) => {
                        let device = Rc::clone(&device);
                        tokio::task::spawn_local(Rc::clone(&hall).serve(handover, device));
                    }
                    None => break,
                },
            }
        }
        device.refuse(STOPPING);
        hall.close(STOPPING);
        hall.emptied().await;
        device.drain().await.with_context(|| {
            format!("{path}: the last sync failed: what clients wrote since their last FLUSH may be lost")
        })
    }
}
