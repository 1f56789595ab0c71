//! Two nodes over QUIC on loopback: what one is told is on the other, and survives either.

use std::time::Duration;

use evenkeel_core::volume::{
    DiskState, Replication, Role,
    config::Protocol,
    operator::{Force, OperatorAnswer},
};
use evenkeel_driver::node::{Connection, ProblemCode, VolumeCommand, VolumeStatus};

use crate::{
    client::Failure,
    rig::{Cluster, Running, SIZE, pattern},
};

fn is_in_sync(status: &VolumeStatus) -> bool {
    status.disk == DiskState::UpToDate
        && status.peers.iter().all(|peer| {
            peer.replication == Replication::Established && peer.disk == Some(DiskState::UpToDate)
        })
}

/// Two new nodes in sync, the first one primary.
async fn in_sync(cluster: &Cluster) -> (Running, Running) {
    let (alpha, beta) = tokio::join!(cluster.start("alpha"), cluster.start("beta"));
    alpha.wait("in sync", is_in_sync).await;
    beta.wait("in sync", is_in_sync).await;
    alpha.promote(Force::No).await;
    (alpha, beta)
}

/// Writes `len` bytes of a pattern, in pieces.
async fn fill(node: &Running, seed: u64, offset: u64, len: usize) {
    node.client(move |client| {
        for (number, piece) in (0..).zip(pattern(seed, len).chunks(20_000)) {
            client.write(offset + number * 20_000, piece)?;
        }
        Ok(())
    })
    .await
    .expect("written");
}

/// Makes the primary secondary, after which both images are equal (P5).
async fn assert_equal_images(cluster: &Cluster, primary: &Running) -> Vec<u8> {
    assert_eq!(primary.command(VolumeCommand::Secondary { force: false }).await, OperatorAnswer::Done);
    let image = cluster.image("alpha");
    assert!(image == cluster.image("beta"), "the images differ");
    image
}

fn slice(image: &[u8], offset: usize, len: usize) -> &[u8] {
    &image[offset..offset + len]
}

#[tokio::test]
async fn what_is_answered_is_on_both_on_every_protocol() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut cluster = Cluster::new(&["alpha", "beta"]);
        cluster.protocol = protocol;
        let (alpha, beta) = in_sync(&cluster).await;
        fill(&alpha, 7, 12_345, 3 << 20).await;
        alpha
            .client(|client| client.zero(0, 1 << 20, 70_001).and_then(|()| client.flush()))
            .await
            .expect("done");
        let read = alpha.client(|client| client.read(12_345, 4096)).await.expect("served");
        assert!(read == pattern(7, 4096));
        match beta.client(|client| client.read(0, 512)).await {
            Err(Failure::Refused(_, text)) => assert!(text.contains("alpha"), "the primary is named: {text}"),
            other => panic!("a secondary serves nobody: {other:?}"),
        }
        let image = assert_equal_images(&cluster, &alpha).await;
        assert!(slice(&image, 12_345, 1 << 19) == pattern(7, 1 << 19), "{protocol:?}");
        assert!(slice(&image, 1 << 20, 70_001).iter().all(|&byte| byte == 0), "R7");
        alpha.stop().await;
        beta.stop().await;
    }
}

#[tokio::test]
async fn a_secondary_that_died_gets_only_what_it_lacks() {
    let cluster = Cluster::new(&["alpha", "beta"]);
    let (alpha, beta) = in_sync(&cluster).await;
    fill(&alpha, 1, 0, 8 << 20).await;
    alpha.client(crate::client::Client::flush).await.expect("flushed");
    beta.crash().await;
    fill(&alpha, 2, 4 << 20, 100_000).await;
    let lost = alpha.wait("noticed", |status| status.peers[0].connection == Connection::Connecting).await;
    assert!(lost.problems.iter().any(|problem| problem.code == ProblemCode::PeerUnreachable), "{lost:#?}");
    let beta = cluster.start("beta").await;
    beta.wait("in sync again", is_in_sync).await;
    let status = alpha.wait("in sync again", is_in_sync).await;
    let resync = status.last_resync.expect("there was one");
    assert_eq!(resync.peer, "beta");
    assert!(resync.moved_bytes >= 100_000, "{resync:?}");
    assert!(resync.moved_bytes <= 2 << 20, "by bitmap and activity log, not whole: {resync:?}");
    let image = assert_equal_images(&cluster, &alpha).await;
    assert!(slice(&image, 4 << 20, 100_000) == pattern(2, 100_000));
    alpha.stop().await;
    beta.stop().await;
}

#[tokio::test]
async fn the_secondary_takes_over_when_the_primary_died() {
    let cluster = Cluster::new(&["alpha", "beta"]);
    let (alpha, beta) = in_sync(&cluster).await;
    fill(&alpha, 1, 0, 1 << 20).await;
    alpha.crash().await;
    beta.wait("noticed", |status| status.disk == DiskState::Consistent).await;
    let refused = beta.command(VolumeCommand::Primary(Force::No)).await;
    assert!(matches!(refused, OperatorAnswer::Refused(_)), "P2: {refused:?}");
    beta.promote(Force::Yes).await;
    let read = beta.client(|client| client.read(0, 1 << 20)).await.expect("served");
    assert!(read == pattern(1, 1 << 20), "everything that was answered is here");
    fill(&beta, 2, 1 << 20, 1 << 20).await;

    let alpha = cluster.start("alpha").await;
    let status = alpha.wait("in sync again", is_in_sync).await;
    assert_eq!(status.role, Role::Secondary);
    beta.wait("in sync again", is_in_sync).await;
    let image = assert_equal_images(&cluster, &beta).await;
    assert!(slice(&image, 0, 1 << 20) == pattern(1, 1 << 20));
    assert!(slice(&image, 1 << 20, 1 << 20) == pattern(2, 1 << 20));
    alpha.stop().await;
    beta.stop().await;
}

#[tokio::test]
async fn roles_are_swapped_and_a_clean_shutdown_hands_the_right_over() {
    let cluster = Cluster::new(&["alpha", "beta"]);
    let (alpha, beta) = in_sync(&cluster).await;
    fill(&alpha, 1, 0, 1 << 20).await;
    assert_equal_images(&cluster, &alpha).await;
    beta.promote(Force::No).await;
    fill(&beta, 2, 0, 1 << 20).await;
    beta.stop().await;
    let status = alpha.status().await;
    assert_eq!(status.disk, DiskState::UpToDate, "P1: beta left cleanly");
    alpha.promote(Force::No).await;
    let read = alpha.client(|client| client.read(0, 1 << 20)).await.expect("served");
    assert!(read == pattern(2, 1 << 20));
    alpha.stop().await;
}

#[tokio::test]
async fn two_forced_promotions_are_found_and_resolved() {
    let cluster = Cluster::new(&["alpha", "beta"]);
    let (alpha, beta) = in_sync(&cluster).await;
    alpha.crash().await;
    beta.wait("noticed", |status| status.disk == DiskState::Consistent).await;
    beta.promote(Force::Yes).await;
    fill(&beta, 2, 0, 100_000).await;
    beta.crash().await;
    let alpha = cluster.start("alpha").await;
    alpha.wait("primary again (P7)", |status| status.role == Role::Primary).await;
    fill(&alpha, 1, 1 << 20, 100_000).await;
    let beta = cluster.start("beta").await;
    for node in [&alpha, &beta] {
        let is_split = |status: &VolumeStatus| status.peers[0].replication == Replication::SplitBrain;
        let status = node.wait("split", is_split).await;
        assert!(status.problems.iter().any(|problem| problem.code == ProblemCode::SplitBrain), "{status:#?}");
    }
    let images = (cluster.image("alpha"), cluster.image("beta"));
    assert!(slice(&images.0, 1 << 20, 100_000) == pattern(1, 100_000));
    assert!(slice(&images.1, 0, 100_000) == pattern(2, 100_000), "no byte has moved");
    // What is discarded may not be in use.
    beta.command(VolumeCommand::Secondary { force: true }).await;
    let discard = || VolumeCommand::Resolve { discard: "beta".into() };
    for node in [&beta, &alpha] {
        node.command(discard()).await;
    }
    alpha.wait("in sync", is_in_sync).await;
    beta.wait("in sync", is_in_sync).await;
    alpha.promote(Force::No).await;
    let image = assert_equal_images(&cluster, &alpha).await;
    assert!(slice(&image, 1 << 20, 100_000) == pattern(1, 100_000));
    assert!(slice(&image, 0, 100_000).iter().all(|&byte| byte == 0), "what beta wrote is gone");
    alpha.stop().await;
    beta.stop().await;
}

#[tokio::test]
async fn a_new_node_is_filled_whole_while_the_primary_serves() {
    let cluster = Cluster::new(&["alpha", "beta"]);
    let (alpha, beta) = in_sync(&cluster).await;
    fill(&alpha, 1, 0, usize::try_from(SIZE / 2).expect("small")).await;
    beta.stop().await;
    for file in ["r0.img", "r0.meta"] {
        std::fs::remove_file(cluster.path("beta", file)).expect("it was made");
    }
    let beta = cluster.start("beta").await;
    let load = alpha.client(|client| {
        for round in 0..200 {
            client.write(round * 40_000, &pattern(round, 4096))?;
        }
        client.flush()
    });
    let (load, _) = tokio::join!(load, beta.wait("filled", is_in_sync));
    load.expect("served");
    alpha.wait("in sync", is_in_sync).await;
    assert_equal_images(&cluster, &alpha).await;
    alpha.stop().await;
    beta.stop().await;
}

#[tokio::test]
async fn a_disconnected_peer_stays_away_until_it_is_wanted() {
    let cluster = Cluster::new(&["alpha", "beta"]);
    let (alpha, beta) = in_sync(&cluster).await;
    assert_eq!(alpha.command(VolumeCommand::Disconnect { peer: None }).await, OperatorAnswer::Done);
    alpha.wait("disconnected", |status| status.peers[0].connection == Connection::Disconnected).await;
    beta.wait("outdated (P1)", |status| status.disk == DiskState::Outdated).await;
    fill(&alpha, 1, 0, 100_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(alpha.status().await.peers[0].connection, Connection::Disconnected);
    assert_eq!(
        alpha.command(VolumeCommand::Connect { peer: Some("beta".into()) }).await,
        OperatorAnswer::Done
    );
    alpha.wait("in sync", is_in_sync).await;
    beta.wait("in sync", is_in_sync).await;
    assert_equal_images(&cluster, &alpha).await;
    alpha.stop().await;
    beta.stop().await;
}
