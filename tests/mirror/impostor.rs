//! A real daemon and a peer made by hand: a key that is not known, a certificate without its key, a version from the
//! future, frames of an old session, datagrams that were recorded (design section 8, F31 to F33).
//!
//! Each is refused before anything of ours is told or changed: metadata are compared byte for byte.

use std::{fs, net::SocketAddr};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    cluster::{Cluster, ClusterOptions, Node, VolumeStatus},
    impostor::{Credentials, GREETING, Impostor, KNOCK, Relay, frame, greeting, message},
    judge::{WriteId, convergence::images_equal, tag},
};

use crate::data::{VOLUME, write};

/// A ping's number among the kinds of frames, and a hello's.
const PING: u8 = 16;
const HELLO: u8 = 1;

fn address(node: &Node) -> SocketAddr {
    SocketAddr::from((node.address(), 7801))
}

/// One daemon, and the state folder of a node that it knows, which is the one that calls (the lower fingerprint).
fn besieged(test: impl FnOnce(&Node, &Node) -> Result<()>) -> Result<()> {
    Cluster::prepare(ClusterOptions::default(), |cluster| {
        let (one, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        let (caller, daemon) =
            if one.fingerprint() < other.fingerprint() { (one, other) } else { (other, one) };
        daemon.start()?;
        let before = fs::read(daemon.meta("r0"))?;
        test(daemon, caller)?;
        ensure!(before == fs::read(daemon.meta("r0"))?, "metadata changed");
        Ok(())
    })
}

fn of(node: &Node) -> Result<Impostor> {
    Impostor::new(Some(Credentials::of(node.state_folder(), node.state_folder())?))
}

#[test]
fn a_stranger_is_told_nothing() -> Result<()> {
    besieged(|daemon, known| {
        let stranger = tempfile::tempdir()?;
        let mut init = std::process::Command::new(evenkeel_tests::serve::binary()?);
        evenkeel_tests::tools::run(init.arg("init").arg("--state-dir").arg(stranger.path()))?.success()?;
        let (folder, known_folder) = (stranger.path(), known.state_folder());
        let cases = [
            ("another key", Some(Credentials::of(folder, folder)?)),
            ("the right certificate without its key", Some(Credentials::of(known_folder, folder)?)),
            ("no certificate", None),
        ];
        for (what, credentials) in cases {
            let impostor = Impostor::new(credentials)?;
            // Its own handshake is complete before the daemon has judged it; or the daemon was faster.
            let Ok(connection) = impostor.connect(address(daemon)) else { continue };
            let hello = message(GREETING, &greeting("test", known.name(), daemon.name()));
            let (answer, code, text) = impostor.say(&connection, &hello)?;
            ensure!(answer.is_empty(), "{what}: it was told {answer:?}");
            ensure!((0x100..0x200).contains(&code), "{what}: closed with {code:#x} ({text}), no TLS alert");
        }
        Ok(())
    })
}

#[test]
fn a_version_from_the_future_is_refused_by_the_greeting_alone() -> Result<()> {
    besieged(|daemon, known| {
        for kind in [GREETING, KNOCK] {
            let impostor = of(known)?;
            let connection = impostor.connect(address(daemon))?;
            // Behind the versions there is nothing that this version could read.
            let (_, code, text) = impostor.say(&connection, &message(kind, &[9, 0, 12, 0, 0xff, 0xff]))?;
            ensure!(code == 18, "{code}: {text}");
            ensure!(
                text.contains("versions 9 to 12") && text.contains("only 1"),
                "the peer is told both: {text}"
            );
        }
        is_refused_for_its_version(daemon, known)
    })
}

#[test]
fn a_version_from_the_future_is_refused_by_the_hello_alone() -> Result<()> {
    besieged(|daemon, known| {
        let impostor = of(known)?;
        let (control, _send, _receive) = impostor.control(address(daemon), known.name(), daemon.name())?;
        let mut link = impostor.link(address(daemon), &control, 1)?;
        // The two versions are all of it that this node may look at; the checksum is wrong, and what follows is missing.
        let mut hello = frame(HELLO, 0, &[0; 64]);
        hello[32..36].copy_from_slice(&[9, 0, 12, 0]);
        impostor.write(&mut link.control.0, &hello[..36])?;
        let (code, text) = impostor.closed(&link.data.0)?;
        ensure!(code == 18, "{code}: {text}");
        ensure!(text.contains("versions 9 to 12"), "{text}");
        is_refused_for_its_version(daemon, known)
    })
}

fn is_refused_for_its_version(daemon: &Node, known: &Node) -> Result<()> {
    let refused = |status: &VolumeStatus| {
        status.has_problem("peer-version") && status.peer(known.name()).connection == "refused"
    };
    let status = daemon.wait_for("r0", "the version is refused", refused)?;
    let shown = status.problem_texts();
    ensure!(shown.contains("versions 9 to 12") && shown.contains('1'), "both values: {shown}");
    Ok(())
}

#[test]
fn frames_of_an_old_session_end_the_new_one() -> Result<()> {
    besieged(|daemon, known| {
        let impostor = of(known)?;
        let (control, _send, _receive) = impostor.control(address(daemon), known.name(), daemon.name())?;
        let old = impostor.link(address(daemon), &control, 1)?;
        let mut new = impostor.link(address(daemon), &control, 2)?;
        ensure!(old.session != new.session, "each link has a number of its own");
        impostor.write(&mut new.control.0, &frame(PING, old.session, &[7; 8]))?;
        let (code, text) = impostor.closed(&new.data.0)?;
        ensure!(code == 19 && text.contains("session"), "{code}: {text}");
        Ok(())
    })
}

/// Writes blocks that name this number, and flushes.
#[test]
fn recorded_datagrams_change_nothing() -> Result<()> {
    Cluster::prepare(ClusterOptions::default(), |cluster| {
        let (alpha, beta) = (&cluster.nodes[0], &cluster.nodes[1]);
        let relay = Relay::new([address(alpha), address(beta)])?;
        // Each finds the other behind the relay.
        let through = |node: &Node, which: usize| -> Result<String> {
            Ok(cluster.config().replace(&address(node).to_string(), &relay.address(which)?.to_string()))
        };
        alpha.configure(&through(beta, 0)?)?;
        beta.configure(&through(alpha, 1)?)?;
        alpha.start()?;
        beta.start()?;
        alpha.wait_synced("r0")?;
        alpha.primary("r0")?;
        for number in 1..20 {
            write(alpha, "r0", number, u64::from(number) * 100)?;
        }
        // The same blocks once more: what is replayed would bring the old contents back.
        for number in 1..20 {
            write(alpha, "r0", 100 + number, u64::from(number) * 100)?;
        }
        let in_sync = || -> Result<()> {
            alpha.wait_synced("r0")?;
            let seen = [alpha.volume("r0")?.generation, beta.volume("r0")?.generation];
            ensure!(seen[0] == seen[1], "{seen:?}");
            Ok(())
        };
        in_sync()?;
        let before = alpha.volume("r0")?.generation;
        let count = relay.replay()?;
        ensure!(count > 100, "{count} datagrams were recorded");
        in_sync()?;
        ensure!(alpha.volume("r0")?.generation == before, "the session lived on");
        // And to a later process.
        beta.terminate()?;
        beta.start()?;
        alpha.wait_synced("r0")?;
        relay.replay()?;
        in_sync()?;
        write(alpha, "r0", 200, 9000)?;
        alpha.secondary("r0")?;
        images_equal(VOLUME, &alpha.data("r0"), &beta.data("r0"))?;
        let data = fs::read(beta.data("r0"))?;
        for number in 1..20_u32 {
            let at = usize::try_from(number)? * 100 * 512;
            let value = tag::value(VOLUME, u64::from(number) * 100, &data[at..at + 512]);
            let newest = tag::Value::Written(WriteId { client: 1, number: 100 + number });
            ensure!(value == newest, "an old datagram was taken: {value}");
        }
        Ok(())
    })
}
