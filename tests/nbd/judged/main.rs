//! `evenkeel serve` before the judge: many overlapping requests, and SIGKILL in the midst of them. What was answered
//! is there afterwards, because only the process died. (It also shows that load and judge work on a real server.)

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{Context, Result, ensure};
use evenkeel_tests::{
    judge::{
        Clock, Fault, History, Kind, Operation, Permits, Promise, Rule, SECTOR, convergence::snapshot, judge,
        tag::content,
    },
    load::{Load, LoadOptions},
    raw::Address,
    scale::scaled,
    serve::{DiskBackend, ServeOptions, Server},
};

const VOLUME: u32 = 1;

#[test]
fn nothing_answered_is_lost_when_the_process_is_killed() -> Result<()> {
    for backend in DiskBackend::BOTH {
        let options = ServeOptions { export: "r0".to_owned(), backend, ..ServeOptions::default() };
        let mut server = Server::start(options)?;
        let clock = Clock::start();
        let load = Load::new(LoadOptions { volume: VOLUME, ..LoadOptions::default() }, clock);
        load.to(Address::Unix(server.socket()));
        let mut faults = Vec::new();
        for _ in 0..scaled(5) {
            load.wait_for_writes(500)?;
            let from = clock.now();
            server.kill()?;
            server.restart()?;
            load.wait_for_writes(1)?;
            let (what, until) = ("kill -9".to_owned(), clock.now());
            faults.push(Fault { what, permits: Permits::Disconnect, from, until });
        }
        load.wait_for_writes(500)?;
        let operations = load.finish()?;
        server.stop()?;
        let image = snapshot("disk", server.image(), VOLUME, Promise::Answered, &clock)?;
        let history = History { volume: VOLUME, operations, faults, snapshots: vec![image] };
        let in_flight = history.faults.iter().map(|fault| history.in_flight_at(fault.from));
        ensure!(in_flight.clone().any(|count| count > 0), "no kill met a request in flight");
        println!("{}: {}", backend.name(), history.summary());
        judge(&history).check()?;
    }
    Ok(())
}

#[test]
fn one_sector_of_an_older_write_is_found() -> Result<()> {
    let mut server = Server::start(ServeOptions { export: "r0".to_owned(), ..ServeOptions::default() })?;
    let clock = Clock::start();
    let load = Load::new(LoadOptions { volume: VOLUME, ..LoadOptions::default() }, clock);
    load.to(Address::Unix(server.socket()));
    load.wait_for_writes(500)?;
    let operations = load.finish()?;
    server.stop()?;
    let mut history = History { volume: VOLUME, operations, ..History::default() };
    judge(&history).check()?;

    let writes = || history.operations.iter().filter(|operation| operation.is_change());
    let (older, newer) = writes()
        .find_map(|older| {
            let covered = |newer: &&_| newer_than(older, newer);
            writes().find(covered).map(|newer| (older.clone(), newer.clone()))
        })
        .context("some sector was written twice, one after the other")?;
    let sector = older.first.max(newer.first);
    let bytes = content(VOLUME, older.id, sector, 1);
    File::options().write(true).open(server.image())?.write_all_at(&bytes, sector * SECTOR as u64)?;
    history.snapshots.push(snapshot("disk", server.image(), VOLUME, Promise::Answered, &clock)?);
    let verdict = judge(&history);
    ensure!(verdict.violations.len() == 1, "one sector was set back: {verdict}");
    ensure!(verdict.violations[0].rule == Rule::Register && verdict.violations[0].sector == Some(sector));
    Ok(())
}

/// Whether the first is a write and the second overwrote the first sector of one of them after it was answered.
fn newer_than(older: &Operation, newer: &Operation) -> bool {
    let overlap = older.first.max(newer.first);
    matches!(older.kind, Kind::Write { .. })
        && newer.succeeded()
        && older.acknowledged().is_some_and(|at| at < newer.submitted)
        && older.sectors().contains(&overlap)
        && newer.sectors().contains(&overlap)
}
