//! `evenkeel daemon`: one node in the foreground.
//!
//! The control thread is this one: configuration, identity, signals, the admin API, and the door for NBD clients. The
//! data thread ([`Node`]) carries the volumes. They share nothing but channels.
//!
//! ```text
//!   starting ──every volume opened or refused──> serving ──SIGTERM, SIGINT──> leaving ──all volumes left──> ended
//!      └── configuration (2), folder or socket in use (4) ──> ended             └──not in time──> ended, code 6
//! ```

mod folder;
mod settings;
mod systemd;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use evenkeel_driver::node::{Node, NodeHandle};
use evenkeel_nbd::{
    limits::Limits,
    server::{Door, Listener},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};

pub(crate) use self::settings::Settings;
use crate::{
    admin::{route::Daemon, server},
    exit::{Ended, Failure},
    options::Options,
    output,
};

/// From the signal to the end; design rule P6 says 10 s.
const STOP_TIME: Duration = Duration::from_secs(9);

/// Runs until a signal ends it.
pub(crate) async fn run(options: &Options) -> Result<()> {
    // Before anything runs: a signal never ends the process half-way.
    let signals = Signals::new()?;
    let settings = Settings::load(options)?;
    let _state = folder::take(&options.state_dir)?;
    folder::make(&options.run_dir)?;
    let admin = listen(&options.admin_socket())?;
    let mut listeners = vec![listen(&options.nbd_socket())?];
    let nbd = settings.nbd;
    listeners.extend(nbd.map(Listener::tcp).transpose()?);
    let node = Node::start(settings.node).await?;
    tracing::info!(
        node = options.node_name(),
        peers_at = %node.address(),
        run_dir = %options.run_dir.display(),
        "started"
    );
    let doors = open_doors(&node, listeners);
    tokio::select! {
        () = node.opened() => {}
        () = node.ended() => return Err(died()),
    }
    let daemon = Arc::new(Daemon { node: node.clone(), options: options.clone(), nbd });
    let serving = tokio::spawn(server::serve(admin, Arc::clone(&daemon)));
    systemd::notify("READY=1");
    output::print(&format!("node {} is ready\n", options.node_name()))?;
    serve(signals, &daemon).await?;
    systemd::notify("STOPPING=1");
    let result = leave(&node, &doors).await;
    serving.abort();
    result
}

fn listen(path: &Path) -> Result<Listener> {
    Ok(Listener::unix(path)?)
}

fn died() -> anyhow::Error {
    Ended::error(Failure::Other, "the data thread ended by itself; the log says why")
}

/// The NBD listeners, and the way from them to the data thread.
struct Doors {
    door: Arc<Door>,
    tasks: Vec<JoinHandle<()>>,
}

fn open_doors(node: &NodeHandle, listeners: Vec<Listener>) -> Doors {
    let (door, mut handovers) = Door::new(node.directory().clone(), Limits::default());
    let mut tasks: Vec<_> =
        listeners.into_iter().map(|listener| tokio::spawn(Arc::clone(&door).run(listener))).collect();
    let node = node.clone();
    tasks.push(tokio::spawn(async move {
        while let Some(handover) = handovers.recv().await {
            node.hand_over(handover);
        }
    }));
    Doors { door, tasks }
}

/// The signals that a daemon knows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let of = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hang_up: of(SignalKind::hangup())?,
        })
    }
}

/// Until a signal says that it is over.
async fn serve(mut signals: Signals, daemon: &Daemon) -> Result<()> {
    loop {
        let signal = tokio::select! {
            _ = signals.terminate.recv() => "SIGTERM",
            _ = signals.interrupt.recv() => "SIGINT",
            _ = signals.hang_up.recv() => {
                match daemon.reload().await {
                    Ok(changed) => tracing::info!(%changed, "configuration read again"),
                    Err(fault) => tracing::error!(%fault, "the changed configuration was refused"),
                }
                continue;
            }
            () = daemon.node.ended() => return Err(died()),
        };
        tracing::info!(signal, "stopping: clients are answered, the peers take over");
        return Ok(());
    }
}

/// Leaves cleanly, within the time that there is.
async fn leave(node: &NodeHandle, doors: &Doors) -> Result<()> {
    doors.door.stop();
    let report = node.shutdown(STOP_TIME).await.map_err(|_| died())?;
    node.ended().await;
    for task in &doors.tasks {
        task.abort();
    }
    if report.unclean.is_empty() {
        tracing::info!("everything is stable; ended");
        return Ok(());
    }
    let reasons: Vec<String> =
        report.unclean.iter().map(|(volume, reason)| format!("volume {volume}: {reason}")).collect();
    Err(Ended::error(Failure::Other, format!("not left cleanly: {}", reasons.join("; "))))
}
