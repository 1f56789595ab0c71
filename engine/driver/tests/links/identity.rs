//! Who is let in: only a node with the pinned key, in the same cluster, that both call by the same names. Whoever is
//! refused learns why, and so does the node that refuses; nothing of this node's is told before.

use std::time::Duration;

use evenkeel_driver::{
    identity::Identity,
    link::{Connection, LinkEvent, PeerAddress, PeerError, PeerKey, ProblemCode, VolumeKey},
};

use crate::{
    node::{Node, PEER, Pair, Setup},
    raw::{GREETING, KNOCK, Raw, greeting, message},
};

/// Nodes of which the first calls the second (or the other way round).
fn two(first_calls: bool) -> (Setup, Setup) {
    loop {
        let (alpha, beta) = (Setup::new("alpha"), Setup::new("beta"));
        if (alpha.identity.fingerprint() < beta.identity.fingerprint()) == first_calls {
            return (alpha, beta);
        }
    }
}

fn no_link_came(nodes: [&Node; 2]) {
    for node in nodes {
        let events = node.within(Duration::from_millis(300));
        assert!(
            !events.iter().any(|event| matches!(event, LinkEvent::Up { .. } | LinkEvent::Frame { .. })),
            "{events:?}"
        );
        assert_eq!(node.connection(), Connection::Refused, "{}", node.name);
    }
}

/// Beta's configuration names a key for alpha that is not alpha's; whichever of the two calls.
#[test]
fn an_unknown_key_is_refused_in_both_directions() {
    for first_calls in [true, false] {
        let (alpha, beta) = two(first_calls);
        let (mut alpha, mut beta) = (alpha.start(), beta.start());
        let wrong = Identity::ephemeral().expect("an identity").fingerprint();
        alpha.meet("beta", beta.fingerprint, beta.address);
        beta.meet("alpha", wrong, alpha.address);
        let problem = beta.problem();
        assert_eq!(problem.code, ProblemCode::Identity);
        assert!(problem.text.contains(&alpha.fingerprint.to_string()), "the key that was shown: {problem:?}");
        let problem = alpha.problem();
        assert_eq!(problem.code, ProblemCode::Identity);
        assert!(problem.text.contains("beta") && problem.text.contains("does not accept"), "{problem:?}");
        no_link_came([&alpha, &beta]);
        // Mended in the configuration: the problem goes, the link comes.
        beta.meet("alpha", alpha.fingerprint, alpha.address);
        Pair::linked(alpha, beta).works();
    }
}

/// A stranger gets no answer to anything it says, whatever it says.
#[test]
fn a_stranger_is_told_nothing() {
    let (alpha, beta) = two(false);
    let known = beta.identity;
    let alpha = alpha.start();
    alpha.meet("beta", known.fingerprint(), beta.listen);
    let stranger = Identity::ephemeral().expect("an identity");
    let cases = [
        ("another key", Some((stranger.certificate(), stranger.private_key()))),
        ("the right certificate without its key", Some((known.certificate(), stranger.private_key()))),
        ("no certificate", None),
    ];
    for (what, certificate) in cases {
        let raw = Raw::new(certificate);
        let Ok(connection) = raw.connect(alpha.address) else { continue };
        // Its own handshake is complete before the other side has judged it.
        let answer = raw.run(what, async {
            let mut answer = Vec::new();
            if let Ok((mut send, mut receive)) = connection.open_bi().await {
                let hello = message(GREETING, &greeting("demo", "beta", "alpha"));
                // Both fail when the connection is closed meanwhile.
                let _ = send.write_all(&hello).await;
                while let Ok(Some(chunk)) = receive.read_chunk(1 << 16, true).await {
                    answer.extend_from_slice(&chunk.bytes);
                }
            }
            connection.closed().await;
            answer
        });
        let code = raw.closed(&connection).0;
        assert_eq!(answer, b"", "{what}");
        assert!((0x100..0x200).contains(&code), "{what}: closed with {code:#x}, which is no TLS alert");
    }
    let events = alpha.within(Duration::from_millis(200));
    assert!(events.iter().all(|event| matches!(event, LinkEvent::Problem { .. })), "{events:?}");
}

#[test]
fn a_removed_peer_is_cut_at_once_and_refused() {
    let Pair { alpha, mut beta, at_beta, .. } = Pair::new([crate::node::Runtime::Plain; 2]);
    alpha.call(|endpoint| endpoint.remove_peer(PEER));
    let ending = beta.down(at_beta);
    assert!(ending.text.contains("configuration"), "{ending:?}");
    assert_eq!(beta.problem().code, ProblemCode::Identity);
    assert!(alpha.call(|endpoint| endpoint.status(PEER)).is_none());
}

/// Starts two nodes that differ in this, and returns the problems that they see.
fn differing(change: impl Fn(&mut Setup), names: [&str; 2]) -> [evenkeel_driver::link::Problem; 2] {
    let (alpha, mut beta) = two(true);
    change(&mut beta);
    let (mut alpha, mut beta) = (alpha.start(), beta.start());
    alpha.meet(names[0], beta.fingerprint, beta.address);
    beta.meet(names[1], alpha.fingerprint, alpha.address);
    let problems = [alpha.problem(), beta.problem()];
    no_link_came([&alpha, &beta]);
    problems
}

#[test]
fn another_cluster_is_refused_with_both_names() {
    let problems = differing(|beta| beta.cluster = "production".into(), ["beta", "alpha"]);
    for problem in problems {
        assert_eq!(problem.code, ProblemCode::Cluster);
        assert!(problem.text.contains("'demo'") && problem.text.contains("'production'"), "{problem:?}");
    }
}

#[test]
fn another_name_is_refused_with_both_names() {
    for problem in differing(|_| {}, ["gamma", "alpha"]) {
        assert_eq!(problem.code, ProblemCode::Node);
        assert!(problem.text.contains("'gamma'") && problem.text.contains("'beta'"), "{problem:?}");
    }
    for problem in differing(|_| {}, ["beta", "delta"]) {
        assert_eq!(problem.code, ProblemCode::Node);
        assert!(problem.text.contains("'delta'") && problem.text.contains("'alpha'"), "{problem:?}");
    }
}

#[test]
fn a_version_from_the_future_is_refused_by_the_greeting_alone() {
    for kind in [GREETING, KNOCK] {
        let (alpha, beta) = two(false);
        let mut alpha = alpha.start();
        alpha.meet("beta", beta.identity.fingerprint(), beta.listen);
        let raw = Raw::of(&beta.identity);
        // Behind the versions there is nothing that this node could read.
        let (connection, _send, _receive) =
            raw.open(alpha.address, &message(kind, &[9, 0, 12, 0, 0xff, 0xff]));
        let (code, text) = raw.closed(&connection);
        assert_eq!(code, 18);
        assert!(text.contains("versions 9 to 12") && text.contains("only 1"), "{text}");
        let problem = alpha.problem();
        assert_eq!(problem.code, ProblemCode::Version);
        assert!(problem.text.contains("versions 9 to 12") && problem.text.contains("only 1"), "{problem:?}");
    }
}

#[test]
fn a_volume_that_only_one_has_is_named_on_that_one() {
    let (alpha, beta) = two(true);
    let (mut alpha, beta) = (alpha.start(), beta.start());
    alpha.meet("beta", beta.fingerprint, beta.address);
    let peer = PeerAddress { name: "alpha".into(), address: alpha.address, fingerprint: alpha.fingerprint };
    beta.call(move |endpoint| {
        endpoint.add_peer(PEER, peer, &[(VolumeKey(3), "r1"), (VolumeKey(4), "r2")]).expect("a good peer");
    });
    let problem = alpha.problem();
    assert_eq!(problem.code, ProblemCode::Volume);
    assert!(problem.text.contains("'r0'") && problem.text.contains("r1, r2"), "{problem:?}");
    assert_eq!(alpha.connection(), Connection::Connected, "other volumes are not touched by it");
}

#[test]
fn what_cannot_be_a_peer_is_refused_by_name() {
    let (alpha, beta) = two(true);
    let (alpha, other) = (alpha.start(), beta.identity.fingerprint());
    let own = alpha.fingerprint;
    let add = |key, name: &str, fingerprint, volume: &'static str| {
        let peer = PeerAddress {
            name: name.into(),
            address: "127.0.0.1:1".parse().expect("an address"),
            fingerprint,
        };
        alpha.call(move |endpoint| endpoint.add_peer(PeerKey(key), peer, &[(VolumeKey(0), volume)]))
    };
    assert_eq!(add(1, "beta", own, "r0"), Err(PeerError::OwnKey("beta".into())));
    assert!(matches!(add(1, "", other, "r0"), Err(PeerError::Name(_))));
    assert!(matches!(add(1, "beta", other, "r\n0"), Err(PeerError::Name(_))));
    assert_eq!(add(1, "beta", other, "r0"), Ok(()));
    assert_eq!(add(1, "beta", other, "r0"), Ok(()), "the same again changes nothing");
    let same = PeerError::SameKey { name: "gamma".into(), other: "beta".into() };
    assert_eq!(add(2, "gamma", other, "r0"), Err(same));
}
