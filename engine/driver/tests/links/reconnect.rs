//! Links break and come back: a process that ends, one that is killed, one that is started again, one that a node
//! or an operator closes, and a wire that carries nothing for a while.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use evenkeel_core::{
    ids::Timestamp,
    volume::{io::Channel, wire::Frame},
};
use evenkeel_driver::{identity::Identity, link::Cause};

use crate::{
    node::{PEER, Pair, Runtime, Setup, VOLUME, assert_ended},
    raw::Raw,
    relay::Relay,
};

/// A node that can be started again with the same identity.
fn lasting(name: &str, state: &Path, listen: &str) -> Setup {
    Setup {
        identity: Identity::load_or_create(&state.join(name)).expect("an identity"),
        listen: listen.parse().expect("an address"),
        ..Setup::new(name)
    }
}

/// Alpha, and a beta that can be started again; alpha calls or is called.
fn pair_that_restarts(alpha_calls: bool) -> (Pair, impl Fn() -> Setup) {
    let folder = tempfile::tempdir().expect("a folder");
    let beta = lasting("beta", folder.path(), "127.0.0.1:0");
    let alpha = loop {
        let alpha = Setup::new("alpha");
        if (alpha.identity.fingerprint() < beta.identity.fingerprint()) == alpha_calls {
            break alpha.start();
        }
    };
    let beta = beta.start();
    let address = beta.address.to_string();
    alpha.meet("beta", beta.fingerprint, beta.address);
    beta.meet("alpha", alpha.fingerprint, alpha.address);
    (Pair::linked(alpha, beta), move || lasting("beta", folder.path(), &address))
}

/// So much less than the 30 s of idle time that something else must have noticed it.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_killed_process_is_noticed_without_waiting_for_silence() {
    for alpha_calls in [true, false] {
        let (mut pair, again) = pair_that_restarts(alpha_calls);
        let killed = Instant::now();
        pair.beta.kill();
        let ending = pair.alpha.down(pair.at_alpha);
        assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
        assert_ended(&ending, Cause::PeerGone, "process");
        let beta = again().start();
        beta.meet("alpha", pair.alpha.fingerprint, pair.alpha.address);
        Pair::linked(pair.alpha, beta).works();
    }
}

#[test]
fn a_process_started_again_at_once_is_linked_again_at_once() {
    for alpha_calls in [true, false] {
        let (mut pair, again) = pair_that_restarts(alpha_calls);
        let (alpha_fingerprint, alpha_address) = (pair.alpha.fingerprint, pair.alpha.address);
        let killed = Instant::now();
        pair.beta.kill();
        let beta = again().start();
        beta.meet("alpha", alpha_fingerprint, alpha_address);
        assert_eq!(pair.alpha.down(pair.at_alpha).cause, Cause::PeerGone);
        let mut pair = Pair::linked(pair.alpha, beta);
        assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
        pair.works();
    }
}

#[test]
fn what_was_sent_before_the_end_arrives_and_the_reason_behind_it() {
    let mut pair = Pair::new([Runtime::Plain, Runtime::Uring]);
    pair.alpha.send(pair.at_alpha, Channel::Control, Frame::Leave);
    pair.alpha.shut_down("alpha is being shut down");
    assert_eq!(pair.beta.frame(), (pair.at_beta, Channel::Control, Frame::Leave));
    assert_ended(&pair.beta.down(pair.at_beta), Cause::ClosedByPeer, "alpha is being shut down");
}

#[test]
fn a_closed_link_says_why_and_is_made_anew() {
    let mut pair = Pair::new([Runtime::Plain; 2]);
    let link = pair.at_alpha;
    pair.alpha.call(move |endpoint| {
        endpoint.send(link, Channel::Control, &Frame::Ping(Timestamp(1)), None);
        endpoint.close(link, "an acknowledgement is due");
        // Nothing more leaves on it.
        endpoint.send(link, Channel::Control, &Frame::Ping(Timestamp(2)), None);
    });
    assert_ended(&pair.alpha.down(link), Cause::Closed, "an acknowledgement is due");
    assert_eq!(pair.beta.frame(), (pair.at_beta, Channel::Control, Frame::Ping(Timestamp(1))));
    assert_ended(&pair.beta.down(pair.at_beta), Cause::ClosedByPeer, "an acknowledgement is due");
    Pair::linked(pair.alpha, pair.beta).works();
}

#[test]
fn a_link_that_is_held_back_comes_when_both_want_it() {
    let mut pair = Pair::new([Runtime::Plain; 2]);
    pair.beta.call(|endpoint| endpoint.disable(PEER, VOLUME, "disconnected by the operator"));
    assert_ended(&pair.alpha.down(pair.at_alpha), Cause::ClosedByPeer, "disconnected by the operator");
    assert_eq!(pair.beta.down(pair.at_beta).cause, Cause::Closed);
    let quiet = [pair.alpha.within(Duration::from_millis(500)), pair.beta.within(Duration::from_millis(1))];
    assert!(quiet.iter().all(Vec::is_empty), "{quiet:?}");
    pair.beta.call(|endpoint| endpoint.enable(PEER, VOLUME));
    Pair::linked(pair.alpha, pair.beta).works();
}

#[test]
fn a_wire_that_carries_nothing_is_noticed_by_silence_and_used_again() {
    let quick = |name| Setup { idle: Duration::from_secs(2), ..Setup::new(name) };
    let (alpha, beta) = (quick("alpha").start(), quick("beta").start());
    let relay = Relay::new([alpha.address, beta.address]);
    alpha.meet("beta", beta.fingerprint, relay.address(0));
    beta.meet("alpha", alpha.fingerprint, relay.address(1));
    let mut pair = Pair::linked(alpha, beta);
    // Longer than a ping, shorter than the idle time: nothing happens.
    for which in [0, 1] {
        relay.carry(which, false);
        std::thread::sleep(Duration::from_millis(500));
        relay.carry(which, true);
    }
    pair.works();
    // One direction is enough to break it for both.
    relay.carry(0, false);
    assert_eq!(pair.beta.down(pair.at_beta).cause, Cause::Silent);
    // It hears of it from beta, or from its own clock.
    let ending = pair.alpha.down(pair.at_alpha);
    assert!([Cause::Silent, Cause::ClosedByPeer].contains(&ending.cause), "{ending:?}");
    assert!(ending.text.contains("nothing came"), "{ending:?}");
    relay.carry(0, true);
    Pair::linked(pair.alpha, pair.beta).works();
}

#[test]
fn a_newer_connection_takes_the_place_of_the_older_one() {
    let (alpha, beta) = loop {
        let (alpha, beta) = (Setup::new("alpha"), Setup::new("beta").identity);
        if beta.fingerprint() < alpha.identity.fingerprint() {
            break (alpha, beta);
        }
    };
    let mut alpha = alpha.start();
    alpha.meet("beta", beta.fingerprint(), "127.0.0.1:1".parse().expect("an address"));
    let raw = Raw::of(&beta);
    let (older, _send, _receive) = raw.control(alpha.address, "beta", "alpha");
    let _link = raw.link(alpha.address, &older, 1);
    let link = alpha.up();
    let (newer, _send, _receive) = raw.control(alpha.address, "beta", "alpha");
    assert_ended(&alpha.down(link), Cause::Replaced, "newer connection");
    assert_eq!(raw.closed(&older).0, 2);
    let _link = raw.link(alpha.address, &newer, 1);
    alpha.up();
    assert!(newer.close_reason().is_none());
}

#[test]
fn a_new_address_of_a_peer_is_used_for_the_next_call() {
    let Pair { mut alpha, beta, at_alpha, .. } = Pair::new([Runtime::Plain; 2]);
    let fingerprint = beta.fingerprint;
    beta.kill();
    alpha.down(at_alpha);
    let moved = Setup::new("beta").start();
    assert_ne!(moved.fingerprint, fingerprint);
    alpha.meet("beta", moved.fingerprint, moved.address);
    moved.meet("alpha", alpha.fingerprint, alpha.address);
    Pair::linked(alpha, moved).works();
}
