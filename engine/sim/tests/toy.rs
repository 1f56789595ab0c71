//! The simulator judged: a toy engine that keeps its contract passes, and each well-known mistake put into it is
//! found by the oracle within a stated number of seeds.

use evenkeel_sim::{
    Allowed, FaultKind, Plan,
    run::{remember_panics, run},
    shrink::shrink,
    toy::{Bug, Toy},
};

/// Seeds of the toy without a mistake.
const GOOD_SEEDS: u64 = 60;

/// The first of the seeds that breaks a rule, and the rule.
fn first_failure(bug: Option<Bug>, allowed: &Allowed, seeds: u64) -> Option<(u64, &'static str, String)> {
    remember_panics();
    (1..=seeds).find_map(|seed| {
        let outcome = run::<Toy>(&Plan::new(seed, allowed), &bug, 0);
        outcome.failure.map(|(violation, _)| (seed, violation.rule, violation.text))
    })
}

fn found_within(bug: Bug, allowed: &Allowed, seeds: u64, rules: &[&str]) {
    let (seed, rule, text) = first_failure(Some(bug), allowed, seeds)
        .unwrap_or_else(|| panic!("{bug:?} was not found within {seeds} seeds"));
    assert!(rules.contains(&rule), "{bug:?} was found by {rule} (seed {seed}): {text}");
}

fn only(kinds: &[FaultKind]) -> Allowed {
    Allowed { kinds: kinds.to_vec(), eager: true, ..Toy::allowed() }
}

#[test]
fn a_good_engine_breaks_no_rule() {
    let failure = first_failure(None, &Toy::allowed(), GOOD_SEEDS);
    assert_eq!(failure, None);
}

#[test]
fn one_seed_is_one_run() {
    for seed in [3, 17] {
        let plan = Plan::new(seed, &Toy::allowed());
        let first = run::<Toy>(&plan, &None, 0);
        let second = run::<Toy>(&plan, &None, 50);
        assert_eq!(first.trace_hash, second.trace_hash, "a trace changes nothing");
        assert!(!second.trace.is_empty());
        let other = run::<Toy>(&Plan::new(seed + 1, &Toy::allowed()), &None, 0);
        assert_ne!(first.trace_hash, other.trace_hash);
    }
}

#[test]
fn a_write_answered_before_the_peer_has_it_is_found() {
    found_within(Bug::AckBeforePeer, &Toy::allowed(), 40, &["O1", "O2", "O7"]);
}

#[test]
fn an_ignored_flush_is_found() {
    found_within(Bug::FlushIgnored, &Toy::allowed(), 60, &["O2", "O3"]);
}

#[test]
fn an_early_acknowledgement_of_a_secondary_is_found() {
    found_within(Bug::AppliedBeforeWritten, &Toy::allowed(), 60, &["O1", "O7", "O2"]);
}

#[test]
fn a_lost_cache_taken_for_a_kept_one_is_found() {
    let allowed = only(&[FaultKind::PowerLoss, FaultKind::ProcessCrash, FaultKind::Handover]);
    found_within(Bug::PowerLossForgotten, &allowed, 100, &["O1", "O2", "O7"]);
}

#[test]
fn dirty_bits_cleared_too_early_are_found() {
    found_within(Bug::CopyEndsEarly, &Toy::allowed(), 40, &["O1", "O5", "O7"]);
}

#[test]
fn a_split_brain_passed_over_is_found() {
    let allowed = only(&[FaultKind::Partition, FaultKind::ForceBlindly]);
    found_within(Bug::SplitBrainNotFound, &allowed, 100, &["O6"]);
}

#[test]
fn going_on_alone_without_a_new_generation_is_found() {
    found_within(Bug::GenerationAfterAnswer, &Toy::allowed(), 300, &["O1", "O2", "O3", "O7"]);
}

#[test]
fn equal_generations_taken_for_equal_data_are_found() {
    found_within(Bug::EqualGenerationsTrusted, &Toy::allowed(), 60, &["O1", "O2", "O5", "O7"]);
}

#[test]
fn a_failing_seed_becomes_short() {
    remember_panics();
    let (bug, allowed) = (Some(Bug::AckBeforePeer), Toy::allowed());
    let (seed, rule, _) = first_failure(bug, &allowed, 40).expect("found within 40 seeds");
    let plan = Plan::new(seed, &allowed);
    let short = shrink::<Toy>(&plan, &bug, rule, 200);
    assert!(short.plan.faults.len() <= 6, "{:?}", short.plan.faults);
    let outcome = run::<Toy>(&short.plan, &bug, 0);
    assert_eq!(outcome.failure.map(|(violation, _)| violation.rule), Some(rule));
}
