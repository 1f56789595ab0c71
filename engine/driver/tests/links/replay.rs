//! What was recorded on the wire is worth nothing, neither at once nor to a later process; and a frame belongs to
//! one session.

use std::time::Duration;

use bytes::Bytes;
use evenkeel_core::{
    ids::{Sequence, Timestamp},
    volume::{
        codec::{Encoder, SessionNumber},
        io::Channel,
        wire::Frame,
    },
};
use evenkeel_driver::{
    identity::Identity,
    link::{Cause, ProblemCode},
};

use crate::{
    node::{Node, Pair, Setup, assert_ended},
    raw::Raw,
    relay::Relay,
};

fn write(sequence: u64) -> Frame {
    let (sequence, after) = (Sequence(sequence), Sequence::ZERO);
    Frame::Write { sequence, after, offset: 0, payload: Bytes::from(vec![7; 4096]), fua: false }
}

fn assert_silent(nodes: [&Node; 2]) {
    for node in nodes {
        let events = node.within(Duration::from_millis(500));
        assert!(events.is_empty(), "{}: {events:?}", node.name);
    }
}

#[test]
fn recorded_datagrams_change_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let beta_setup = |listen: &str| Setup {
        identity: Identity::load_or_create(folder.path()).expect("an identity"),
        listen: listen.parse().expect("an address"),
        ..Setup::new("beta")
    };
    let (alpha, beta) = (Setup::new("alpha").start(), beta_setup("127.0.0.1:0").start());
    let beta_address = beta.address;
    let relay = Relay::new([alpha.address, beta_address]);
    alpha.meet("beta", beta.fingerprint, relay.address(0));
    beta.meet("alpha", alpha.fingerprint, relay.address(1));
    let mut pair = Pair::linked(alpha, beta);
    for sequence in 1..=20 {
        pair.alpha.send(pair.at_alpha, Channel::Data, write(sequence));
        assert_eq!(pair.beta.frame(), (pair.at_beta, Channel::Data, write(sequence)));
    }
    // While the session lives.
    let count = relay.replay();
    assert!(count >= 20, "{count} datagrams were recorded");
    assert_silent([&pair.alpha, &pair.beta]);
    pair.works();
    // To a process that was started again with the same key: as its first contact, and while it is linked.
    pair.beta.kill();
    let beta = beta_setup(&beta_address.to_string()).start();
    // It knows nothing of the connections that alpha still has, and can prove that it is who had them.
    pair.alpha.send(pair.at_alpha, Channel::Data, write(21));
    assert_ended(&pair.alpha.down(pair.at_alpha), Cause::PeerGone, "started again");
    relay.replay();
    assert!(beta.within(Duration::from_millis(300)).is_empty());
    beta.meet("alpha", pair.alpha.fingerprint, relay.address(1));
    let mut pair = Pair::linked(pair.alpha, beta);
    pair.works();
    relay.replay();
    assert_silent([&pair.alpha, &pair.beta]);
    pair.works();
}

#[test]
fn a_frame_of_an_older_session_ends_the_link() {
    // The hand-made peer calls.
    let (alpha, beta) = loop {
        let (alpha, beta) = (Setup::new("alpha"), Setup::new("beta").identity);
        if beta.fingerprint() < alpha.identity.fingerprint() {
            break (alpha, beta);
        }
    };
    let mut alpha = alpha.start();
    alpha.meet("beta", beta.fingerprint(), "127.0.0.1:1".parse().expect("an address"));
    let raw = Raw::of(&beta);
    let (control, _send, _receive) = raw.control(alpha.address, "beta", "alpha");
    let mut first = raw.link(alpha.address, &control, 1);
    let at_alpha = alpha.up();
    let mut encoder = Encoder::new(SessionNumber::new(first.session).expect("not zero"));
    encoder.push(&Frame::Ping(Timestamp(1)), None);
    let recorded: Vec<u8> = encoder.chunks().drain(..).flatten().collect();
    raw.write(&mut first.control.0, &recorded);
    assert_eq!(alpha.frame(), (at_alpha, Channel::Control, Frame::Ping(Timestamp(1))));
    // A second link on the same connection takes the place of the first, and has another number.
    let mut second = raw.link(alpha.address, &control, 2);
    assert_ne!(first.session, second.session);
    assert_ended(&alpha.down(at_alpha), Cause::Replaced, "newer link");
    let at_alpha = alpha.up();
    raw.write(&mut second.control.0, &recorded);
    let ending = alpha.wait("the end", |event| match event {
        evenkeel_driver::link::LinkEvent::Down { link, reason, .. } if *link == at_alpha => {
            Some(reason.clone())
        }
        evenkeel_driver::link::LinkEvent::Frame { .. } => panic!("a frame of the first session: {event:?}"),
        evenkeel_driver::link::LinkEvent::Down { .. }
        | evenkeel_driver::link::LinkEvent::Up { .. }
        | evenkeel_driver::link::LinkEvent::Problem { .. } => None,
    });
    assert_ended(&ending, Cause::Protocol, "session");
    let (code, text) = raw.closed(&second.data.0);
    assert_eq!(code, 19);
    assert!(text.contains("session"), "{text}");
    drop(first);
    let problem = alpha.call(|endpoint| endpoint.status(crate::node::PEER)).expect("added").problem;
    assert_eq!(
        problem,
        None,
        "a broken link of one volume is that volume's problem: {:?}",
        ProblemCode::Protocol
    );
}
