//! How long things take, and what an idle daemon costs: the figures of design section 2 and 6 that people plan with,
//! as assertions. Each test prints what it measured. One test at a time: they would disturb each other.

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Links, Node, Trial, VolumeSpec},
    judge::{Moment, Permits},
    load::{LoadOptions, Mix},
    raw::{Handshake, Transmission},
    tools::wait_until,
};

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn one_volume(size: &str, lines: &[&str], links: Links) -> ClusterOptions {
    let lines = lines.iter().map(|&line| line.to_owned()).collect();
    let volume = VolumeSpec { size: size.to_owned(), lines, ..VolumeSpec::default() };
    ClusterOptions { volumes: vec![volume], links, ..ClusterOptions::default() }
}

/// Connects as soon as the volume is served, writes a block and waits for the answer.
fn first_write(node: &Node) -> Result<()> {
    let mut connection: Option<Transmission> = None;
    wait_until("the volume is served", Duration::from_secs(30), || {
        connection = Handshake::open(&node.nbd()).and_then(|handshake| handshake.go("r0")).ok();
        connection.is_some()
    })?;
    let mut connection = connection.context("connected")?;
    connection.write(4096, &[7; 4096])?;
    connection.disconnect()
}

fn at_most(what: &str, took: Duration, limit: Duration) -> Result<()> {
    println!("{what}: {:.3} s of at most {:.3} s", took.as_secs_f64(), limit.as_secs_f64());
    ensure!(took <= limit, "{what} took {took:?}, at most {limit:?} is promised");
    Ok(())
}

#[test]
fn a_killed_primary_serves_again_within_two_seconds() -> Result<()> {
    let _turn = alone();
    Cluster::run(one_volume("100GiB", &[], Links::Loopback), |cluster| {
        let places = (0..100).map(|gib| gib << 21).map(|first| first..first + 256).collect();
        let trial = Trial::start(cluster, LoadOptions { places, ..LoadOptions::default() })?;
        trial.load.wait_for_writes(2000)?;
        trial.primary().kill()?;
        let start = Instant::now();
        trial.primary().launch()?;
        first_write(trial.primary())?;
        at_most("restart to serving, 100 GiB", start.elapsed(), Duration::from_secs(2))
    })
}

#[test]
fn a_promotion_takes_half_a_second() -> Result<()> {
    let _turn = alone();
    Cluster::run(one_volume("1GiB", &[], Links::Loopback), |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        first_write(alpha)?;
        alpha.secondary("r0")?;
        let start = Instant::now();
        beta.primary("r0")?;
        first_write(beta)?;
        at_most("promotion with the peer there", start.elapsed(), Duration::from_millis(500))?;

        beta.kill()?;
        let start = Instant::now();
        alpha.force_primary("r0")?;
        first_write(alpha)?;
        // P3: a silent peer counts as absent after 500 ms.
        at_most("promotion after the death of the primary", start.elapsed(), Duration::from_millis(1000))
    })
}

/// The longest that a write took, in seconds, while something happened to the secondary.
fn delay(links: Links, what: &str, act: impl Fn(&Cluster, &Trial<'_>) -> Result<()>) -> Result<Duration> {
    let mut longest = 0.0;
    Cluster::run(one_volume("64MiB", &["peer_timeout = \"3s\""], links), |cluster| {
        let load = LoadOptions { connections: 1, depth: 1, mix: Mix::WRITES, ..LoadOptions::default() };
        let mut trial = Trial::start(cluster, load)?;
        let mut from = Moment::START;
        trial.fault(what, Permits::Delay, |trial| {
            from = trial.clock().now();
            act(cluster, trial)?;
            trial.load.wait_for_writes(100)
        })?;
        let until = trial.clock().now();
        if let Some(network) = &cluster.network {
            network.mend(1)?;
        }
        if trial.secondary().pid().is_err() {
            trial.secondary().start()?;
        }
        let history = trial.finish()?;
        longest = history.longest(from, until);
        Ok(())
    })?;
    Ok(Duration::from_secs_f64(longest))
}

#[test]
fn a_dead_secondary_delays_a_write_by_its_timeout_at_most() -> Result<()> {
    let _turn = alone();
    let (timeout, slack) = (Duration::from_secs(3), Duration::from_secs(1));
    let cut = delay(Links::Namespaces, "the secondary is cut off", |cluster, _| {
        cluster.network.as_ref().context("there are namespaces")?.cut(1)
    })?;
    at_most("write delayed by a secondary that is cut off", cut, timeout + slack)?;
    let killed = delay(Links::Loopback, "the secondary's process dies", |_, trial| trial.secondary().kill())?;
    at_most("write delayed by a secondary whose process died", killed, timeout + slack)?;
    let restarted = delay(Links::Loopback, "the secondary's process dies and starts again", |_, trial| {
        trial.secondary().kill()?;
        trial.secondary().start()
    })?;
    at_most("write delayed by a secondary that restarts", restarted, timeout / 2)
}

/// CPU time so far, also of threads that have ended. Its unit is 10 ms (USER_HZ is 100 on Linux).
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // "pid (name) state …": utime and stime are the 14th and 15th words, and the name may hold spaces.
    let (_, rest) = stat.rsplit_once(')').context("a name in parentheses")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib << 10)
}

#[test]
fn an_idle_daemon_costs_almost_nothing() -> Result<()> {
    let _turn = alone();
    const SECONDS: u32 = 60;
    Cluster::run(one_volume("1TiB", &[], Links::Loopback), |cluster| {
        let alpha = &cluster.nodes[0];
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        first_write(alpha)?;
        let pids = cluster.nodes.iter().map(Node::pid).collect::<Result<Vec<_>>>()?;
        let before = pids.iter().map(|&pid| cpu_time(pid)).collect::<Result<Vec<_>>>()?;
        // Not a wait for something: the time over which is measured.
        thread::sleep(Duration::from_secs(SECONDS.into()));
        for ((node, pid), before) in cluster.nodes.iter().zip(pids).zip(before) {
            let what = format!("CPU time of the idle {} in {SECONDS} s", node.name());
            at_most(&what, cpu_time(pid)? - before, Duration::from_millis(u64::from(SECONDS)))?;
            let bytes = resident(pid)?;
            println!("memory of the idle {}: {} MiB", node.name(), bytes >> 20);
            ensure!(bytes <= 64 << 20, "{} has {bytes} bytes resident", node.name());
        }
        Ok(())
    })
}
