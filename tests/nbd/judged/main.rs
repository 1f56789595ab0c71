//! `evenkeel serve` before the judge: many overlapping requests, and SIGKILL in the midst of them. What was answered
//! is there afterwards, because only the process died. (It also shows that load and judge work on a real server.)

use anyhow::{Result, ensure};
use evenkeel_tests::{
    judge::{Clock, Fault, History, Permits, Promise, convergence::snapshot, judge},
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
