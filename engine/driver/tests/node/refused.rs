//! Files that must not be opened (rules D2-D4): each is refused with a code, the others serve.

use std::fs;

use evenkeel_core::volume::{DiskState, operator::Force};
use evenkeel_driver::node::{CommandError, CreateOrigin, ProblemCode, VolumeCommand};

use crate::{
    client::Failure,
    rig::{Cluster, Running, SIZE, VOLUME},
};

/// The node runs, its volume is Diskless with this problem, and clients and commands are told so.
async fn assert_refused(node: &Running, code: ProblemCode) {
    let status = node.status().await;
    assert_eq!(status.disk, DiskState::Diskless);
    let problem = status.problems.first().expect("a problem");
    assert_eq!(problem.code, code, "{}", problem.text);
    assert!(!problem.text.is_empty() && !problem.remedy.is_empty());
    assert!(matches!(node.client(|client| client.read(0, 512)).await, Err(Failure::Refused(..))));
    let answer = node.handle.command(VOLUME, VolumeCommand::Primary(Force::Inconsistent)).await;
    assert!(matches!(answer, Err(CommandError::NotOpen { .. })), "{answer:?}");
}

/// A cluster whose one node has made its volume and left.
async fn made() -> Cluster {
    let cluster = Cluster::new(&["alpha"]);
    cluster.start("alpha").await.stop().await;
    cluster
}

#[tokio::test]
async fn one_of_the_two_files_missing_is_refused_and_nothing_is_made() {
    for (missing, code) in [("r0.img", ProblemCode::DataMissing), ("r0.meta", ProblemCode::MetaMissing)] {
        let cluster = made().await;
        let path = cluster.path("alpha", missing);
        fs::remove_file(&path).expect("it was made");
        let node = cluster.start("alpha").await;
        assert_refused(&node, code).await;
        assert!(!path.exists(), "{missing} was made again");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_remembered_volume_is_made_anew_as_inconsistent() {
    let cluster = Cluster::new(&["alpha", "beta"]);
    let node = cluster.start("alpha").await;
    assert_eq!(node.status().await.disk, DiskState::Inconsistent, "fresh: nothing is known of it yet");
    node.stop().await;
    for file in ["r0.img", "r0.meta"] {
        fs::remove_file(cluster.path("alpha", file)).expect("it was made");
    }
    let node = cluster.start("alpha").await;
    let created: Vec<_> =
        node.handle.events().since(0).events.into_iter().filter(|event| event.kind == "created").collect();
    assert_eq!(created.len(), 1);
    assert!(created[0].text.contains("filled by a peer"), "{}", created[0].text);
    assert_eq!(node.status().await.disk, DiskState::Inconsistent);
    node.stop().await;
}

#[tokio::test]
async fn shorter_longer_and_damaged_files_are_refused() {
    let set_len = |cluster: &Cluster, file: &str, len: u64| {
        let file = fs::OpenOptions::new().write(true).open(cluster.path("alpha", file)).expect("it was made");
        file.set_len(len).expect("it can be cut");
    };
    for (file, len, code) in [
        ("r0.img", SIZE - 4096, ProblemCode::Truncated),
        ("r0.img", SIZE + 4096, ProblemCode::SizeDiffers),
        ("r0.meta", 200_000, ProblemCode::Truncated),
        ("r0.meta", 0, ProblemCode::Truncated),
    ] {
        let cluster = made().await;
        set_len(&cluster, file, len);
        let node = cluster.start("alpha").await;
        assert_refused(&node, code).await;
        node.stop().await;
    }
    let cluster = made().await;
    let len = fs::metadata(cluster.path("alpha", "r0.meta")).expect("there").len();
    fs::write(cluster.path("alpha", "r0.meta"), vec![0xa5; usize::try_from(len).expect("small")])
        .expect("written");
    let node = cluster.start("alpha").await;
    assert_refused(&node, ProblemCode::MetaDamaged).await;
    node.stop().await;
}

#[tokio::test]
async fn metadata_of_another_volume_are_refused_and_the_good_volume_serves() {
    let cluster = Cluster::new(&["alpha"]);
    let mut settings = cluster.settings("alpha");
    settings.volumes.push(cluster.volume("alpha", "r1"));
    cluster.start_with(settings.clone()).await.stop().await;
    fs::copy(cluster.path("alpha", "r1.meta"), cluster.path("alpha", "r0.meta")).expect("copied");
    let node = cluster.start_with(settings).await;
    assert_refused(&node, ProblemCode::Foreign).await;
    assert_eq!(node.status_of("r1").await.disk, DiskState::UpToDate);
    node.stop().await;
}

#[tokio::test]
async fn a_second_daemon_on_the_same_files_is_refused() {
    let cluster = Cluster::new(&["alpha"]);
    let first = cluster.start("alpha").await;
    let mut settings = cluster.settings("alpha");
    settings.listen.set_port(0);
    settings.state_dir = cluster.path("alpha", "other-state");
    let socket_of_first = cluster.path("alpha", "nbd.sock");
    fs::rename(&socket_of_first, cluster.path("alpha", "first.sock")).expect("moved");
    let second = cluster.start_with(settings).await;
    assert_refused(&second, ProblemCode::Busy).await;
    second.stop().await;
    assert_eq!(first.status().await.disk, DiskState::UpToDate);
    first.stop().await;
}

#[tokio::test]
async fn existing_data_are_adopted_or_overwritten_only_on_command() {
    let cluster = Cluster::new(&["alpha"]);
    let image = vec![0x5a; usize::try_from(SIZE).expect("small")];
    fs::write(cluster.path("alpha", "r0.img"), &image).expect("written");
    let node = cluster.start("alpha").await;
    assert_refused(&node, ProblemCode::MetaMissing).await;
    node.handle.create(VOLUME, CreateOrigin::Adopt).await.expect("adopted");
    assert_eq!(node.status().await.disk, DiskState::UpToDate);
    node.promote(Force::No).await;
    let read = node.client(|client| client.read(1 << 20, 4096)).await.expect("served");
    assert!(read == [0x5a; 4096], "the data are as they were (D1)");
    let again = node.handle.create(VOLUME, CreateOrigin::Blank).await;
    assert!(matches!(again, Err(CommandError::Refused(_))), "{again:?}");
    node.stop().await;
}
