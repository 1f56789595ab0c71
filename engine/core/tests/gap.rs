//! A primary that stood still for a while (P8). Each history was met with real processes.

mod pair;

use std::time::Duration;

use evenkeel_core::volume::{
    Replication, Role,
    config::Protocol,
    io::{ClientOperation, Event, RequestError, RequestOutcome},
    operator::{Force, OperatorAnswer, OperatorCommand},
    span::ByteSpan,
    wire::Frame,
};
use pair::{Held, Pair, Settings, write};

const BLOCK: ByteSpan = ByteSpan { offset: 0, len: 4096 };

/// A primary with a write that both nodes have, and that then stands still.
fn stopped_primary() -> Pair {
    let mut pair = Pair::serving(Settings::default());
    assert_eq!(pair.request(0, write(1)), Ok(RequestOutcome::Done));
    pair.stop(0);
    pair
}

#[test]
fn a_primary_whose_place_was_taken_while_it_stood_still_answers_nothing_and_parts_no_histories() {
    let mut pair = stopped_primary();
    let requests = [write(2), ClientOperation::Read(BLOCK), ClientOperation::Flush];
    let requests = requests.map(|operation| pair.begin_request(0, operation));
    pair.disconnect();
    pair.pass_time();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.request(1, write(3)), Ok(RequestOutcome::Done));
    // It finds its link dead at once; that says nothing about the peer.
    pair.go_on();
    assert!(requests.iter().all(|&request| pair.reply(request).is_none()), "nothing is answered");
    pair.connect();
    pair.pass_time();
    for request in requests {
        assert_eq!(pair.reply(request), Some(Err(RequestError::Shutdown)));
    }
    let status = pair.status(0);
    assert_eq!((status.role, status.peers[0].replication), (Role::Secondary, Replication::Established));
    assert_eq!(pair.data(0), pair.data(1));
    assert_eq!(pair.data(0)[0], 3);
}

#[test]
fn a_primary_whose_peer_does_not_come_back_goes_on_after_the_peers_time() {
    let mut pair = stopped_primary();
    let request = pair.begin_request(0, write(2));
    pair.disconnect();
    pair.pass_time();
    pair.go_on();
    assert_eq!(pair.reply(request), None);
    for _ in 0..2 {
        // Three seconds each; the peer's time is five.
        pair.pass_time();
    }
    assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)));
    assert_eq!(pair.request(0, ClientOperation::Flush), Ok(RequestOutcome::Done));
}

/// Its time from the gap is over before that of the silence on the new link: there is nothing to do at the first.
#[test]
fn a_primary_whose_peer_is_linked_again_and_silent_is_not_woken_without_end() {
    let mut pair = stopped_primary();
    pair.disconnect();
    pair.pass_time();
    pair.go_on();
    pair.pass_time();
    pair.freeze(1);
    pair.connect();
    let request = pair.begin_request(0, write(2));
    pair.pass_time();
    assert_eq!(pair.reply(request), None, "the peer may still be there");
    pair.pass_time();
    assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)), "it is lost");
}

#[test]
fn a_peer_that_still_follows_confirms_with_its_next_word() {
    let mut pair = stopped_primary();
    let request = pair.begin_request(0, write(2));
    let read = pair.begin_request(0, ClientOperation::Read(BLOCK));
    pair.pass_time();
    pair.go_on();
    assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)));
    let Some(Ok(RequestOutcome::Data(data))) = pair.reply(read) else { panic!("it is answered") };
    assert!(data.iter().all(|&byte| byte == 2));
    assert_eq!(pair.status(0).peers[0].replication, Replication::Established);
}

/// The peer is forced to be primary while the primary stands still for `stop`; the link is up all the time.
fn forced_within(stop: Duration, mut meanwhile: impl FnMut(&mut Pair)) -> Pair {
    let mut pair = Pair::new();
    pair.connect();
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    assert_eq!(pair.request(0, write(1)), Ok(RequestOutcome::Done));
    // However long it was idle.
    pair.pass(Duration::from_millis(60_250));
    pair.stop(0);
    let forced = pair.begin_command(1, OperatorCommand::Primary(Force::Yes));
    meanwhile(&mut pair);
    pair.pass(stop);
    assert_eq!(pair.answer(forced), Some(OperatorAnswer::Done), "silence is absence (P3)");
    assert_eq!(pair.request(1, write(3)), Ok(RequestOutcome::Done));
    pair.go_on();
    pair
}

#[test]
fn half_a_second_is_a_gap_wherever_it_falls() {
    for stop in [500, 600, 900, 1_400] {
        let mut requests = Vec::new();
        let mut pair = forced_within(Duration::from_millis(stop), |pair| {
            let operations = [write(2), ClientOperation::Read(BLOCK), ClientOperation::Flush];
            requests = operations.map(|operation| pair.begin_request(0, operation)).to_vec();
        });
        assert!(requests.iter().all(|&request| pair.reply(request).is_none()), "{stop}: nothing is answered");
        pair.connect();
        pair.pass_time();
        for request in requests {
            assert_eq!(pair.reply(request), Some(Err(RequestError::Shutdown)), "{stop}");
        }
        let status = pair.status(0);
        assert_eq!((status.role, status.peers[0].replication), (Role::Secondary, Replication::Established));
        assert_eq!((pair.data(0)[0], pair.data(1)[0]), (3, 3));
    }
}

#[test]
fn an_idle_primary_that_stood_still_parts_no_histories() {
    let mut pair = forced_within(Duration::from_millis(550), |_| {});
    pair.connect();
    pair.pass_time();
    let status = pair.status(0);
    assert_eq!((status.role, status.peers[0].replication), (Role::Secondary, Replication::Established));
}

#[test]
fn idleness_is_no_gap() {
    for idle in (0..1_200).step_by(50) {
        let mut pair = Pair::new();
        pair.connect();
        assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
        pair.pass(Duration::from_millis(5_000 + idle));
        pair.disconnect();
        assert_eq!(pair.request(0, write(1)), Ok(RequestOutcome::Done), "a dead link is a lost peer at once");
    }
}

#[test]
fn a_primary_that_is_always_a_little_late_still_finds_a_dead_peer() {
    let mut pair = Pair::new();
    pair.connect();
    assert_eq!(pair.command(0, OperatorCommand::Primary(Force::No)), OperatorAnswer::Done);
    pair.freeze(1);
    let request = pair.begin_request(0, write(1));
    for _ in 0..30 {
        pair.stop(0);
        pair.pass(Duration::from_millis(600));
        pair.go_on();
    }
    assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)));
}

/// What was read before the gap may be old by the time at which it can be told.
#[test]
fn a_read_under_way_is_not_answered_before_the_peer_has_confirmed() {
    let mut pair = stopped_primary();
    pair.go_on();
    pair.hold(0, Held::Data);
    let read = pair.begin_request(0, ClientOperation::Read(BLOCK));
    pair.stop(0);
    pair.disconnect();
    pair.pass_time();
    assert_eq!(pair.command(1, OperatorCommand::Primary(Force::Yes)), OperatorAnswer::Done);
    assert_eq!(pair.request(1, write(3)), Ok(RequestOutcome::Done));
    pair.go_on();
    pair.release(0, Held::Data);
    assert_eq!(pair.reply(read), None, "it shows what was there before");
    pair.connect();
    pair.pass_time();
    assert_eq!(pair.reply(read), Some(Err(RequestError::Shutdown)));
}

/// Until the peer has spoken nothing is answered: on A not even what needs no peer.
#[test]
fn p8_a_word_from_before_the_gap_confirms_nothing() {
    let mut pair = Pair::serving(Settings { protocol: Protocol::A, ..Settings::default() });
    assert_eq!(pair.request(0, write(1)), Ok(RequestOutcome::Done));
    pair.recorded = Some(Vec::new());
    pair.pass_time();
    let is_pong = |event: &Event| matches!(event, Event::Frame { frame: Frame::Pong(_), .. });
    let recorded = pair.recorded.take().expect("it was begun");
    let old = recorded.into_iter().find(|(to, event)| *to == 0 && is_pong(event)).expect("they ping");
    pair.stop(0);
    pair.pass(Duration::from_secs(1));
    pair.limit_frames(0, 0);
    pair.go_on();
    let request = pair.begin_request(0, write(2));
    pair.limit_frames(0, 1);
    pair.deliver(vec![old]);
    assert_eq!(pair.reply(request), None);
    pair.unlimit_frames();
    assert_eq!(pair.reply(request), Some(Ok(RequestOutcome::Done)));
}
