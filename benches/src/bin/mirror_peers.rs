//! The mirrored write path side by side: our daemons on protocols A, B and C, qemu's quorum over NBD, and
//! `evenkeel serve` without a replica; in memory and on a disk, with one write and with 32 in flight.
//!
//! All systems stay up; rounds are interleaved and another system begins in each. What is printed are medians: a table
//! for people or, with `--json`, one JSON line.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser;
use evenkeel_benches::{
    load::{Extent, Job},
    machine::Machine,
    mirror::{System, Systems, qemu_version},
    mirror_table::{Row, Sample, render},
};

const BLOCK_BYTES: usize = 4 << 10;
const DEPTHS: [usize; 2] = [1, 32];
/// Before each measurement: what is only slow at first is not what is asked for.
const WARM_UP: Duration = Duration::from_millis(300);

/// Compares replicated block devices on this machine.
#[derive(Debug, Parser)]
struct Options {
    /// Times that every measurement is repeated; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Length of one measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Size of each image in MiB; there are nine for each storage.
    #[arg(long, default_value_t = 256)]
    size_mib: u64,
    /// A folder in memory.
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// A folder on the disk that is measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    disk: PathBuf,
    /// The binary to measure (default: beside this program).
    #[arg(long)]
    evenkeel: Option<PathBuf>,
    /// Only systems whose name contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0 && options.seconds > 0.0, "--rounds and --seconds must be positive");
    let evenkeel = match options.evenkeel.clone() {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("evenkeel"),
    };
    ensure!(evenkeel.is_file(), "{} is missing: cargo build --release -p evenkeel", evenkeel.display());
    let qemu = qemu_version()?;
    let mut storages = Vec::new();
    let mut machines = Vec::new();
    for (storage, folder) in [("memory", &options.memory), ("disk", &options.disk)] {
        machines.push(Machine::look(folder));
        let folder = tempfile::Builder::new().prefix("evenkeel-mirror-").tempdir_in(folder)?;
        let systems = Systems::start(&evenkeel, folder.path(), options.size_mib)?;
        storages.push((storage, systems, folder));
    }
    let systems: Vec<_> =
        System::ALL.into_iter().filter(|system| system.name().contains(&options.only)).collect();
    ensure!(!systems.is_empty(), "no system's name contains '{}'", options.only);

    let time = Duration::from_secs_f64(options.seconds);
    let mut samples: BTreeMap<(usize, usize, usize), Vec<Sample>> = BTreeMap::new();
    for round in 0..options.rounds {
        for (place, (storage, running, _)) in storages.iter().enumerate() {
            for depth in DEPTHS {
                for turn in 0..systems.len() {
                    // Another system begins in every round: what the disk still does for the one before is shared.
                    let turn = (turn + round) % systems.len();
                    let sample = measure(running, systems[turn], depth, time)?;
                    samples.entry((place, depth, turn)).or_default().push(sample);
                    eprintln!(
                        "round {}: {storage}, depth {depth}, {}: {:.0} IOPS, p50 {:.0} us",
                        round + 1,
                        systems[turn].name(),
                        sample.iops,
                        sample.p50_us,
                    );
                }
            }
        }
    }
    let rows: Vec<Row> = samples
        .iter()
        .map(|(&(place, depth, turn), samples)| {
            Row::new(storages[place].0, depth, systems[turn].name(), samples)
        })
        .collect();
    let load_after = load_average();
    if options.json {
        let (rounds, seconds) = (options.rounds, options.seconds);
        let result = serde_json::json!({ "bench": "mirror_peers", "rounds": rounds, "seconds": seconds,
            "image_mib": options.size_mib, "qemu": qemu, "machines": machines, "load_after": load_after,
            "rows": rows });
        println!("{result}");
    } else {
        println!("machine: {:?}", machines[1]);
        println!("load average after: {load_after}; memory: {}; {qemu}", machines[0].file_system);
        println!(
            "random writes of {BLOCK_BYTES} bytes, {} rounds of {} s, images of {} MiB, medians\n\n{}",
            options.rounds,
            options.seconds,
            options.size_mib,
            render(&rows)
        );
    }
    storages.into_iter().try_for_each(|(_, systems, _folder)| systems.stop())
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn measure(systems: &Systems, system: System, depth: usize, time: Duration) -> Result<Sample> {
    let mut generator = systems.connect(system)?;
    let job = |time| Job { block_bytes: BLOCK_BYTES, depth, extent: Extent::RandomFor(time) };
    generator.run(&job(WARM_UP))?;
    let before = systems.cpu_times(system)?;
    let outcome = generator.run(&job(time))?;
    let after = systems.cpu_times(system)?;
    let operations = f64::from(outcome.operations);
    let for_one = |used: Duration| used.as_secs_f64() * 1e6 / operations;
    Ok(Sample {
        iops: operations / outcome.elapsed.as_secs_f64(),
        p50_us: outcome.p50_us,
        p99_us: outcome.p99_us,
        primary_us: for_one(after.0.saturating_sub(before.0)),
        secondary_us: after.1.zip(before.1).map(|(after, before)| for_one(after.saturating_sub(before))),
        generator_us: for_one(outcome.own_cpu),
    })
}
