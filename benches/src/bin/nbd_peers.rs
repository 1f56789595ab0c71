//! Side by side on one disk: `evenkeel serve`, `qemu-nbd` and `nbdkit file`, under the same fio job.
//!
//! The image is written in full beforehand, so that no server meets holes. In every round each server is
//! started afresh for each workload; what is printed are the medians of the rounds: a table for people, and
//! one JSON line.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use evenkeel_benches::{
    fio::{self, WORKLOADS, Workload},
    machine::Machine,
    server::{EXPORT, Peer},
    table::{Row, Sample, render},
};
use rustix::{fs::Mode, fs::OFlags};

/// Compares NBD servers on this machine.
#[derive(Debug, Parser)]
struct Options {
    /// Times that every measurement is repeated; medians are reported.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one measurement.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Size of the image in MiB.
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Where the image is made; the disk that is measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// The binary to measure (default: beside this program).
    #[arg(long)]
    evenkeel: Option<PathBuf>,
    /// Only workloads whose name contains this text.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0 && options.seconds > 0.0, "--rounds and --seconds must be positive");
    let evenkeel = match options.evenkeel.clone() {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("evenkeel"),
    };
    ensure!(evenkeel.is_file(), "{} is missing: cargo build --release -p evenkeel", evenkeel.display());
    let peers = [Peer::Evenkeel(evenkeel), Peer::QemuNbd, Peer::Nbdkit];
    let machine = Machine::look(&options.folder);
    println!("machine: {machine:?}");
    println!(
        "rounds {}, {} s each, image {} MiB, medians",
        options.rounds, options.seconds, options.size_mib
    );
    for peer in &peers {
        println!("{}: {} ({})", peer.name(), peer.version()?, peer.conditions());
    }
    let workloads: Vec<_> =
        WORKLOADS.iter().filter(|workload| workload.name.contains(&options.only)).collect();
    ensure!(!workloads.is_empty(), "no workload's name contains '{}'", options.only);

    let folder = tempfile::Builder::new().prefix("evenkeel-bench-").tempdir_in(&options.folder)?;
    let image = folder.path().join("image");
    write_image(&image, options.size_mib).with_context(|| image.display().to_string())?;
    let time = Duration::from_secs_f64(options.seconds);
    let mut samples: BTreeMap<(usize, usize), Vec<Sample>> = BTreeMap::new();
    for round in 0..options.rounds {
        for (place, workload) in workloads.iter().enumerate() {
            for turn in 0..peers.len() {
                // Another server begins in every round: what the disk still does for the one before is shared.
                let turn = (turn + round) % peers.len();
                let sample = measure(&peers[turn], workload, &image, &folder.path().join("socket"), time)?;
                samples.entry((place, turn)).or_default().push(sample);
                eprintln!(
                    "round {}: {}, {}: {:.0} IOPS, p50 {:.0} us, CPU {:.1} us",
                    round + 1,
                    workload.name,
                    peers[turn].name(),
                    sample.iops,
                    sample.p50_us,
                    sample.cpu_us
                );
            }
        }
    }
    let rows: Vec<Row> = samples
        .iter()
        .map(|(&(place, turn), samples)| Row::new(workloads[place].name, peers[turn].name(), samples))
        .collect();
    println!("\n{}", render(&rows, Peer::QemuNbd.name()));
    println!("{}", serde_json::json!({ "bench": "nbd_peers", "machine": machine, "rows": rows }));
    Ok(())
}

/// Fills the image with data that no server can take for zeroes, and makes it stable.
fn write_image(path: &Path, size_mib: u64) -> Result<()> {
    let file =
        rustix::fs::open(path, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size_mib << 20)?;
    let mut file = fs::File::from(file);
    let block: Vec<u8> =
        (0..1_u32 << 20).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..size_mib {
        file.write_all(&block)?;
    }
    settle(path)
}

/// Lets the disk come to rest and empties the page cache of the image: what one server left there (nbdkit
/// writes through it) would be paid for by the next.
fn settle(image: &Path) -> Result<()> {
    let file = fs::File::open(image)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

fn measure(peer: &Peer, workload: &Workload, image: &Path, socket: &Path, time: Duration) -> Result<Sample> {
    settle(image)?;
    let server = peer.start(image, socket)?;
    let before = server.cpu_time()?;
    let outcome = fio::run(workload, socket, EXPORT, time)
        .with_context(|| format!("{} with {}", workload.name, peer.name()))?;
    let used = server.cpu_time()?.saturating_sub(before);
    server.stop()?;
    if socket.exists() {
        fs::remove_file(socket)?;
    }
    ensure!(outcome.operations > 0, "{}: fio did nothing", peer.name());
    let operations = u32::try_from(outcome.operations)?;
    Ok(Sample {
        iops: outcome.iops,
        p50_us: outcome.p50_us,
        p99_us: outcome.p99_us,
        cpu_us: used.as_secs_f64() * 1e6 / f64::from(operations),
    })
}
