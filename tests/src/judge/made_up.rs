//! The judge is judged: good histories pass, and each rule, broken once, is named.

use std::collections::BTreeMap;

use super::{
    End, Fault, History, Kind, Moment, Operation, Permits, Promise, Rule, Snapshot, Value, Violation,
    WriteId, judge,
};

/// One client a digit of ten, so that names are easy to read: write 23 is client 2, number 3.
fn id(name: u32) -> WriteId {
    WriteId { client: name / 10, number: name % 10 }
}

fn v(name: u32) -> Value {
    Value::Written(id(name))
}

fn operation(name: u32, kind: Kind, sectors: (u64, u32), times: (u64, u64)) -> Operation {
    Operation {
        id: id(name),
        kind,
        first: sectors.0,
        count: sectors.1,
        submitted: Moment(times.0),
        end: End::Answered { at: Moment(times.1), errno: 0 },
    }
}

/// A write to one sector.
fn write(name: u32, sector: u64, times: (u64, u64)) -> Operation {
    operation(name, Kind::Write { fua: false }, (sector, 1), times)
}

fn zero(name: u32, sector: u64, times: (u64, u64)) -> Operation {
    operation(name, Kind::Zero { fua: false }, (sector, 1), times)
}

/// A read of one sector.
fn read(sector: u64, value: Value, times: (u64, u64)) -> Operation {
    operation(90, Kind::Read(vec![value]), (sector, 1), times)
}

fn flush(times: (u64, u64)) -> Operation {
    operation(91, Kind::Flush, (0, 0), times)
}

/// The same request, but its connection ended before the answer; served again at `settled`.
fn lost(mut operation: Operation, settled: u64) -> Operation {
    operation.end = End::Lost { at: operation.settled(), settled: Moment(settled) };
    operation
}

fn image(node: &str, promise: Promise, times: (u64, u64), sectors: &[(u64, Value)]) -> Snapshot {
    let (from, until) = (Moment(times.0), Moment(times.1));
    let sectors: BTreeMap<u64, Value> = sectors.iter().cloned().collect();
    Snapshot { node: node.to_owned(), promise, from, until, sectors }
}

fn kill(from: u64, until: u64) -> Fault {
    let what = "kill -9 of the primary".to_owned();
    Fault { what, permits: Permits::Disconnect, from: Moment(from), until: Moment(until) }
}

#[derive(Default)]
struct Run(History);

impl Run {
    fn of(operations: Vec<Operation>) -> Self {
        Self(History { volume: 1, operations, ..History::default() })
    }

    fn fault(mut self, fault: Fault) -> Self {
        self.0.faults.push(fault);
        self
    }

    fn image(mut self, image: Snapshot) -> Self {
        self.0.snapshots.push(image);
        self
    }

    /// It must pass.
    fn passes(self) {
        if let Err(error) = judge(&self.0).check() {
            panic!("a good run was accused:\n{error:#}");
        }
    }

    /// It must be found to break this rule and no other.
    fn breaks(self, rule: Rule) -> Vec<Violation> {
        let verdict = judge(&self.0);
        let rules: Vec<Rule> = verdict.violations.iter().map(|violation| violation.rule).collect();
        assert!(!rules.is_empty(), "nothing was found, {rule} was due");
        assert!(rules.iter().all(|found| *found == rule), "{rule} was due: {verdict}");
        verdict.violations
    }
}

#[test]
fn a_plain_run_passes() {
    Run::of(vec![
        read(0, Value::Zero, (1, 2)),
        write(11, 0, (3, 6)),
        read(0, v(11), (7, 8)),
        flush((9, 10)),
        write(12, 0, (11, 12)),
        zero(13, 0, (13, 14)),
        read(0, Value::Zero, (15, 16)),
        write(21, 1, (3, 20)),
    ])
    .image(image("alpha", Promise::Answered, (30, 31), &[(1, v(21))]))
    .image(image("beta", Promise::Answered, (32, 33), &[(1, v(21))]))
    .passes();
}

#[test]
fn overlapping_requests_may_take_effect_in_any_order() {
    for winner in [11, 21] {
        Run::of(vec![
            write(11, 0, (1, 10)),
            write(21, 0, (2, 9)),
            read(0, Value::Zero, (3, 5)),
            read(0, v(winner), (6, 8)),
        ])
        .image(image("alpha", Promise::Answered, (20, 21), &[(0, v(winner))]))
        .passes();
    }
    // A read that overlaps a write sees it or does not; one within the other write's time too.
    Run::of(vec![
        write(11, 0, (1, 10)),
        write(21, 0, (2, 9)),
        read(0, v(11), (3, 4)),
        read(0, v(21), (5, 6)),
    ])
    .image(image("alpha", Promise::Answered, (20, 21), &[(0, v(21))]))
    .passes();
}

#[test]
fn o1_a_stale_read_is_found() {
    let found = Run::of(vec![write(11, 0, (1, 2)), write(12, 0, (3, 4)), read(0, v(11), (5, 6))])
        .breaks(Rule::Register);
    assert!(found[0].text.contains("write 1.2") && found[0].text.contains("write 1.1"), "{}", found[0].text);
    Run::of(vec![write(11, 0, (1, 2)), read(0, Value::Zero, (5, 6))]).breaks(Rule::Register);
    Run::of(vec![write(11, 0, (1, 2)), zero(12, 0, (3, 4)), read(0, v(11), (5, 6))]).breaks(Rule::Register);
}

#[test]
fn o1_reads_that_contradict_each_other_are_found() {
    // Both writes overlap all reads, so no read is stale by itself.
    Run::of(vec![
        write(11, 0, (1, 20)),
        write(21, 0, (1, 20)),
        read(0, v(11), (3, 4)),
        read(0, v(21), (5, 6)),
        read(0, v(11), (7, 8)),
    ])
    .breaks(Rule::Register);
}

#[test]
fn o1_nodes_that_chose_another_order_are_found() {
    Run::of(vec![write(11, 0, (1, 10)), write(21, 0, (1, 10))])
        .image(image("alpha", Promise::Answered, (20, 21), &[(0, v(11))]))
        .image(image("beta", Promise::Answered, (22, 23), &[(0, v(21))]))
        .image(image("alpha", Promise::Answered, (24, 25), &[(0, v(11))]))
        .breaks(Rule::Register);
}

#[test]
fn o2_an_acknowledged_write_that_a_crash_lost_is_found() {
    Run::of(vec![write(11, 0, (1, 2)), write(12, 0, (3, 4)), read(0, v(11), (20, 21))])
        .fault(kill(8, 12))
        .breaks(Rule::Floor);
    Run::of(vec![write(11, 0, (1, 2))])
        .fault(kill(8, 12))
        .image(image("beta", Promise::Answered, (20, 21), &[]))
        .breaks(Rule::Floor);
}

#[test]
fn a_write_without_an_answer_may_be_there_or_not() {
    for there in [v(11), v(12)] {
        Run::of(vec![write(11, 0, (1, 2)), lost(write(12, 0, (7, 9)), 13), read(0, there, (20, 21))])
            .fault(kill(8, 12))
            .passes();
    }
}

#[test]
fn o4_a_write_that_takes_effect_after_its_client_came_back_is_found() {
    // Served again at 13; what is written then must stay.
    Run::of(vec![lost(write(11, 0, (7, 9)), 13), write(12, 0, (14, 15)), read(0, v(11), (20, 21))])
        .fault(kill(8, 12))
        .breaks(Rule::Register);
}

#[test]
fn o4_a_read_that_a_failover_takes_back_is_found() {
    Run::of(vec![
        write(11, 0, (1, 2)),
        lost(write(12, 0, (3, 9)), 13),
        read(0, v(12), (5, 6)),
        read(0, v(11), (20, 21)),
    ])
    .fault(kill(8, 12))
    .breaks(Rule::Stability);
}

#[test]
fn o4_what_was_lost_does_not_come_back() {
    Run::of(vec![write(11, 0, (1, 2)), lost(write(12, 0, (3, 9)), 25), read(0, v(12), (30, 31))])
        .fault(kill(8, 24))
        .image(image("beta", Promise::Cut { lag: 0 }, (20, 21), &[(0, v(11))]))
        .breaks(Rule::Stability);
}

#[test]
fn o2_what_was_flushed_is_there_after_a_power_loss() {
    let run = |kept: &[(u64, Value)]| {
        Run::of(vec![write(11, 0, (1, 2)), flush((3, 4)), write(12, 0, (5, 6)), write(21, 1, (5, 6))])
            .image(image("alpha", Promise::Flushed, (20, 21), kept))
    };
    run(&[(0, v(11))]).passes();
    run(&[(0, v(12))]).passes();
    run(&[(0, v(11)), (1, v(21))]).passes();
    run(&[(1, v(21))]).breaks(Rule::Floor);
    run(&[]).breaks(Rule::Floor);
}

#[test]
fn o2_a_write_with_fua_is_its_own_flush() {
    let fua = operation(11, Kind::Write { fua: true }, (0, 1), (1, 2));
    Run::of(vec![fua, write(21, 1, (1, 2))])
        .image(image("alpha", Promise::Flushed, (20, 21), &[]))
        .breaks(Rule::Floor);
}

#[test]
fn o2_a_flush_covers_only_what_was_answered_before_it() {
    Run::of(vec![write(11, 0, (1, 5)), flush((3, 7))])
        .image(image("alpha", Promise::Flushed, (20, 21), &[]))
        .passes();
}

#[test]
fn o3_a_copy_left_behind_is_a_cut() {
    let run = |kept: &[(u64, Value)]| {
        Run::of(vec![write(11, 0, (1, 2)), flush((3, 4)), write(12, 1, (5, 6)), write(13, 2, (7, 8))])
            .image(image("beta", Promise::Older, (20, 21), kept))
    };
    run(&[]).passes();
    run(&[(0, v(11))]).passes();
    // Without a flush between them, the later may be there without the earlier.
    run(&[(0, v(11)), (2, v(13))]).passes();
    run(&[(1, v(12))]).breaks(Rule::Order);
}

#[test]
fn o3_on_protocol_a_a_cut_has_all_that_was_answered_before() {
    let run = |kept: &[(u64, Value)], lag| {
        Run::of(vec![write(11, 0, (1, 2)), write(12, 1, (3, 4)), write(21, 2, (3, 4))]).image(image(
            "beta",
            Promise::Cut { lag },
            (20, 21),
            kept,
        ))
    };
    run(&[(0, v(11)), (2, v(21))], 512).passes();
    run(&[(1, v(12)), (2, v(21))], 4096).breaks(Rule::Order);
    run(&[], 3 * 512).passes();
    // More was lost than the lag allows.
    run(&[(0, v(11))], 1000).breaks(Rule::Floor);
}

#[test]
fn a_recovered_volume_goes_on_from_what_was_found() {
    let run = |value| {
        Run::of(vec![
            write(11, 0, (1, 2)),
            write(12, 0, (3, 4)),
            read(0, value, (30, 31)),
            write(13, 0, (32, 33)),
            read(0, v(13), (34, 35)),
        ])
        .image(image("beta", Promise::Cut { lag: 512 }, (20, 21), &[(0, v(11))]))
        .image(image("beta", Promise::Answered, (40, 41), &[(0, v(13))]))
    };
    run(v(11)).passes();
    run(v(12)).breaks(Rule::Stability);
    run(Value::Zero).breaks(Rule::NoLie);
}

#[test]
fn an_answer_from_a_primary_that_was_replaced_is_found() {
    Run::of(vec![write(11, 0, (10, 30))])
        .image(image("beta", Promise::Cut { lag: 512 }, (20, 21), &[]))
        .breaks(Rule::Floor);
}

#[test]
fn o4_an_unanswered_write_on_one_node_only_is_found() {
    let run = |one: &[(u64, Value)], other: &[(u64, Value)]| {
        Run::of(vec![lost(write(11, 0, (7, 9)), 13)])
            .fault(kill(8, 12))
            .image(image("alpha", Promise::Answered, (20, 21), one))
            .image(image("beta", Promise::Answered, (22, 23), other))
    };
    run(&[(0, v(11))], &[]).breaks(Rule::Stability);
    run(&[], &[(0, v(11))]).breaks(Rule::Stability);
    run(&[(0, v(11))], &[(0, v(11))]).passes();
    run(&[], &[]).passes();
}

#[test]
fn o8_lies_are_found() {
    let wrong = Value::Wrong("write 1.1 up to byte 100, then something else".into());
    Run::of(vec![read(0, wrong.clone(), (1, 2))]).breaks(Rule::NoLie);
    Run::of(vec![read(0, v(11), (1, 2))]).breaks(Rule::NoLie);
    Run::of(vec![read(0, v(11), (1, 2)), write(11, 0, (3, 4))]).breaks(Rule::NoLie);
    Run::of(vec![write(11, 1, (1, 2)), read(0, v(11), (3, 4))]).breaks(Rule::NoLie);
    Run::of(vec![])
        .image(image("alpha", Promise::Answered, (1, 2), &[(0, wrong.clone())]))
        .breaks(Rule::NoLie);
    Run::of(vec![]).image(image("alpha", Promise::Older, (1, 2), &[(0, wrong)])).breaks(Rule::NoLie);
}

#[test]
fn errors_and_lost_connections_need_a_cause() {
    let failed = || {
        let mut operation = write(11, 0, (7, 9));
        operation.end = End::Answered { at: Moment(9), errno: 5 };
        operation
    };
    Run::of(vec![failed()]).breaks(Rule::Answers);
    // A fault that permits only a lost connection does not explain an error.
    Run::of(vec![failed()]).fault(kill(8, 12)).breaks(Rule::Answers);
    Run::of(vec![failed()]).fault(Fault { permits: Permits::Errors, ..kill(8, 12) }).passes();
    // Nor does one that begins later.
    Run::of(vec![lost(write(11, 0, (1, 2)), 3)]).fault(kill(8, 12)).breaks(Rule::Answers);
    Run::of(vec![lost(write(11, 0, (7, 9)), 13)]).fault(kill(8, 12)).passes();
    let delay = Fault { permits: Permits::Delay, ..kill(8, 12) };
    Run::of(vec![lost(write(11, 0, (7, 9)), 13)]).fault(delay).breaks(Rule::Answers);
}

#[test]
fn what_could_differ_is_counted_outward() {
    let history = Run::of(vec![
        write(11, 7, (1, 2)),
        flush((3, 4)),
        operation(12, Kind::Write { fua: false }, (7, 2), (5, 6)),
        write(13, 9, (5, 7)),
    ])
    .0;
    let since = history.last_flush_before(Moment(10));
    assert_eq!(since, Moment(3));
    // Sectors 7 to 9 lie in two blocks of 4 KiB, and in one extent.
    assert_eq!(history.touched_bytes(since, 4096), 8192);
    assert_eq!(history.touched_bytes(since, 4 << 20), 4 << 20);
    assert_eq!(history.touched_bytes(Moment(8), 4096), 0);
    assert_eq!(history.in_flight_at(Moment(6)), 1);
}

#[test]
fn a_report_tells_the_history_of_the_sector() {
    let run = Run::of(vec![write(11, 0, (1, 2)), write(12, 0, (3, 4)), read(0, v(11), (20, 21))])
        .fault(kill(8, 12));
    let text = judge(&run.0).check().expect_err("broken").to_string();
    for part in [
        "1 of O2",
        "sector 0",
        "write 1.2 was answered before",
        "WRITE 1.1",
        "FAULT kill -9",
        "READ",
        "-> write 1.1",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}
