//! Rounds of faults under load, on each protocol: both sides killed, stopped and cut off again and again, and the judge
//! at the end of each round.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Links, Trial, VolumeSpec},
    judge::{Permits, Promise},
    load::LoadOptions,
    raw::pattern::Numbers,
    scale::scaled,
};

/// Acknowledged writes of a round, at least.
const WRITES: u64 = 10_000;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// kill -9 of the primary; it starts again and resumes by itself (P7).
    KillPrimary,
    /// kill -9 of the primary; the other is promoted by force; the old one comes back as its secondary.
    KillPrimaryForGood,
    /// kill -9 of the secondary; it starts again once the primary goes on alone.
    KillSecondary,
    /// kill -9 of the secondary; it starts again at once.
    RestartSecondary,
    /// SIGSTOP of the secondary until the primary drops it, then SIGCONT.
    StopSecondary,
    /// SIGSTOP of the primary, promotion of the other by force, then SIGCONT.
    StopPrimary,
    /// The cable of the secondary is cut until the primary drops it, then mended.
    Cut,
}

/// How often each comes in a round.
const ROUND: [(Action, usize); 7] = [
    (Action::KillPrimary, 12),
    (Action::KillPrimaryForGood, 8),
    (Action::KillSecondary, 10),
    (Action::RestartSecondary, 10),
    (Action::StopSecondary, 3),
    (Action::StopPrimary, 2),
    (Action::Cut, 5),
];

impl Action {
    const fn permits(self) -> Permits {
        match self {
            Self::KillPrimary | Self::KillPrimaryForGood | Self::StopPrimary => Permits::Disconnect,
            Self::KillSecondary | Self::RestartSecondary | Self::StopSecondary | Self::Cut => Permits::Delay,
        }
    }

    fn run(self, cluster: &Cluster, trial: &mut Trial<'_>, protocol: char) -> Result<()> {
        // On A the replica may lack what status shows as lag; it is a state that the volume had.
        let promise = if protocol == 'A' { Promise::Cut { lag: 64 << 20 } } else { Promise::Answered };
        let (primary, secondary) = (trial.primary_index(), trial.secondary_index());
        match self {
            Self::KillPrimary => {
                trial.primary().kill()?;
                trial.primary().start()?;
                trial.load.wait_for_writes(1)?;
            }
            Self::KillPrimaryForGood => {
                trial.primary().kill()?;
                trial.promote_by_force(secondary, promise)?;
                cluster.nodes[primary].start()?;
            }
            Self::KillSecondary => {
                trial.secondary().kill()?;
                trial.load.wait_for_writes(20)?;
                trial.secondary().start()?;
            }
            Self::RestartSecondary => {
                trial.secondary().kill()?;
                trial.secondary().start()?;
                trial.load.wait_for_writes(20)?;
            }
            Self::StopSecondary => {
                trial.secondary().pause()?;
                trial.wait_until_lost(secondary)?;
                trial.load.wait_for_writes(20)?;
                trial.secondary().resume()?;
            }
            Self::StopPrimary => {
                let node = trial.primary().name();
                trial.primary().pause()?;
                // Shorter than that, it would not know that it stood still (P8).
                trial.secondary().wait_for("r0", &format!("{node} is lost"), |status| {
                    status.peer(node).connection != "connected" || status.peer(node).replication == "off"
                })?;
                trial.promote_by_force(secondary, promise)?;
                cluster.nodes[primary].resume()?;
            }
            Self::Cut => {
                let network = cluster.network.as_ref().context("there are namespaces")?;
                network.cut(secondary)?;
                trial.wait_until_lost(secondary)?;
                trial.load.wait_for_writes(50)?;
                trial.read_image(secondary, Promise::Older)?;
                network.mend(secondary)?;
            }
        }
        trial.wait_synced()
    }
}

fn round(protocol: char, seed: u64) -> Result<()> {
    let volume =
        VolumeSpec { protocol, lines: vec!["peer_timeout = \"2s\"".to_owned()], ..VolumeSpec::default() };
    let options =
        ClusterOptions { volumes: vec![volume], links: Links::Namespaces, ..ClusterOptions::default() };
    let mut actions: Vec<Action> =
        ROUND.iter().flat_map(|&(action, count)| std::iter::repeat_n(action, count)).collect();
    let mut numbers = Numbers::new(seed);
    for last in (1..actions.len()).rev() {
        let other = usize::try_from(numbers.below(last as u64 + 1))?;
        actions.swap(last, other);
    }
    Cluster::run(options, |cluster| {
        // A little air between answers: the faults are to be met by the load, not by a machine that is full.
        let load = LoadOptions { seed, pause: Duration::from_millis(1), ..LoadOptions::default() };
        let mut trial = Trial::start(cluster, load)?;
        for &action in &actions {
            trial.load.wait_for_writes(50)?;
            let node = trial.primary().name();
            let what = format!("{action:?} while {node} is primary");
            trial.fault(&what, action.permits(), |trial| action.run(cluster, trial, protocol))?;
        }
        let missing = WRITES.saturating_sub(trial.load.acknowledged());
        trial.load.wait_for_writes(missing)?;
        let history = trial.finish()?;
        ensure!(history.acknowledged_writes() as u64 >= WRITES, "{}", history.summary());
        let met = history.faults.iter().filter(|fault| history.in_flight_at(fault.from) > 0).count();
        ensure!(met * 2 > history.faults.len(), "only {met} faults met a request in flight");
        Ok(())
    })
    .with_context(|| format!("protocol {protocol}, seed {seed}"))
}

fn rounds(protocol: char) -> Result<()> {
    let count = |wanted: &[Action]| -> usize {
        ROUND.iter().filter(|(action, _)| wanted.contains(action)).map(|(_, count)| count).sum()
    };
    assert!(count(&[Action::KillPrimary, Action::KillPrimaryForGood]) >= 20, "kills of the primary");
    assert!(count(&[Action::KillSecondary, Action::RestartSecondary]) >= 20, "kills of the secondary");
    assert!(count(&[Action::StopPrimary, Action::StopSecondary]) >= 5, "stops");
    assert!(count(&[Action::Cut]) >= 5, "cuts");
    (1..=scaled(1)).try_for_each(|seed| round(protocol, seed))
}

#[test]
fn protocol_a_keeps_its_promises() -> Result<()> {
    rounds('A')
}

#[test]
fn protocol_b_keeps_its_promises() -> Result<()> {
    rounds('B')
}

#[test]
fn protocol_c_keeps_its_promises() -> Result<()> {
    rounds('C')
}
