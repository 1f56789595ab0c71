//! Peers and strangers that mean harm: bounded in number, time and memory, and in the way of nobody else.

use std::time::{Duration, Instant};

use evenkeel_driver::{
    identity::Identity,
    link::{Cause, Connection, LinkEvent, ProblemCode},
};

use crate::{
    node::{Node, Pair, Setup, assert_ended},
    raw::{GREETING, JOIN, LINK, Raw, RawLink, VOLUMES, greeting, message, text},
    relay::Relay,
};

/// A node, and the identity of a peer that it knows and that calls it.
fn besieged() -> (Node, Identity) {
    let (alpha, beta) = loop {
        let (alpha, beta) = (Setup::new("alpha"), Setup::new("beta").identity);
        if beta.fingerprint() < alpha.identity.fingerprint() {
            break (alpha.start(), beta);
        }
    };
    alpha.meet("beta", beta.fingerprint(), "127.0.0.1:1".parse().expect("an address"));
    (alpha, beta)
}

#[test]
fn a_connection_that_begins_with_nonsense_is_closed_with_the_reason() {
    let (alpha, beta) = besieged();
    let raw = Raw::of(&beta);
    let long = [&[b'E', b'L', GREETING, 0][..], &[0xff; 4]].concat();
    let cases: [(&str, &[u8]); 7] = [
        ("not a message", b"GET / HTTP/1.1\r\n\r\n"),
        ("a kind that does not exist", &message(200, b"")),
        ("a body of 4 GiB", &long),
        ("an empty greeting", &message(GREETING, b"")),
        (
            "something behind the greeting",
            &message(GREETING, &[&greeting("demo", "beta", "alpha")[..], b"x"].concat()),
        ),
        ("a link", &message(LINK, &[&[0; 8][..], &text("r0")].concat())),
        ("names that move the cursor", &message(GREETING, &greeting("demo", "\x1b[2J", "alpha"))),
    ];
    for (what, bytes) in cases {
        let (connection, _send, _receive) = raw.open(alpha.address, bytes);
        let (code, text) = raw.closed(&connection);
        assert_eq!(code, 19, "{what}: {text}");
    }
    let (connection, _send, _receive) =
        raw.open(alpha.address, &message(JOIN, &[[1; 1].as_slice(), &[0; 16]].concat()));
    assert_eq!(raw.closed(&connection).0, 3, "a ticket of no link");
}

#[test]
fn a_peer_that_says_nothing_is_hung_up_on_and_cannot_fill_the_node() {
    let (mut alpha, beta) = besieged();
    let raw = Raw::of(&beta);
    let connections: Vec<_> =
        (0..20).map(|_| raw.connect(alpha.address).expect("the key is known")).collect();
    let codes: Vec<u64> = connections.iter().map(|connection| raw.closed(connection).0).collect();
    assert!(codes.iter().all(|code| [4, 5].contains(code)), "too late, or too many: {codes:?}");
    assert!(codes.iter().filter(|code| **code == 5).count() >= 1, "{codes:?}");
    // Afterwards the same peer is welcome.
    let (control, _send, _receive) = raw.control(alpha.address, "beta", "alpha");
    let _link = raw.link(alpha.address, &control, 1);
    alpha.up();
}

/// Handshakes that are begun and never finished, from addresses at which no answer is seen.
#[test]
fn half_open_handshakes_keep_nobody_out() {
    let alpha = Setup::new("alpha").start();
    let beta = Setup::new("beta").start();
    let deaf = Relay::new(["127.0.0.1:1".parse().expect("an address"), alpha.address]);
    deaf.carry(1, false);
    let raw = Raw::of(&Identity::ephemeral().expect("an identity"));
    let begun: Vec<_> = (0..200).map(|_| raw.begin(deaf.address(0))).collect();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    alpha.meet("beta", beta.fingerprint, beta.address);
    beta.meet("alpha", alpha.fingerprint, alpha.address);
    Pair::linked(alpha, beta).works();
    assert!(start.elapsed() < crate::node::PATIENCE);
    drop(begun);
}

/// Each of these on a fresh link: it ends, with the reason on both sides.
#[test]
fn what_is_no_frame_ends_the_link() {
    let (mut alpha, beta) = besieged();
    let raw = Raw::of(&beta);
    let (control, _send, _receive) = raw.control(alpha.address, "beta", "alpha");
    let mut hello = vec![0; 32 + 4];
    hello[..4].copy_from_slice(&[b'E', b'K', 1, 0]);
    hello[4] = 64;
    hello[32..].copy_from_slice(&[9, 0, 12, 0]);
    let mut long = vec![0; 32];
    long[..3].copy_from_slice(&[b'E', b'K', 33]);
    long[4..12].copy_from_slice(&[16, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    type Through = fn(&Raw, &mut RawLink, &[u8]);
    let control_channel: Through = |raw, link, bytes| raw.write(&mut link.control.0, bytes);
    let data_channel: Through = |raw, link, bytes| raw.write(&mut link.data.1, bytes);
    let resync_channel: Through = |raw, link, bytes| raw.write(&mut link.resync.1, bytes);
    let nonsense = vec![b'x'; 64];
    let cases = [
        ("nonsense on control", control_channel, &nonsense, 19, "0x7878"),
        ("nonsense on data", data_channel, &nonsense, 19, "0x7878"),
        ("nonsense on resync", resync_channel, &nonsense, 19, "0x7878"),
        ("a payload of 4 GiB", data_channel, &long, 19, "4294967295"),
        ("a hello of another version", control_channel, &hello, 18, "versions 9 to 12"),
    ];
    let mut problem = None;
    for (number, (what, through, bytes, code, says)) in (1..).zip(cases) {
        let mut link = raw.link(alpha.address, &control, number);
        let at_alpha = alpha.up();
        through(&raw, &mut link, bytes);
        let ending = alpha.wait("the end", |event| match event {
            LinkEvent::Down { link, reason, .. } if *link == at_alpha => Some(reason.clone()),
            LinkEvent::Problem { problem: said, .. } => {
                problem.clone_from(said);
                None
            }
            LinkEvent::Up { .. } | LinkEvent::Frame { .. } | LinkEvent::Down { .. } => None,
        });
        assert_ended(&ending, Cause::Protocol, says);
        let (closed, text) = raw.closed(&link.data.0);
        assert_eq!(closed, code, "{what}: {text}");
        assert!(text.contains(says), "{what}: {text}");
        assert_eq!(alpha.connection(), Connection::Connected, "{what}");
    }
    // The last one is a problem that stays until a hello can be read.
    assert_eq!(problem.map(|problem| problem.code), Some(ProblemCode::Version));
}

#[test]
fn nonsense_on_the_control_connection_ends_it() {
    let (alpha, beta) = besieged();
    let raw = Raw::of(&beta);
    let many: Vec<u8> = (0..1025).flat_map(|index| [text(&format!("r{index}")), vec![1]].concat()).collect();
    for (what, bytes) in [
        ("a second greeting", message(GREETING, &greeting("demo", "beta", "alpha"))),
        ("too many volumes", message(VOLUMES, &many)),
        ("a wish that does not exist", message(VOLUMES, &[&text("r0")[..], &[3]].concat())),
    ] {
        let (control, mut send, _receive) = raw.greet(alpha.address, "beta", "alpha");
        raw.write(&mut send, &bytes);
        let (code, text) = raw.closed(&control);
        assert_eq!(code, 19, "{what}: {text}");
    }
}
